import type { Logger } from 'pino'
import { type Config, ConfigError } from '../config/config.ts'
import { followedSegment, settleFirstStart } from '../queue/sqlite/queue.ts'
import { importPath, importType } from '../intake/import-route.ts'
import type { Event } from '../intake/event.ts'
import { openJournal } from '../journal/journal.ts'
import { findHolder, lockDataDir } from '../journal/lock.ts'
import { isJournalEmpty } from '../journal/segments.ts'
import { askAdmin } from './admin.ts'

/** Adds events to the journal of a receiver. */
export interface Appender {
  /** Resolves when they are on disk. A few hundred at once are enough. */
  readonly append: (events: readonly Event[]) => Promise<void>
  readonly close: () => Promise<void>
}

/** Through the receiver that runs, or in the place of one that is stopped. */
export function openAppender(config: Config, log: Logger): Promise<Appender> | Appender {
  return findHolder(config.dataDir, 'receiver') ? throughReceiver(config) : inItsPlace(config, log)
}

function throughReceiver({ tokens: [token] }: Config): Appender {
  if (token === undefined) throw new ConfigError(['B24_APPLICATION_TOKEN is not set'])
  return {
    async append(events) {
      const { status, body } = await askAdmin(importPath, {
        method: 'POST',
        headers: { 'content-type': importType, authorization: `Bearer ${token.value}` },
        body: events.map((event) => `${JSON.stringify({ level: 30, ...event })}\n`).join(''),
      })
      if (status !== 200)
        throw new Error(`the receiver answered ${status} ${JSON.stringify(body)}; what it took, it has`)
    },
    close: () => Promise.resolve(),
  }
}

async function inItsPlace({ dataDir, segmentSize, databaseUrl }: Config, log: Logger): Promise<Appender> {
  // Whoever reloads finds us in the receiver's place, and would end us.
  process.on('SIGUSR2', () => undefined)
  const lock = lockDataDir(dataDir, 'receiver')
  try {
    const usedNumber = databaseUrl === undefined ? followedSegment(dataDir) : 0
    const journal = await openJournal({ dataDir, segmentSize, usedNumber, log })
    settleFirstStart(dataDir, await isJournalEmpty(dataDir))
    return {
      append: async (events) => void (await Promise.all(events.map((event) => journal.append(event)))),
      async close() {
        await journal.close()
        lock.release()
      },
    }
  } catch (error) {
    lock.release()
    throw error
  }
}
