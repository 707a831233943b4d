/** The values that a PHP array may hold, as far as Bitrix24 sends them. */
export type PhpValue = string | number | boolean | null | readonly PhpValue[] | PhpArray
export interface PhpArray {
  readonly [key: string]: PhpValue
}

/**
 * PHP's `http_build_query($data)`, with which Bitrix24 writes every body (https://www.php.net/http_build_query). It
 * leaves out null and empty values, and writes true as 1. Only numbers that JavaScript and PHP write alike are
 * correct.
 */
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

export function scalar(value: string | number | boolean): string {
  return typeof value === 'boolean' ? String(Number(value)) : String(value)
}

/** PHP's urlencode, which follows RFC 1738: only letters, digits, `-`, `_` and `.` stay, and a space becomes `+`. */
function encode(text: string): string {
  return encodeURIComponent(text)
    .replaceAll('%20', '+')
    .replace(/[!'()*~]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`)
}
