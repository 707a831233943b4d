import { timingSafeEqual } from 'node:crypto'
import type { Token } from '../config/values.ts'
import { type Form, type FormValue, isForm } from '../events/form.ts'
import type { Claim } from './claim.ts'
import { Refusal } from './refusal.ts'
import { longSecrets } from './secrets.ts'

/** The tokens that the receiver holds. A reload may replace them. */
export interface Tokens {
  /**
   * Checks the token before the body is decoded, so that a client without a token is refused at once. This check
   * proves nothing yet: only `verify` does.
   *
   * @throws {Refusal} `invalid_application_token`, as `verify` does
   */
  readonly check: (claim: Claim) => void
  /**
   * Returns the held token that equals a form's `auth[application_token]`.
   *
   * The application token is the only proof of origin that Bitrix24 sends: there is no signature
   * (https://apidocs.bitrix24.com/api-reference/events/index.html). Every token is always compared, each in constant
   * time. The lengths of the tokens are not secret.
   *
   * @throws {Refusal} `invalid_application_token`, with the lengths and names that show an operator the wrong setting
   */
  readonly verify: (form: Form) => Token
  /** Values that must not reach the journal. */
  readonly values: () => readonly string[]
  /** Each name once; an empty name for a token without one. */
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
    // A token must not appear in a log line, whatever field it came in.
    const long = longSecrets(held.map(({ token }) => token.value))
    const printableOf = (value: FormValue | undefined) =>
      typeof value === 'string' && !long.some((secret) => value.includes(secret)) ? value : undefined
    return new Refusal('invalid_application_token', {
      event: printableOf(event),
      domain: printableOf(domain),
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
