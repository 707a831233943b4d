import { isObject } from '../lib/is-object.ts'
import { textOf } from './answer.ts'

/** The user who last changed a record, and the second of the change: Bitrix24 reports nothing more precise. */
export interface LastChange {
  /** Unix seconds, by the portal's clock. */
  readonly at: number
  readonly user: string
}

/** The field names of crm.item.get, tasks.task.get, crm.deal.get and similar methods, and crm.activity.get. */
const fields = [
  ['updatedTime', 'updatedBy'],
  ['changedDate', 'changedBy'],
  ['DATE_MODIFY', 'MODIFY_BY_ID'],
  ['LAST_UPDATED', 'EDITOR_ID'],
] as const

/**
 * Reads a record, also inside `item` or `task`, as some answers contain it. Returns `undefined` if the time or the
 * user is missing.
 */
export function lastChangeOf(record: unknown): LastChange | undefined {
  if (!isObject(record)) return undefined
  for (const [time, user] of fields) {
    const at = unixSeconds(record[time])
    const by = textOf(record[user])
    if (at !== undefined && by !== '') return { at, user: by }
  }
  return lastChangeOf(record['item'] ?? record['task'])
}

/** A time without a zone is ambiguous. */
export function unixSeconds(time: unknown): number | undefined {
  if (typeof time !== 'string' || !/^\d{4}-\d\d-\d\dT.*(?:Z|[+-]\d\d:\d\d)$/.test(time)) return undefined
  const ms = Date.parse(time)
  return Number.isNaN(ms) ? undefined : Math.floor(ms / 1000)
}
