import { pino } from 'pino'
import type { Event } from '../../src/intake/event.ts'
import { openJournal } from '../../src/journal/journal.ts'
import { temporaryFolder } from './receiver.ts'

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
