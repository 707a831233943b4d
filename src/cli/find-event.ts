import type { Logger } from 'pino'
import { timeOfId } from '../journal/event-id.ts'
import { follow, type JournalledEvent, oldest, type Position, positionBefore } from '../journal/follow.ts'

const lengthOfId = 36

/** Where a beginning means several, so many are named. */
const mostNamed = 20

export interface Found {
  /** The first of them. */
  readonly entries: readonly { readonly event: JournalledEvent; readonly at: Position }[]
  /** How many there are. */
  readonly count: number
}

export interface FindParts {
  readonly dataDir: string
  /** An id, or how it begins; lower case. */
  readonly id: string
  readonly log: Logger
  readonly onRead: (position: Position) => void
}

/** Every event whose id begins so. An id begins with its time, so most of the journal need not be read. */
export async function findEvents({ dataDir, id, log, onRead }: FindParts): Promise<Found> {
  const { signal } = new AbortController()
  const found = await search(await positionBefore(dataDir, new Date(timeOfId(id))))
  // The clock may have been put back meanwhile, or the files be copies that are older than what they hold.
  return found.count > 0 ? found : search(oldest)

  async function search(from: Position): Promise<Found> {
    const entries: Found['entries'][number][] = []
    let count = 0
    for await (const batch of follow({ dataDir, from, signal, wait: false, needle: `"id":"${id}`, log })) {
      // In `data` there may be an id, too.
      const fitting = batch.entries.filter(({ event }) => event.id.startsWith(id))
      count += fitting.length
      entries.push(...fitting.slice(0, mostNamed - entries.length))
      if (count > 0 && id.length === lengthOfId) break
      onRead(batch.position)
    }
    return { entries, count }
  }
}
