import { isObject } from '../lib/is-object.ts'
import { textOf } from './answer.ts'
import type { Command } from './parameters.ts'
import type { Envelope } from './transport.ts'

/** The number of rows on a page, unless the method documents another number. */
const pageSize = 50

/** Fewer rows came than the portal counted, or than there may be. */
export class IncompleteList extends Error {
  override readonly name = 'IncompleteList'
}

/**
 * Returns the rows of all pages. It follows the portal's `next`. Without that it continues while `total` or a full
 * page says that there are more. With `start: -1` the portal does not count, and the pages go by id
 * (https://apidocs.bitrix24.com/settings/performance/huge-data.html).
 *
 * @throws {IncompleteList} after the last row, if rows must be missing
 * @throws {TypeError} if the method does not return a list
 */
export async function* readPages<T>(
  command: Command,
  request: (command: Command) => Promise<Envelope>,
): AsyncGenerator<T, void, undefined> {
  const start = Number(command.params['start'] ?? command.params['START'] ?? 0)
  if (start < 0) yield* readById<T>(command, request)
  else yield* readByOffset<T>(command, request, start)
}

async function* readByOffset<T>(
  { method, params }: Command,
  request: (command: Command) => Promise<Envelope>,
  first: number,
): AsyncGenerator<T, void, undefined> {
  let start = first
  let total = Number.POSITIVE_INFINITY
  let before: string | undefined
  for (;;) {
    const answer = await request({ method, params: { ...params, start } })
    const rows = rowsOf<T>(method, answer.result)
    const text = JSON.stringify(rows)
    // Some methods have no pages: they return the same rows for every start.
    const isSame = text === before
    before = text
    // Rows deleted meanwhile are not missing, so only the smallest reported total must have come.
    total = Math.min(total, numberOf(answer.total) ?? Number.POSITIVE_INFINITY)
    if (!isSame) yield* rows
    const seen = isSame ? start : start + rows.length
    const next = numberOf(answer.next)
    if (!isSame && next !== undefined && next > start) start = next
    else if (!isSame && rows.length > 0 && (Number.isFinite(total) ? seen < total : rows.length % pageSize === 0))
      start = seen
    else if (Number.isFinite(total) && seen < total)
      throw new IncompleteList(`${method} gave ${seen} of ${total} rows: the list is not whole`)
    else return
  }
}

/** The methods whose lists can start at an id: the id's name in the filter, and its name in the rows. */
function idNames(method: string): readonly [filter: string, row: string] | undefined {
  const name = method.toLowerCase()
  if (name === 'crm.item.list') return ['id', 'id']
  if (name === 'tasks.task.list') return ['ID', 'id']
  return /^crm\.(?:lead|deal|contact|company|quote|activity|requisite)\.list$/.test(name) ? ['ID', 'ID'] : undefined
}

async function* readById<T>(
  { method, params }: Command,
  request: (command: Command) => Promise<Envelope>,
): AsyncGenerator<T, void, undefined> {
  const { order = params['ORDER'], filter = params['FILTER'], ORDER: _order, FILTER: _filter, ...others } = params
  const names = idNames(method)
  const mayContinue = names !== undefined && isAscending(order, names[0])
  let after: string | undefined
  for (;;) {
    const paged = mayContinue
      ? { order: { [names[0]]: 'ASC' }, filter: { ...Object(filter), ...(after && { [`>${names[0]}`]: after }) } }
      : { ...(order !== undefined && { order }), ...(filter !== undefined && { filter }) }
    const { result } = await request({ method, params: { ...others, ...paged } })
    const rows = rowsOf<T>(method, result)
    yield* rows
    if (rows.length < pageSize) return
    const last: unknown = rows.at(-1)
    const id = mayContinue && isObject(last) ? textOf(last[names[1]]) : ''
    if (id === '' || id === after)
      throw new IncompleteList(
        `${method} gave ${rows.length} rows and may have more, but start: -1 hides how many: leave start out, or order by id and select it`,
      )
    after = id
  }
}

/** Returns whether the order is by id only, or not set. */
function isAscending(order: unknown, name: string): boolean {
  const entries = isObject(order) ? Object.entries(order) : []
  return entries.every(([key, way]) => key.toUpperCase() === name.toUpperCase() && textOf(way).toUpperCase() === 'ASC')
}

/** Reads a number, also from a text, as some methods write it. */
function numberOf(value: unknown): number | undefined {
  const text = textOf(value)
  return /^\d+$/.test(text) ? Number(text) : undefined
}

/** The result is the list itself, or contains only the list, under a name such as `items` or `tasks`. */
function rowsOf<T>(method: string, result: unknown): T[] {
  if (Array.isArray(result)) return result
  const values: unknown[] = Object.values(Object(result))
  const [only] = values
  if (values.length === 1 && Array.isArray(only)) return only
  throw new TypeError(`${method} gives no list: use call`)
}
