import { timingSafeEqual } from 'node:crypto'
import type { Token } from '../config/values.ts'
import { Refusal } from './refusal.ts'
import type { Claim } from './claim.ts'
import { isForm } from './event.ts'
import type { Form, FormValue } from './form.ts'
import { longSecrets } from './secrets.ts'

/** The tokens we hold; a reload may put others in their place. */
export interface Tokens {
  /**
   * Looks at the token before the body is decoded, so that who holds none is refused at once. It proves nothing yet:
   * `verify` has the last word.
   *
   * @throws {Refusal} `invalid_application_token`, as `verify`
   */
  readonly check: (claim: Claim) => void
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

  function find(came: Buffer): Token | undefined {
    let match: Token | undefined
    for (const { token, bytes } of held) if (came.length === bytes.length && timingSafeEqual(came, bytes)) match = token
    return match
  }

  function refusal(token: string, event: FormValue | undefined, domain: FormValue | undefined): Refusal {
    // A log line is no place for a token, whatever field it came in.
    const long = longSecrets(held.map(({ token }) => token.value))
    const told = (value: FormValue | undefined) =>
      typeof value === 'string' && !long.some((secret) => value.includes(secret)) ? value : undefined
    return new Refusal('invalid_application_token', {
      event: told(event),
      domain: told(domain),
      token,
      compared_with: held.map(({ token }) => token.name ?? 'the unnamed token'),
    })
  }

  return {
    check({ token, event, domain }) {
      if (token === undefined) throw refusal('none', event, domain)
      if (find(token) === undefined) throw refusal(`${token.length} bytes`, event, domain)
    },
    verify(form) {
      const auth = form['auth']
      const came = isForm(auth) ? auth['application_token'] : undefined
      const bytes = typeof came === 'string' ? Buffer.from(came) : undefined
      const match = bytes && find(bytes)
      if (match) return match
      const token = bytes ? `${bytes.length} bytes` : came === undefined ? 'none' : 'not a text'
      throw refusal(token, form['event'], isForm(auth) ? auth['domain'] : undefined)
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
