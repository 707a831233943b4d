import { asText, isJsonObject, type Json, type JsonObject, phpEntries } from './php.ts'

const pageSize = 50

/**
 * A page of rows: `filter` by equality or, with `>` before the name, by number; `order` by one field; `start` is an
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
  if (name.startsWith('>')) return Number(read(row, name.slice(1))) > Number(wanted)
  const value = read(row, name.replace(/^=/, ''))
  return Array.isArray(wanted) ? wanted.some((one) => asText(one) === asText(value)) : asText(value) === asText(wanted)
}

/** Tasks are asked for by `ID` and tell of `id`. */
function read(row: JsonObject, name: string): Json {
  return row[name] ?? row[name.toLowerCase()] ?? null
}
