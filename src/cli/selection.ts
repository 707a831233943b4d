import { parseDuration } from '../config/values.ts'
import { matcherOf } from '../lib/pattern.ts'
import { type JournalledEvent, oldest, type Position, positionBefore, positionOfLast } from '../journal/follow.ts'
import { printableJson } from '../lib/printable.ts'
import { UsageError } from './usage-error.ts'

/** The words by which commands choose events. */
export const selectionOptions = {
  event: {
    type: 'string',
    multiple: true,
    value: 'PATTERN',
    about: 'events of this name; * stands for any characters; may be given again',
  },
  object: { type: 'string', value: 'OBJECT', about: 'events about this object, such as deal:662' },
  webhook: { type: 'string', value: 'NAME', about: 'events that came with the token of this name' },
  since: { type: 'string', value: 'TIME', about: 'from then on: 30m, 2h, 7d ago, or 2026-11-23T08:00:00Z' },
  until: { type: 'string', value: 'TIME', about: 'before then; written as for --since' },
} as const

export interface Selection {
  readonly since: Date | undefined
  /** A text that the line of each event meant holds. */
  readonly needle: string | undefined
  /** Nothing is chosen: every event is meant. */
  readonly isAll: boolean
  readonly matches: (event: JournalledEvent) => boolean
}

export interface SelectionValues {
  readonly event: readonly string[]
  readonly object: string | undefined
  readonly webhook: string | undefined
  readonly since: string | undefined
  readonly until: string | undefined
}

/** @throws {UsageError} */
export function parseSelection(values: SelectionValues, now = new Date()): Selection {
  const { event: patterns, object, webhook } = values
  for (const pattern of patterns)
    if (!/^[\w.*]+$/.test(pattern)) throw new UsageError(`--event ${pattern} is no name or pattern such as ONCRMDEAL*`)
  const since = parseTime('--since', values.since, now)
  const until = parseTime('--until', values.until, now)
  const names = patterns.map((pattern) => pattern.toUpperCase())
  const [name] = names.length === 1 && !names[0]?.includes('*') ? names : []
  const isNamed = patterns.length === 0 ? () => true : matcherOf(names)
  return {
    since,
    // The one that the fewest lines hold.
    needle: needleOf({ object }) ?? needleOf({ webhook }) ?? needleOf({ event: name }),
    isAll: patterns.length === 0 && [object, webhook, since, until].every((value) => value === undefined),
    matches: (event) =>
      isNamed(event.event) &&
      (object === undefined || event.object === object) &&
      (webhook === undefined || event.webhook === webhook) &&
      (since === undefined || new Date(event.time) >= since) &&
      (until === undefined || new Date(event.time) < until),
  }
}

/** As it stands on a line; within `data` it may stand, too. What an older version did not escape may stand there both ways. */
function needleOf(field: Readonly<Record<string, string | undefined>>): string | undefined {
  const text = JSON.stringify(field).slice(1, -1)
  return text === '' || printableJson(text) !== text ? undefined : text
}

/** How many are wanted. @throws {UsageError} */
export function parseCount(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new UsageError('-n takes a whole number')
  return Number(text)
}

/** Where to begin to read for the last `count` of those that are chosen, or for all of them. */
export async function startOf(
  dataDir: string,
  { since, isAll }: Selection,
  count = Number.POSITIVE_INFINITY,
): Promise<Position> {
  if (since !== undefined) return positionBefore(dataDir, since)
  return isAll ? positionOfLast(dataDir, count) : oldest
}

/** @param word that it is the value of */
export function parseTime(word: string, text: string | undefined, now: Date): Date | undefined {
  if (text === undefined) return undefined
  const ago = parseDuration(text)
  const time = new Date(ago === undefined ? text : now.getTime() - ago)
  if ((ago === undefined && !/^\d{4}-\d\d-\d\d/.test(text)) || Number.isNaN(time.getTime()))
    throw new UsageError(`${word} takes how long ago, such as 30m or 7d, or a time such as 2026-11-23T08:00:00Z`)
  return time
}
