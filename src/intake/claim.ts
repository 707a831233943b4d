import { decodePercent, escapedChar } from './percent.ts'

/** What a body says about itself before it is decoded. */
export interface Claim {
  /** `auth[application_token]`. Also absent if it came twice, because a repeated proof of origin does not count. */
  readonly token: Buffer | undefined
  /** These two are decoded on access: only the log of a refused post reads them. */
  readonly event: string | undefined
  readonly domain: string | undefined
}

const [ampersand, percent, equals, a, e] = [0x26, 0x25, 0x3d, 0x61, 0x65]

/** Every name begins with `a` or `e`; `readClaim` relies on it. */
const names = { token: 'auth[application_token]', event: 'event', domain: 'auth[domain]' } as const

/** The maximum number of characters examined in an event or a domain. Both only go, shortened, into a log line. */
const maxLoggedLength = 64 * 1024

/**
 * Finds the token in a form, and the values that a refusal logs, in one pass that creates no strings: a client
 * without a token may post as much as any other. The names may be escaped in any way that decodes to them. Of two
 * equal names the last counts, as in PHP.
 */
export function readClaim(text: string): Claim {
  let tokens = 0
  const token: Range = { start: -1, end: -1 }
  const event: Range = { start: -1, end: -1 }
  const domain: Range = { start: -1, end: -1 }
  for (let start = 0, end = 0; start < text.length; start = end + 1) {
    end = start
    // A body may consist of such characters only, and an `indexOf` call for each of them would take ten times as long.
    const first = text.charCodeAt(start)
    if (first === ampersand) continue
    end = text.indexOf('&', start)
    if (end === -1) end = text.length
    if (first !== a && first !== e && first !== percent) continue
    if (findValue(text, start, end, names.token, token)) tokens++
    else if (!findValue(text, start, end, names.event, event)) findValue(text, start, end, names.domain, domain)
  }
  return new RawClaim(text, tokens === 1 ? token : undefined, event, domain)
}

/** A range of a text. It is empty if `start` is negative. */
interface Range {
  start: number
  end: number
}

class RawClaim implements Claim {
  readonly token: Buffer | undefined
  readonly #text: string
  readonly #event: Range
  readonly #domain: Range

  constructor(text: string, token: Range | undefined, event: Range, domain: Range) {
    this.#text = text
    this.token = token && decodePercent(Buffer.from(text.slice(token.start, token.end)))
    this.#event = event
    this.#domain = domain
  }

  get event(): string | undefined {
    return this.#decode(this.#event)
  }

  get domain(): string | undefined {
    return this.#decode(this.#domain)
  }

  #decode({ start, end }: Range): string | undefined {
    if (start < 0) return undefined
    return decodePercent(Buffer.from(this.#text.slice(start, Math.min(end, start + maxLoggedLength)))).toString()
  }
}

/**
 * Returns whether the parameter from `start` to `end` has that name. If so, `value` becomes the range of its value,
 * still escaped.
 */
function findValue(text: string, start: number, end: number, name: string, value: Range): boolean {
  let at = start
  for (let index = 0; index < name.length; index++) {
    const char = text.charCodeAt(at)
    if (char === percent) {
      // An escape cannot reach past the end: `&` is not a digit.
      if (escapedChar(text, at) !== name.charCodeAt(index)) return false
      at += 3
    } else {
      if (char !== name.charCodeAt(index)) return false
      at++
    }
  }
  if (at < end && text.charCodeAt(at) !== equals) return false
  value.start = Math.min(at + 1, end)
  value.end = end
  return true
}
