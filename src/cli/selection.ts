import { parseDuration } from '../config.ts'
import { matcherOf } from '../dispatch/pattern.ts'
import type { JournalledEvent } from '../journal/follow.ts'
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
  const isNamed = patterns.length === 0 ? () => true : matcherOf(patterns.map((pattern) => pattern.toUpperCase()))
  return {
    since,
    needle: object === undefined ? undefined : `"object":${JSON.stringify(object)}`,
    isAll: patterns.length === 0 && [object, webhook, since, until].every((value) => value === undefined),
    matches: (event) =>
      isNamed(event.event) &&
      (object === undefined || event.object === object) &&
      (webhook === undefined || event.webhook === webhook) &&
      (since === undefined || new Date(event.time) >= since) &&
      (until === undefined || new Date(event.time) < until),
  }
}

/** @param word that it is the value of */
export function parseTime(word: string, text: string | undefined, now: Date): Date | undefined {
  if (text === undefined) return undefined
  const ago = parseDuration(text)
  if (ago !== undefined) return new Date(now.getTime() - ago)
  const time = new Date(text)
  if (!/^\d{4}-\d\d-\d\d/.test(text) || Number.isNaN(time.getTime()))
    throw new UsageError(`${word} takes how long ago, such as 30m or 7d, or a time such as 2026-11-23T08:00:00Z`)
  return time
}
