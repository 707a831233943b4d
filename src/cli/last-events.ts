import type { Logger } from 'pino'
import { follow, type JournalledEvent, type Position } from '../journal/follow.ts'
import { type Selection, startOf } from './selection.ts'

export interface LastEventsParts {
  readonly dataDir: string
  readonly selection: Selection
  readonly count: number
  readonly signal: AbortSignal
  readonly log: Logger
  readonly onRead?: (position: Position) => void
}

export interface LastEvents {
  readonly events: readonly JournalledEvent[]
  /** How many are chosen; of all that there are nobody counts more than was asked for. */
  readonly total: number
  /** Where the journal ended. */
  readonly position: Position
}

/** The last events that are chosen: which they are is known only at the end of the journal. */
export async function readLastEvents(parts: LastEventsParts): Promise<LastEvents> {
  const { dataDir, selection, count, signal, log, onRead } = parts
  let position = await startOf(dataDir, selection, count)
  let events: JournalledEvent[] = []
  let total = 0
  for await (const batch of follow({ dataDir, from: position, signal, wait: false, needle: selection.needle, log })) {
    position = batch.position
    const chosen = batch.entries.flatMap(({ event }) => (selection.matches(event) ? event : []))
    total += chosen.length
    events.push(...chosen)
    // Not one by one: to shift a long list is to move it.
    if (events.length > 2 * count + 1000) events = lastOf(events, count)
    onRead?.(position)
  }
  return { events: lastOf(events, count), total, position }
}

function lastOf<T>(list: T[], count: number): T[] {
  return list.slice(Math.max(0, list.length - count))
}
