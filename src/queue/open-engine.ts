import type { Logger } from 'pino'
import { createBudget } from '../bitrix24/budget.ts'
import { type Engine, type EngineDeps, findStart } from './engine.ts'
import { readIdentity } from './identity.ts'
import { createLoopBreaker } from './loop-breaker.ts'
import { checkQueueFile, explainQueueFile } from './sqlite/integrity.ts'
import { openSqliteOwnChanges } from './sqlite/own-changes.ts'
import { knownHandlers, openSqliteQueue, queuePath } from './sqlite/queue.ts'

/** Call this while the process has the data directory for itself. */
export async function openEngine(deps: EngineDeps): Promise<Engine> {
  const { databaseUrl: url } = deps.config
  if (url === undefined) return openEmbedded(deps)
  // An installation without Postgres does not load its client.
  const { openPostgresEngine } = await import('./postgres/engine.ts')
  return openPostgresEngine({ ...deps, url })
}

/** The handlers that ever ran. Another dispatcher may be running. */
export async function findKnownHandlers({ config, log, onTrouble }: EngineDeps): Promise<string[]> {
  const { databaseUrl: url, dataDir } = config
  if (url === undefined) return knownHandlers(dataDir)
  const { openDatabase } = await import('./postgres/database.ts')
  const database = await openDatabase({ url, log, onTrouble })
  const rows = await database.persist(() => database.query('SELECT name FROM b24_receiver.handler ORDER BY name'))
  await database.close()
  return rows.map(({ name }) => String(name))
}

async function openEmbedded({ config: { dataDir }, log }: EngineDeps): Promise<Engine> {
  const path = queuePath(dataDir)
  const { queue, ownChanges } = await openFile(path, log)
  return {
    queue,
    ownChanges,
    loopBreaker: createLoopBreaker(),
    openBudget: createBudget,
    startPosition: () =>
      findStart({ queue, dataDir }, (misfit) => {
        if (isInPostgres(dataDir))
          return 'the deliveries are in Postgres: set DATABASE_URL, or run "b24-receiver migrate embedded"'
        return misfit
          ? `${path} does not fit its journal: ${misfit}`
          : `${path} does not say how far the journal was followed: it was lost, or the journal was`
      }),
    async close() {
      await ownChanges.close()
      await queue.close()
    },
  }
}

async function openFile(path: string, log: Logger) {
  // A damaged file may answer every query of the queue without an error.
  await checkQueueFile(path)
  try {
    const onUnreadable = (what: string) => log.warn({ what }, 'a row of dispatch.db cannot be read')
    const queue = openSqliteQueue({ path, onUnreadable })
    return { queue, ownChanges: openSqliteOwnChanges({ path, onUnreadable }) }
  } catch (error) {
    throw explainQueueFile(error, path)
  }
}

function isInPostgres(dataDir: string): boolean {
  try {
    return readIdentity(dataDir) !== undefined
  } catch {
    // The identity exists, even though it cannot be read.
    return true
  }
}
