import type { Params } from '../bitrix24/commands.ts'
import { unixSeconds } from '../bitrix24/last-change.ts'
import { crmEventsOf, crmItemTypes } from '../events/crm-types.ts'
import type { FormValue } from '../events/form.ts'
import { isObject } from '../lib/is-object.ts'

/** A kind of record that can be listed by its last change. */
export interface Target {
  /** The name in a command or setting: `deal`, `item:1032`. */
  readonly name: string
  readonly method: string
  /** Parameters for the next page: records with a greater id that changed at this time or later. */
  readonly params: (after: string, since: Date | undefined) => Params
  /** @throws {TypeError} when the portal returned something else */
  readonly rows: (result: unknown) => readonly Row[]
  /** The event that the change would have caused. */
  readonly event: (row: Row, what: 'add' | 'update') => { readonly event: string; readonly data: FormValue }
}

/** The fields of a record that a backfill reads. */
export interface Row {
  readonly id: string
  /** Unix seconds, by the portal's clock. */
  readonly created: number
  readonly changed: number
}

/** Records on one page of a list, the maximum of Bitrix24. */
export const pageSize = 50

export const targetNames = [...crmItemTypes.map(({ kind }) => kind), 'item:<type>', 'task']

/**
 * Parses `deal,lead,item:1032,task`.
 *
 * @throws {TypeError} that lists the valid names
 */
export function parseTargets(text: string): readonly Target[] {
  const names = text.split(',').map((name) => name.trim())
  const twice = names.find((name, at) => names.indexOf(name) < at)
  if (twice !== undefined) throw new TypeError(`${twice} is named twice`)
  return names.map((name) => {
    const type = crmItemTypes.find(({ kind }) => kind === name)
    const [, dynamic] = /^item:(\d{1,9})$/.exec(name) ?? []
    if (type !== undefined) return item(name, type.id)
    if (dynamic !== undefined) return item(name, Number(dynamic))
    if (name === 'task') return task
    throw new TypeError(`"${name}" cannot be backfilled: it is one of ${targetNames.join(', ')}`)
  })
}

/**
 * https://apidocs.bitrix24.com/api-reference/crm/universal/crm-item-list.html;
 * with `start: -1` the portal does not count.
 */
function item(name: string, entityTypeId: number): Target {
  return {
    name,
    method: 'crm.item.list',
    params: (after, since) => ({
      entityTypeId,
      select: ['id', 'createdTime', 'updatedTime'],
      order: { id: 'ASC' },
      filter: { '>id': after, ...(since && { '>=updatedTime': since.toISOString() }) },
      start: -1,
    }),
    rows: (result) => rowsOf(result, 'items', ['createdTime', 'updatedTime']),
    event: ({ id }, what) => ({
      event: crmEventsOf(name) + what.toUpperCase(),
      data: { FIELDS: { ID: id, ...(name.startsWith('item:') && { ENTITY_TYPE_ID: String(entityTypeId) }) } },
    }),
  }
}

/** https://apidocs.bitrix24.com/api-reference/tasks/tasks-task-list.html */
const task: Target = {
  name: 'task',
  method: 'tasks.task.list',
  params: (after, since) => ({
    select: ['ID', 'CREATED_DATE', 'CHANGED_DATE'],
    order: { ID: 'asc' },
    filter: { '>ID': after, ...(since && { '>=CHANGED_DATE': since.toISOString() }) },
  }),
  rows: (result) => rowsOf(result, 'tasks', ['createdDate', 'changedDate']),
  event: ({ id }, what) => ({
    event: what === 'add' ? 'ONTASKADD' : 'ONTASKUPDATE',
    data: {
      FIELDS_BEFORE: what === 'add' ? 'undefined' : { ID: id },
      FIELDS_AFTER: { ID: id },
      IS_ACCESSIBLE_BEFORE: what === 'add' ? 'N' : 'undefined',
      IS_ACCESSIBLE_AFTER: 'undefined',
    },
  }),
}

function rowsOf(result: unknown, name: string, [created, changed]: readonly [string, string]): Row[] {
  const list = isObject(result) ? result[name] : undefined
  if (!Array.isArray(list)) throw new TypeError(`the portal gave no list of ${name}`)
  return list.map((row: unknown) => {
    const { id, ...times } = isObject(row) ? row : {}
    // A task that was never changed may have no time of change.
    const [createdAt, changedAt = createdAt] = [unixSeconds(times[created]), unixSeconds(times[changed])]
    if ((typeof id !== 'string' && typeof id !== 'number') || createdAt === undefined || changedAt === undefined)
      throw new TypeError(`the portal gave ${name} without id or times`)
    return { id: String(id), created: createdAt, changed: changedAt }
  })
}
