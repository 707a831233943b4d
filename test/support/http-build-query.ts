/** What a PHP array may hold, as far as Bitrix24 sends it. */
export type PhpValue = string | number | boolean | null | readonly PhpValue[] | PhpArray
export interface PhpArray {
  readonly [key: string]: PhpValue
}

export function isPhpArray(value: unknown): value is PhpArray {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && Object.values(value).every(isPhpValue)
}

function isPhpValue(value: unknown): value is PhpValue {
  if (Array.isArray(value)) return value.every(isPhpValue)
  return value === null || ['string', 'number', 'boolean'].includes(typeof value) || isPhpArray(value)
}

/** PHP's `http_build_query($data)`, which is how Bitrix24 writes every body (DECODING.md §2). */
export function httpBuildQuery(data: PhpArray): string {
  return Object.entries(data)
    .flatMap(([key, value]) => parameters(encode(key), value))
    .join('&')
}

function parameters(name: string, value: PhpValue): string[] {
  if (value === null) return []
  if (typeof value !== 'object') return [`${name}=${encode(scalar(value))}`]
  return Object.entries(value).flatMap(([key, item]) => parameters(`${name}%5B${encode(key)}%5D`, item))
}

function scalar(value: string | number | boolean): string {
  return typeof value === 'boolean' ? String(Number(value)) : String(value)
}

/** PHP's urlencode, which is RFC 1738: only letters, digits, `-`, `_` and `.` stay, a space is `+`. */
function encode(text: string): string {
  return encodeURIComponent(text)
    .replaceAll('%20', '+')
    .replace(/[!'()*~]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`)
}

/** What PHP reads back: everything is a text, null and what is empty is gone, dense keys below the root are a list. */
export function asPhpReadsIt(data: PhpArray): unknown {
  return Object.fromEntries(kept(data))
}

function kept(value: readonly PhpValue[] | PhpArray): [string, unknown][] {
  return Object.entries(value).flatMap(([key, item]): [string, unknown][] => {
    if (item === null) return []
    if (typeof item !== 'object') return [[key, scalar(item)]]
    const entries = kept(item)
    if (entries.length === 0) return []
    const isList = entries.every(([name], index) => name === String(index))
    return [[key, isList ? entries.map(([, inner]) => inner) : Object.fromEntries(entries)]]
  })
}
