import { pino } from 'pino'
import type { Event } from '../../src/events/event.ts'
import { openJournal } from '../../src/journal/journal.ts'
import { temporaryFolder, until } from './receiver.ts'

export interface WrittenEvent extends Partial<Event> {
  /** When the journal takes it, ISO 8601. */
  readonly at?: string
}

const morning = '2026-11-23T08:00:00.000Z'

/** An id as the receiver makes them: it begins with the time, and here it ends with a number. */
export function idOf(number: number, at = morning): string {
  const hex = new Date(at).getTime().toString(16).padStart(12, '0')
  return `${hex.slice(0, 8)}-${hex.slice(8)}-7000-8000-${String(number).padStart(12, '0')}`
}

/** A data folder whose journal holds these, numbered from 1, each list in a segment of its own, as the receiver writes it. */
export async function writeJournal(...segments: readonly (readonly WrittenEvent[])[]): Promise<string> {
  const dataDir = temporaryFolder('data')
  let number = 0
  for (const events of segments) {
    let now = new Date(events[0]?.at ?? morning)
    const log = pino({ level: 'silent' })
    const journal = await openJournal({ dataDir, segmentSize: 1024 ** 2, log, now: () => now })
    for (const { at = morning, ...event } of events) {
      now = new Date(at)
      const standard = { event: 'ONCRMDEALUPDATE', object: 'deal:662', remote: '203.0.113.7' }
      await journal.append({ id: idOf(++number, at), ...standard, ...event })
    }
    await journal.close()
  }
  return dataDir
}

export interface Feed {
  readonly dataDir: string
  readonly events: number
  /** Of the first; 0. */
  readonly firstId?: number
  /** Whether every 500th is longer than 64 KB. */
  readonly hasLong?: boolean
  /** How many a reader has that follows the stable name; it may be so many behind, which is less than a segment. */
  readonly reader?: { readonly read: () => number; readonly lag: number }
}

const batch = 50

/** Appends events with the ids 0, 1, 2 … over a segment for every 200 of them, and a restart. */
export async function feedJournal({ dataDir, events, firstId = 0, hasLong = false, reader }: Feed): Promise<void> {
  // Some ten lines to a kilobyte.
  const parts = { dataDir, segmentSize: 20 * 1024, log: pino({ level: 'silent' }) }
  let journal = await openJournal(parts)
  for (let id = firstId; id < firstId + events; id += batch) {
    const ids = Array.from({ length: batch }, (_, index) => id + index)
    const appended = ids.map((one) => {
      const data = hasLong && one % 500 === 7 ? { data: { TEXT: '\u00e9'.repeat(40_000) } } : {}
      return journal.append({ id: String(one), event: 'E', object: `deal:${one}`, remote: '203.0.113.7', ...data })
    })
    await Promise.all(appended)
    // A name cannot show what came and went between two looks: no follower of a name may lag by a whole segment. Of 64 MB
    // that is seconds; of these little ones it is waited for.
    if (reader) await until(`the reader has ${id}`, () => reader.read() >= id + batch - reader.lag)
    if (id === firstId + events / 2) {
      await journal.close()
      journal = await openJournal(parts)
    }
  }
  await journal.close()
}
