import type { JournalledEvent } from '../events/event.ts'
import { positionBefore, positionOfLast } from '../journal/follow.ts'
import { oldest, type Position } from '../journal/position.ts'
import { parseDuration } from '../lib/duration.ts'
import { matcherOf } from '../lib/pattern.ts'
import { printableJson } from '../lib/printable.ts'
import { UsageError } from './usage-error.ts'

/** The options with which commands choose events. */
export const selectionOptions = {
  event: {
    type: 'string',
    multiple: true,
    value: 'PATTERN',
    description: 'events of this name; * stands for any characters; may be given again',
  },
  object: { type: 'string', value: 'OBJECT', description: 'events about this object, such as deal:662' },
  webhook: { type: 'string', value: 'NAME', description: 'events that came with the token of this name' },
  since: { type: 'string', value: 'TIME', description: 'from then on: 30m, 2h, 7d ago, or 2026-11-23T08:00:00Z' },
  until: { type: 'string', value: 'TIME', description: 'before then; written as for --since' },
} as const

export interface Selection {
  readonly since: Date | undefined
  /** A text that the line of every chosen event contains. */
  readonly needle: string | undefined
  /** There is no filter: every event is chosen. */
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
    // The text that the fewest lines contain.
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

/**
 * Returns the field as a line contains it. The same text may also occur within `data`. An older version left some
 * characters unescaped, so for a field with such characters there is no such text.
 */
function needleOf(field: Readonly<Record<string, string | undefined>>): string | undefined {
  const text = JSON.stringify(field).slice(1, -1)
  return text === '' || printableJson(text) !== text ? undefined : text
}

/** Parses the requested number of events. @throws {UsageError} */
export function parseCount(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new UsageError('-n takes a whole number')
  return Number(text)
}

/** Returns where reading begins for the last `count` chosen events, or for all of them. */
export async function startOf(
  dataDir: string,
  { since, isAll }: Selection,
  count = Number.POSITIVE_INFINITY,
): Promise<Position> {
  if (since !== undefined) return positionBefore(dataDir, since)
  return isAll ? positionOfLast(dataDir, count) : oldest
}

/** @param word the option with this value */
export function parseTime(word: string, text: string | undefined, now: Date): Date | undefined {
  if (text === undefined) return undefined
  const ago = parseDuration(text)
  const time = new Date(ago === undefined ? text : now.getTime() - ago)
  if ((ago === undefined && !/^\d{4}-\d\d-\d\d/.test(text)) || Number.isNaN(time.getTime()))
    throw new UsageError(`${word} takes how long ago, such as 30m or 7d, or a time such as 2026-11-23T08:00:00Z`)
  return time
}
