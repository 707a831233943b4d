import type { Logger } from 'pino'
import { type Config, ConfigError } from '../config/config.ts'
import type { Event } from '../events/event.ts'
import { importPath, importType } from '../intake/import-route.ts'
import { openJournal } from '../journal/journal.ts'
import { findHolder, lockDataDir } from '../journal/lock.ts'
import { isJournalEmpty } from '../journal/segments.ts'
import { followedSegment, initFirstStart } from '../queue/sqlite/queue.ts'
import { askAdmin } from './admin.ts'

/** Adds events to the journal of a receiver. */
export interface Appender {
  /** Resolves when the events are on disk. A few hundred in one call are enough. */
  readonly append: (events: readonly Event[]) => Promise<void>
  readonly close: () => Promise<void>
}

/** Uses the running receiver, or replaces one that is stopped. */
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
  // `reload` would find this process in the receiver's place, and its signal would end this process.
  process.on('SIGUSR2', () => undefined)
  const lock = lockDataDir(dataDir, 'receiver')
  try {
    const usedNumber = databaseUrl === undefined ? followedSegment(dataDir) : 0
    const journal = await openJournal({ dataDir, segmentSize, usedNumber, log })
    initFirstStart(dataDir, await isJournalEmpty(dataDir))
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
