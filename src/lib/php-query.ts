/** The values that a PHP array may hold, as far as Bitrix24 sends them. */
export type PhpValue = string | number | boolean | null | readonly PhpValue[] | PhpArray
export interface PhpArray {
  readonly [key: string]: PhpValue
}

export interface QueryOptions {
  /** Writes null as an empty text. */
  readonly keepsNull?: boolean
  /** With `PHP_QUERY_RFC3986` a space becomes `%20`, and `~` stays. */
  readonly isRfc3986?: boolean
}

/**
 * PHP's `http_build_query($data)`, with which Bitrix24 writes every body (https://www.php.net/http_build_query). It
 * leaves out null and empty values, and writes true as 1. Only numbers that JavaScript and PHP write alike are
 * correct.
 */
export function httpBuildQuery(data: PhpArray, { keepsNull = false, isRfc3986 = false }: QueryOptions = {}): string {
  const encode = isRfc3986 ? rawUrlEncode : urlEncode
  const parameters = (name: string, value: PhpValue): string[] => {
    if (value === null) return keepsNull ? [`${name}=`] : []
    if (typeof value !== 'object') return [`${name}=${encode(scalar(value))}`]
    return Object.entries(value).flatMap(([key, item]) => parameters(`${name}%5B${encode(key)}%5D`, item))
  }
  return Object.entries(data)
    .flatMap(([key, value]) => parameters(encode(key), value))
    .join('&')
}

export function scalar(value: string | number | boolean): string {
  return typeof value === 'boolean' ? String(Number(value)) : String(value)
}

/** PHP's rawurlencode, which follows RFC 3986: only letters, digits, `-`, `_`, `.` and `~` stay. */
function rawUrlEncode(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`)
}

/** PHP's urlencode, which follows RFC 1738: a space becomes `+`, and `~` is encoded, too. */
function urlEncode(text: string): string {
  return rawUrlEncode(text).replaceAll('%20', '+').replaceAll('~', '%7E')
}
