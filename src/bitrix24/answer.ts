import { isObject } from '../lib/is-object.ts'
export interface Refused {
  /** `NO_CODE` where the portal gave none, as crm.deal.get does for what is not there. */
  readonly code: string
  readonly description: string
}

/** `{ error, error_description }`, and of REST 3.0 `{ error: { code, message } }`; `undefined` when it is no error. */
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
