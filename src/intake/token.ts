import { timingSafeEqual } from 'node:crypto'
import type { Token } from '../config.ts'
import { Refusal } from '../refusal.ts'
import { isForm, shorten } from './event.ts'
import type { Form, FormValue } from './form.ts'

/** Compares a form's `auth[application_token]` with the tokens we hold. */
export type VerifyToken = (form: Form) => Token

/**
 * The application token is the only proof of origin Bitrix24 gives: there is no signature
 * (https://apidocs.bitrix24.com/api-reference/events/index.html). All tokens are compared, always, each in constant
 * time; their lengths are no secret.
 *
 * @throws {Refusal} `invalid_application_token`, with the lengths and names an operator needs to find the wrong setting
 */
export function createVerifyToken(tokens: readonly Token[]): VerifyToken {
  const held = tokens.map((token) => ({ token, bytes: Buffer.from(token.value) }))
  return (form) => {
    const auth = form['auth']
    const came = isForm(auth) ? auth['application_token'] : undefined
    let match: Token | undefined
    if (typeof came === 'string') {
      const bytes = Buffer.from(came)
      for (const { token, bytes: ours } of held)
        if (bytes.length === ours.length && timingSafeEqual(bytes, ours)) match = token
    }
    if (match) return match
    const told = (value: FormValue | undefined) =>
      typeof value === 'string' && !tokens.some((token) => value.includes(token.value)) ? shorten(value) : undefined
    throw new Refusal('invalid_application_token', {
      event: told(form['event']),
      domain: isForm(auth) ? told(auth['domain']) : undefined,
      token: typeof came === 'string' ? `${Buffer.byteLength(came)} bytes` : came === undefined ? 'none' : 'not a text',
      compared_with: tokens.map((token) => token.name ?? 'the unnamed token'),
    })
  }
}
