import type { Logger } from 'pino'
import { createBudget, type OpenBudget } from '../bitrix24/budget.ts'
import type { Config } from '../config/config.ts'
import { misfitOf } from '../journal/fit.ts'
import { oldest, type Position } from '../journal/follow.ts'
import { isJournalEmpty } from '../journal/segments.ts'
import { readIdentity } from './identity.ts'
import { createLoopBreaker, type LoopBreaker } from './loop-breaker.ts'
import { type OwnWrites, openOwnWrites } from './own-changes.ts'
import type { Awaitable, Queue } from './queue.ts'
import { checkQueueFile, explainQueueFile } from './sqlite/integrity.ts'
import { knownHandlers, openSqliteQueue, queuePath } from './sqlite/queue.ts'

/** Where deliveries are, and what is kept per object. */
export interface Engine {
  readonly queue: Queue
  readonly ownWrites: OwnWrites
  readonly loopBreaker: LoopBreaker
  /** Of all that share the engine. */
  readonly openBudget: OpenBudget
  startPosition(): Promise<Start>
  close(): Awaitable<void>
}

/** Where to follow the journal from, or why nobody knows. */
export type Start = { readonly from: Position } | { readonly lost: string }

export interface EngineParts {
  readonly config: Config
  readonly log: Logger
  /** Why the engine cannot be used; `undefined` once it can. */
  readonly onTrouble: (reason: string | undefined) => void
}

const unknown = 'does not say how far the journal was followed: it was lost, or the journal was'

/** To be called while this process has the data directory for itself. */
export async function openEngine(parts: EngineParts): Promise<Engine> {
  const { databaseUrl: url } = parts.config
  if (url === undefined) return openEmbedded(parts)
  // Who has no Postgres does not pay for it.
  const { openPostgresEngine } = await import('./postgres/engine.ts')
  return openPostgresEngine({ ...parts, url })
}

/** The handlers that ever ran, while another dispatcher may be at work. */
export async function findKnownHandlers({ config, log, onTrouble }: EngineParts): Promise<string[]> {
  const { databaseUrl: url, dataDir } = config
  if (url === undefined) return knownHandlers(dataDir)
  const { openDatabase } = await import('./postgres/database.ts')
  const database = await openDatabase({ url, log, onTrouble })
  const rows = await database.persist(() => database.query('SELECT name FROM b24_receiver.handler ORDER BY name'))
  await database.close()
  return rows.map(({ name }) => String(name))
}

async function openEmbedded({ config: { dataDir }, log }: EngineParts): Promise<Engine> {
  const path = queuePath(dataDir)
  const { queue, ownWrites } = await openFile(path, log)
  return {
    queue,
    ownWrites,
    loopBreaker: createLoopBreaker(),
    openBudget: createBudget,
    async startPosition() {
      const position = await queue.position()
      const misfit = position && (await misfitOf(dataDir, position))
      if (position && misfit === undefined) return { from: position }
      if (await isJournalEmpty(dataDir)) {
        await queue.add([], oldest)
        return { from: oldest }
      }
      if (isInPostgres(dataDir))
        return { lost: 'the deliveries are in Postgres: set DATABASE_URL, or run "b24-receiver move embedded"' }
      return { lost: misfit ? `${path} does not fit its journal: ${misfit}` : `${path} ${unknown}` }
    },
    async close() {
      ownWrites.close()
      await queue.close()
    },
  }
}

async function openFile(path: string, log: Logger) {
  // It may be damaged where nothing that is asked of it would notice.
  await checkQueueFile(path)
  try {
    const onUnreadable = (what: string) => log.warn({ what }, 'a row of dispatch.db cannot be read')
    const queue = openSqliteQueue({ path, onUnreadable })
    return { queue, ownWrites: openOwnWrites({ path, onUnreadable }) }
  } catch (error) {
    throw explainQueueFile(error, path)
  }
}

function isInPostgres(dataDir: string): boolean {
  try {
    return readIdentity(dataDir) !== undefined
  } catch {
    // There is one, though nobody can read it.
    return true
  }
}
