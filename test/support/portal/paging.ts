import { asText, isJsonObject, type Json, type JsonObject, phpEntries } from './php.ts'

const pageSize = 50

/**
 * A page of rows: `filter` by equality or, with `>` or `>=` before the name, by number or time; `order` by one field; `start` is an
 * offset, and -1 asks not to count (https://apidocs.bitrix24.com/settings/performance/huge-data.html).
 */
export function page(rows: readonly JsonObject[], params: JsonObject) {
  const filter = isJsonObject(params['filter'] ?? params['FILTER']) ? (params['filter'] ?? params['FILTER']) : undefined
  const order = phpEntries(params['order'] ?? params['ORDER'])[0]
  const start = Number(params['start'] ?? params['START'] ?? 0)
  const found = rows.filter((row) => phpEntries(filter).every(([name, wanted]) => isWanted(row, name, wanted)))
  if (order) {
    const [name, direction] = order
    const sign = asText(direction).toUpperCase() === 'DESC' ? -1 : 1
    found.sort((a, b) => sign * (Number(read(a, name)) - Number(read(b, name))))
  }
  if (start < 0) return { rows: found.slice(0, pageSize) }
  const next = start + pageSize
  return { rows: found.slice(start, next), total: found.length, ...(next < found.length && { next }) }
}

function isWanted(row: JsonObject, name: string, wanted: Json): boolean {
  if (name.startsWith('>=')) return toNumber(read(row, name.slice(2))) >= toNumber(wanted)
  if (name.startsWith('>')) return toNumber(read(row, name.slice(1))) > toNumber(wanted)
  const value = read(row, name.replace(/^=/, ''))
  return Array.isArray(wanted) ? wanted.some((one) => asText(one) === asText(value)) : asText(value) === asText(wanted)
}

/** A number, or a time in whole seconds. */
function toNumber(value: Json): number {
  const text = asText(value)
  return /^\d{4}-\d\d-\d\dT/.test(text) ? Math.floor(Date.parse(text) / 1000) : Number(value)
}

/** Tasks are asked for by `ID` and `CHANGED_DATE`, and come with `id` and `changedDate`. */
function read(row: JsonObject, name: string): Json {
  const camelCase = name.toLowerCase().replace(/_(.)/g, (_, letter: string) => letter.toUpperCase())
  return row[name] ?? row[camelCase] ?? null
}
