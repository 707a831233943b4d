import { pino } from 'pino'
import type { JournalledEvent } from '../events/event.ts'
import { timeOfId } from '../journal/event-id.ts'
import { positionBefore, readJournal } from '../journal/follow.ts'
import { oldest } from '../journal/position.ts'
import { fits, type StoredAbout } from './stored.ts'

/**
 * Finds the event of a delivery in the journal: the line with this id, if its name and object match too. Returns
 * `undefined` if the journal has no such line, or belongs to another machine.
 */
export async function findInJournal(dataDir: string, about: StoredAbout): Promise<JournalledEvent | undefined> {
  // The dispatcher already logs the lines that are not events.
  const log = pino({ level: 'silent' })
  // An id begins with its time, so most of the journal need not be read, unless a clock was put back.
  for (const from of [await positionBefore(dataDir, new Date(timeOfId(about.id) || 0)), oldest])
    for await (const { entries } of readJournal({ dataDir, from, needle: `"id":${JSON.stringify(about.id)}`, log })) {
      const found = entries.find(({ event }) => event.erased !== true && fits(event, about))
      if (found) return found.event
    }
  return undefined
}
