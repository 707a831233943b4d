import { existsSync } from 'node:fs'
import { oldest } from '../../journal/position.ts'
import { isJournalEmpty } from '../../journal/segments.ts'
import { type Engine, type EngineDeps, findStart } from '../engine.ts'
import { heartbeatOf, initIdentity, markKnown } from '../identity.ts'
import { queuePath } from '../sqlite/queue.ts'
import { openPgBudget } from './budget.ts'
import { openDatabase } from './database.ts'
import { openPgLoopBreaker } from './loop-breaker.ts'
import { openPgOwnChanges } from './own-changes.ts'
import { openPgBossQueue } from './queue.ts'

export async function openPostgresEngine({
  url,
  config,
  log,
  onTrouble,
}: EngineDeps & { readonly url: string }): Promise<Engine> {
  const { dataDir, handlerStall } = config
  const identity = initIdentity(dataDir, await isJournalEmpty(dataDir))
  const database = await openDatabase({ url, log, onTrouble })
  const queue = openPgBossQueue({
    database,
    receiver: identity.id,
    // This process has the lock on the data directory, so the previous process of this name is dead.
    worker: identity.id,
    heartbeat: heartbeatOf(handlerStall),
    log,
  })
  return {
    queue,
    ownChanges: openPgOwnChanges({ database }),
    loopBreaker: openPgLoopBreaker({ database }),
    openBudget: (deps) => openPgBudget({ ...deps, database, log }),
    async startPosition() {
      if (existsSync(queuePath(dataDir)))
        return { lost: `${queuePath(dataDir)} still has the deliveries: run "b24-receiver migrate postgres" first` }
      const start = await findStart({ queue, dataDir, isNew: identity.isNew }, (misfit) =>
        misfit
          ? `the position in the database does not fit the journal: ${misfit}`
          : 'the database does not say how far the journal was followed: it was lost, or the journal was',
      )
      if ('from' in start && start.from === oldest) markKnown(dataDir, identity)
      return start
    },
    async close() {
      await queue.close()
      await database.close()
    },
  }
}
