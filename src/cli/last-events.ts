import type { Logger } from 'pino'
import type { JournalledEvent } from '../events/event.ts'
import { readJournal } from '../journal/follow.ts'
import type { Position } from '../journal/position.ts'
import { type Selection, startOf } from './selection.ts'

export interface LastEventsDeps {
  readonly dataDir: string
  readonly selection: Selection
  readonly count: number
  /** Ends the reading early. */
  readonly signal?: AbortSignal
  readonly log: Logger
  readonly onRead?: (position: Position) => void
}

export interface LastEvents {
  readonly events: readonly JournalledEvent[]
  /** The number of chosen events that were read. Without a filter, no more are counted than were requested. */
  readonly total: number
  /** The position at the end of the journal. */
  readonly position: Position
}

/** Returns the last chosen events. They are only known at the end of the journal. */
export async function readLastEvents(deps: LastEventsDeps): Promise<LastEvents> {
  const { selection, count, onRead } = deps
  let position = await startOf(deps.dataDir, selection, count)
  let events: JournalledEvent[] = []
  let total = 0
  for await (const chunk of readJournal({ ...deps, from: position, needle: selection.needle })) {
    position = chunk.position
    const chosen = chunk.entries.flatMap(({ event }) => (selection.matches(event) ? event : []))
    total += chosen.length
    events.push(...chosen)
    // The list is cut in bulk, because shifting a long list moves all of it.
    if (events.length > 2 * count + 1000) events = lastOf(events, count)
    onRead?.(position)
  }
  return { events: lastOf(events, count), total, position }
}

function lastOf<T>(list: T[], count: number): T[] {
  return list.slice(Math.max(0, list.length - count))
}
