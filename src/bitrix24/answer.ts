import { isObject } from '../lib/is-object.ts'
export interface Refused {
  /** `NO_CODE` if the portal sent none, as crm.deal.get does for a missing deal. */
  readonly code: string
  readonly description: string
}

/**
 * Reads `{ error, error_description }`, or `{ error: { code, message } }` of REST 3.0. Returns `undefined` if it is
 * not an error.
 */
export function readRefusal(body: unknown): Refused | undefined {
  if (!isObject(body) || !('error' in body)) return undefined
  const { error } = body
  const code = isObject(error) ? error['code'] : error
  const description = isObject(error) ? error['message'] : body['error_description']
  return { code: textOf(code) || 'NO_CODE', description: textOf(description) || 'no description' }
}

export function textOf(value: unknown): string {
  return typeof value === 'string' || typeof value === 'number' ? String(value) : ''
}
