import { isObject } from '../lib/is-object.ts'
import { textOf } from './answer.ts'
import type { Command } from './parameters.ts'
import type { Envelope } from './transport.ts'

/** What one page of a list holds unless the method says otherwise. */
const pageSize = 50

/** Fewer rows came than the portal counted, or than there may be. */
export class IncompleteList extends Error {
  override readonly name = 'IncompleteList'
}

/**
 * The rows of all pages: as the portal says with `next`, else as long as its `total` or full pages say that there are
 * more. With `start: -1` it does not count, and pages go by id
 * (https://apidocs.bitrix24.com/settings/performance/huge-data.html).
 *
 * @throws {IncompleteList} after the last row, if there must be others
 * @throws {TypeError} when the method gives no list
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
    // Some methods know no pages: they give the same rows whatever the start.
    const isSame = text === before
    before = text
    // Rows that were deleted meanwhile are not missing: the least that was counted is what must have come.
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

/** Where a list may be asked for from an id on: as the filter names it, and as the rows do. */
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
        `${method} gave ${rows.length} rows and may have more, which start: -1 does not tell: leave start out, or order by id and select it`,
      )
    after = id
  }
}

/** By id and nothing else, or by nothing. */
function isAscending(order: unknown, name: string): boolean {
  const entries = isObject(order) ? Object.entries(order) : []
  return entries.every(([key, way]) => key.toUpperCase() === name.toUpperCase() && textOf(way).toUpperCase() === 'ASC')
}

/** A number, also as a text, as some methods write it. */
function numberOf(value: unknown): number | undefined {
  const text = textOf(value)
  return /^\d+$/.test(text) ? Number(text) : undefined
}

/** The result is the list, or has nothing but it, under a name such as `items` or `tasks`. */
function rowsOf<T>(method: string, result: unknown): T[] {
  if (Array.isArray(result)) return result
  const values: unknown[] = Object.values(Object(result))
  const [only] = values
  if (values.length === 1 && Array.isArray(only)) return only
  throw new TypeError(`${method} gives no list: use call`)
}
