import { isObject } from '../lib/is-object.ts'
import { textOf } from './answer.ts'

/** Who changed a record last, and in which second: Bitrix24 tells no less. */
export interface LastChange {
  /** Unix seconds, by the portal's clock. */
  readonly at: number
  readonly user: string
}

/** Of crm.item.get, tasks.task.get, crm.deal.get and its like, and crm.activity.get. */
const fields = [
  ['updatedTime', 'updatedBy'],
  ['changedDate', 'changedBy'],
  ['DATE_MODIFY', 'MODIFY_BY_ID'],
  ['LAST_UPDATED', 'EDITOR_ID'],
] as const

/** Reads a record, also within `item` or `task`, as answers have it; `undefined` where time or user is not told. */
export function lastChangeOf(record: unknown): LastChange | undefined {
  if (!isObject(record)) return undefined
  for (const [time, user] of fields) {
    const at = unixSeconds(record[time])
    const by = textOf(record[user])
    if (at !== undefined && by !== '') return { at, user: by }
  }
  return lastChangeOf(record['item'] ?? record['task'])
}

/** Without a zone a time says nothing. */
export function unixSeconds(time: unknown): number | undefined {
  if (typeof time !== 'string' || !/^\d{4}-\d\d-\d\dT.*(?:Z|[+-]\d\d:\d\d)$/.test(time)) return undefined
  const ms = Date.parse(time)
  return Number.isNaN(ms) ? undefined : Math.floor(ms / 1000)
}
