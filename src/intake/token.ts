import { timingSafeEqual } from 'node:crypto'
import type { Token } from '../config-values.ts'
import { Refusal } from '../refusal.ts'
import { isForm, shorten } from './event.ts'
import type { Form, FormValue } from './form.ts'

/** The tokens we hold; a reload may put others in their place. */
export interface Tokens {
  /**
   * The token that a form's `auth[application_token]` is.
   *
   * The application token is the only proof of origin Bitrix24 gives: there is no signature
   * (https://apidocs.bitrix24.com/api-reference/events/index.html). All tokens are compared, always, each in constant
   * time; their lengths are no secret.
   *
   * @throws {Refusal} `invalid_application_token`, with the lengths and names that show an operator the wrong setting
   */
  readonly verify: (form: Form) => Token
  /** What must not reach the journal. */
  readonly values: () => readonly string[]
  /** Each once, empty for a token that has none. */
  readonly names: () => readonly string[]
  readonly replace: (tokens: readonly Token[]) => void
}

export function createTokens(initial: readonly Token[]): Tokens {
  let held = prepare(initial)
  return {
    verify(form) {
      const auth = form['auth']
      const came = isForm(auth) ? auth['application_token'] : undefined
      let match: Token | undefined
      if (typeof came === 'string') {
        const bytes = Buffer.from(came)
        for (const { token, bytes: ours } of held)
          if (bytes.length === ours.length && timingSafeEqual(bytes, ours)) match = token
      }
      if (match) return match
      // A log line is no place for a token, whatever field it came in.
      const told = (value: FormValue | undefined) =>
        typeof value === 'string' && !held.some(({ token }) => value.includes(token.value)) ? shorten(value) : undefined
      throw new Refusal('invalid_application_token', {
        event: told(form['event']),
        domain: isForm(auth) ? told(auth['domain']) : undefined,
        token:
          typeof came === 'string' ? `${Buffer.byteLength(came)} bytes` : came === undefined ? 'none' : 'not a text',
        compared_with: held.map(({ token }) => token.name ?? 'the unnamed token'),
      })
    },
    values: () => held.map(({ token }) => token.value),
    names: () => [...new Set(held.map(({ token }) => token.name ?? ''))],
    replace(tokens) {
      held = prepare(tokens)
    },
  }
}

function prepare(tokens: readonly Token[]) {
  return tokens.map((token) => ({ token, bytes: Buffer.from(token.value) }))
}
