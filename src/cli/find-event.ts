import type { Logger } from 'pino'
import { clockSlackMs, timeOfId } from '../journal/event-id.ts'
import { type Entry, positionBefore, readJournal } from '../journal/follow.ts'
import { oldest, type Position } from '../journal/position.ts'

const lengthOfId = 36

/** Returns whether a text in lower case is an id, or the beginning of one. */
export function isIdStart(text: string): boolean {
  return /^[\da-f-]{8,36}$/.test(text)
}

/** Returns where the search for events with these ids begins. An import writes events later than their ids say. */
export function positionBeforeIds(dataDir: string, ids: Iterable<string>): Promise<Position> {
  let first = Number.POSITIVE_INFINITY
  for (const id of ids) first = Math.min(first, timeOfId(id))
  return positionBefore(dataDir, new Date(first - clockSlackMs))
}

/** The maximum number of events listed if the beginning of an id matches several. */
const maxListed = 20

export interface Found {
  /** The first of the found events. */
  readonly entries: readonly Entry[]
  /** The number of found events. */
  readonly count: number
}

export interface FindDeps {
  readonly dataDir: string
  /** An id or its beginning, in lower case. */
  readonly id: string
  readonly log: Logger
  readonly onRead: (position: Position) => void
}

/**
 * Returns every event whose id begins this way. An id begins with its time, so most of the journal need not be read.
 */
export async function findEvents({ dataDir, id, log, onRead }: FindDeps): Promise<Found> {
  const found = await search(await positionBefore(dataDir, new Date(timeOfId(id))))
  // The clock may have been set back meanwhile, or the files may be copies whose times are older than their content.
  return found.count > 0 ? found : search(oldest)

  async function search(from: Position): Promise<Found> {
    const entries: Entry[] = []
    let count = 0
    for await (const chunk of readJournal({ dataDir, from, needle: `"id":"${id}`, log })) {
      // `data` may contain an id, too.
      const fitting = chunk.entries.filter(({ event }) => event.id.startsWith(id))
      count += fitting.length
      entries.push(...fitting.slice(0, maxListed - entries.length))
      if (count > 0 && id.length === lengthOfId) break
      onRead(chunk.position)
    }
    return { entries, count }
  }
}
