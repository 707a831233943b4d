import { decodePercent, escapedByte } from './percent.ts'

/** What a body says of itself, before it is decoded. */
export interface Claim {
  /** `auth[application_token]`; absent also where it came twice, because a proof of origin that came twice is none. */
  readonly token: Buffer | undefined
  readonly event: string | undefined
  readonly domain: string | undefined
}

const [ampersand, equals, percent] = [0x26, 0x3d, 0x25]

const names = {
  token: Buffer.from('auth[application_token]'),
  event: Buffer.from('event'),
  domain: Buffer.from('auth[domain]'),
}

/** Bytes of an event or a domain that are looked at: both only go, shortened, into a line of the log. */
const longestTold = 64 * 1024

/**
 * Finds the token in the bytes of a form, and what a refusal tells an operator, in one pass that makes no strings: whoever
 * holds no token may post as much as anybody. Names may be escaped in any way that decodes to them; of two equal ones the
 * last counts, as in PHP.
 */
export function readClaim(body: Buffer): Claim {
  let tokens = 0
  let token: Buffer | undefined
  let event: Buffer | undefined
  let domain: Buffer | undefined
  for (let start = 0; start < body.length; ) {
    let end = start
    while (end < body.length && body[end] !== ampersand) end++
    if (end === start) {
      start++
      continue
    }
    const ofToken = valueNamed(body, start, end, names.token)
    if (ofToken !== undefined) {
      tokens++
      token = ofToken
    } else {
      event = valueNamed(body, start, end, names.event) ?? event
      domain = valueNamed(body, start, end, names.domain) ?? domain
    }
    start = end + 1
  }
  return {
    token: tokens === 1 && token ? decodeCopy(token) : undefined,
    event: event && decodeCopy(event.subarray(0, longestTold)).toString(),
    domain: domain && decodeCopy(domain.subarray(0, longestTold)).toString(),
  }
}

/** The value of the parameter from `start` to `end`, still escaped; `undefined` where it has another name. */
function valueNamed(body: Buffer, start: number, end: number, name: Buffer): Buffer | undefined {
  let at = start
  for (let index = 0; index < name.length; index++) {
    const byte = body[at]
    if (byte === percent) {
      // An escape that reaches over the end is not one: `&` is no digit.
      if (escapedByte(body, at) !== name[index]) return undefined
      at += 3
    } else {
      if (byte !== name[index]) return undefined
      at++
    }
  }
  if (at >= end) return body.subarray(end, end)
  return body[at] === equals ? body.subarray(at + 1, end) : undefined
}

function decodeCopy(bytes: Buffer): Buffer {
  return decodePercent(Buffer.from(bytes))
}
