import { pino } from 'pino'
import { timeOfId } from '../journal/event-id.ts'
import { follow, type JournalledEvent, oldest, positionBefore } from '../journal/follow.ts'
import { fits, type StoredAbout } from './stored.ts'

/**
 * The event of a delivery, from the journal: the line of that id, if it is also of that name and object. `undefined` where
 * the journal has no such line, or is another machine's.
 */
export async function findInJournal(dataDir: string, about: StoredAbout): Promise<JournalledEvent | undefined> {
  const { signal } = new AbortController()
  // Whoever follows has told of the lines that are no events.
  const log = pino({ level: 'silent' })
  // An id begins with its time, so most of the journal need not be read, unless a clock was put back.
  for (const from of [await positionBefore(dataDir, new Date(timeOfId(about.id) || 0)), oldest])
    for await (const { entries } of follow({
      dataDir,
      from,
      signal,
      wait: false,
      needle: `"id":${JSON.stringify(about.id)}`,
      log,
    })) {
      const found = entries.find(({ event }) => event.erased !== true && fits(event, about))
      if (found) return found.event
    }
  return undefined
}
