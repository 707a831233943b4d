import { BlockList, isIP } from 'node:net'
import { parseTargets } from '../backfill/targets.ts'
import { parseDuration } from '../lib/duration.ts'
import { messageOf } from '../lib/error-text.ts'
import { minSecretLength } from '../lib/min-secret-length.ts'

/** An accepted token, and the name that its events get in the journal. */
export interface Token {
  readonly name: string | undefined
  readonly value: string
}

/** Parses the text of a setting. */
export type Parse<T> = (text: string) => T | Problem

/** Why a text is not valid for a setting. It does not contain the text, which may be a secret. */
export class Problem {
  readonly text: string
  /** The variable that is wrong, if it is not that of the setting. */
  readonly variable: string | undefined
  constructor(text: string, variable?: string) {
    this.text = text
    this.variable = variable
  }
}

/** An empty text is an unset variable, which has the value `unset`. */
export function optional<T>(parse: Parse<T>): Parse<T | undefined>
export function optional<T, U>(parse: Parse<T>, unset: U): Parse<T | U>
export function optional<T, U>(parse: Parse<T>, unset?: U): Parse<T | U | undefined> {
  return (text) => (text === '' ? unset : parse(text))
}

/** Turns an error of `parse` into a `Problem`. The message must not quote a secret. */
export function catching<T>(parse: (text: string) => T): Parse<T> {
  return (text) => {
    try {
      return parse(text)
    } catch (error) {
      return new Problem(messageOf(error))
    }
  }
}

/**
 * Parses `abc`, `abc,def` or `sales=abc,support=def`; while a token is being changed, `sales=old,sales=new`. Bitrix24's
 * tokens have 32 characters a–z and 0–9 for webhooks and other forms for bots, so only what cannot be a token is refused.
 */
export function parseTokens(text: string): readonly Token[] | Problem {
  const tokens: Token[] = []
  for (const [index, part] of text.split(',').entries()) {
    const entry = part.trim()
    const named = /^([A-Za-z0-9_.-]{1,40})=(.*)$/s.exec(entry)
    const name = named?.[1]
    const value = named ? (named[2] ?? '').trim() : entry
    const which = name === undefined ? `entry ${index + 1}` : `"${name}"`
    if (value.includes('/rest/'))
      return new Problem(
        `${which} is an incoming-webhook URL, which is for calling Bitrix24 (B24_HOOK); the application token is shown in the outgoing webhook's settings`,
      )
    if (value.includes('://'))
      return new Problem(
        `${which} is a URL: the application token is the text that the outgoing webhook's settings show beside it`,
      )
    if (value === '') return new Problem(`entry ${index + 1} is empty`)
    if (/[\s"']/.test(value)) return new Problem(`${which} holds a space or a quote`)
    if (/[\p{C}\uFFFD]/u.test(value))
      return new Problem(`${which} holds a character that cannot be seen, or is not UTF-8: copy the token again`)
    if (tokens.some((token) => token.value === value)) return new Problem(`${which} repeats the token before it`)
    tokens.push({ name, value })
  }
  return tokens
}

/**
 * Returns warnings about tokens that can be guessed. They are not refused, because bots
 * have such tokens. The value is not printed.
 */
export function weakTokens(tokens: readonly Token[]): string[] {
  const weak = tokens.filter(({ value }) => value.length < minSecretLength)
  return weak.map(({ name, value: { length } }) => {
    const which = name === undefined ? 'a token without a name' : `"${name}"`
    return `B24_APPLICATION_TOKEN: ${which} has ${length} character${length === 1 ? '' : 's'}, which can be guessed, and whoever does can send events: a webhook's token has 32. Is it the one that Bitrix24 shows?`
  })
}

export function parsePath(text: string): string | Problem {
  const path = text.replace(/\/+$/, '')
  if (!/^(\/[A-Za-z0-9._~-]+)+$/.test(path) || path === '/healthz')
    return new Problem('must be a path such as /bitrix24 of letters, digits, "-", "_", ".", "~"; not /healthz')
  return path
}

/** The path is a secret: it is all that a sender of events must know, so its last part must be hard to guess. */
export function parseRobotPath(text: string): string | Problem {
  const path = parsePath(text)
  if (typeof path === 'string' && /[^/]{16}$/.test(path)) return path
  return new Problem(
    'must be a path of letters and digits whose last part has 16 or more that nobody can guess: /robot/ and what openssl rand -hex 16 prints',
  )
}

/** Returns the text itself, whose kinds of records were checked. */
export const parseBackfill: Parse<string> = catching((text) => {
  parseTargets(text)
  return text
})

export function parseFrom(text: string): string | Problem {
  if (text === 'oldest' || text === 'now' || !Number.isNaN(Date.parse(text))) return text
  return new Problem('must be oldest, now or a time such as 2026-11-23T08:00:00Z')
}

/** Accepts only Postgres' own URL form, although the pg library accepts other forms. */
export function parseDatabase(text: string): string | Problem {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (
    url &&
    /^postgres(ql)?:$/.test(url.protocol) &&
    (url.hostname !== '' || url.searchParams.has('host')) &&
    url.pathname.length > 1
  )
    return text
  return new Problem(
    'must be postgres://user:password@host:port/database, with % # / ? @ and : in the password written as %25 %23 %2F %3F %40 and %3A',
  )
}

export function parseAlertUrl(text: string): URL | Problem {
  const url = URL.parse(text)
  // URL.parse silently drops line ends and surrounding spaces, so they are refused here.
  if (url === null || !/^https?:$/.test(url.protocol) || /\s/.test(text))
    return new Problem('must be a URL that begins with https:// or http://')
  // fetch refuses a URL with credentials.
  if (url.username !== '' || url.password !== '')
    return new Problem('must not hold a user name or a password; a secret in its path or query will do')
  return url
}

const addresses = 'IP addresses or CIDRs such as 10.0.0.5 or 172.16.0.0/12, separated by commas'

/** Returns the names in lower case, because they are compared in lower case. */
export function parseHosts(text: string): readonly string[] | Problem {
  const names = text.split(',').map((entry) => entry.trim().toLowerCase())
  const given = names.filter((name) => name !== '')
  if (given.every((name) => /^[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?$/.test(name))) return given
  return new Problem('must be names such as receiver or receiver.example.com, without a port, separated by commas')
}

export function parseProxies(text: string): readonly string[] | Problem {
  return parseAddresses(text) ?? new Problem(`must be ${addresses}`)
}

export function parseAllowedIps(text: string): 'auto' | readonly string[] | Problem {
  if (text === 'auto') return text
  const list = parseAddresses(text)
  // A list of only commas is an error: an empty list would refuse every post.
  return list !== undefined && list.length > 0 ? list : new Problem(`must be auto, or ${addresses}`)
}

/** Returns `undefined` if an entry is neither an address nor a CIDR. */
function parseAddresses(text: string): readonly string[] | undefined {
  const entries = text.split(',').map((entry) => entry.trim())
  const list = entries.filter((entry) => entry !== '')
  for (const entry of list) {
    const [address = '', prefix, ...rest] = entry.split('/')
    const family = isIP(address)
    try {
      if (family === 0 || rest.length > 0) throw new Error('no address')
      if (prefix !== undefined) new BlockList().addSubnet(address, readPrefix(prefix), family === 6 ? 'ipv6' : 'ipv4')
    } catch {
      return undefined
    }
  }
  return list
}

/**
 * Returns NaN, which no subnet accepts, for a prefix that Fastify refuses, too: a prefix of 0 would trust every address.
 */
function readPrefix(text: string): number {
  return /^[1-9]\d*$/.test(text) ? Number(text) : Number.NaN
}

/** Accepts an address or a host name. It is passed to `listen`. */
export function parseHost(text: string): string | Problem {
  if (isIP(text) !== 0 || /^[a-z\d]([a-z\d.-]{0,251}[a-z\d.])?$/i.test(text)) return text
  return new Problem('must be an address of this machine, such as 0.0.0.0, 127.0.0.1 or ::, without a port or a scheme')
}

export function oneOf<const T extends string>(args: readonly T[]): Parse<T> {
  return (text) => args.find((word) => word === text) ?? new Problem(`must be one of ${args.join(', ')}`)
}

export const onOrOff: Parse<boolean> = (text) => {
  const word = oneOf(['on', 'off'])(text)
  return word instanceof Problem ? word : word === 'on'
}

export function wholeNumber(min: number, max: number): Parse<number> {
  return (text) => {
    const value = Number(text)
    if (/^\d+$/.test(text) && value >= min && value <= max) return value
    return new Problem(`must be a whole number from ${min} to ${max}`)
  }
}

export function duration(min: number, max: string): Parse<number> {
  const maxMs = parseDuration(max) ?? Number.POSITIVE_INFINITY
  return (text) => {
    const value = parseDuration(text)
    if (value !== undefined && value >= min && value <= maxMs) return value
    return new Problem(`must be a time such as 500ms, 30s, 5m, 2h or 7d, at most ${max}`)
  }
}

export function size(min: number, max: number): Parse<number> {
  return (text) => {
    const match = /^(\d{1,9})(B|KB|MB|GB)$/.exec(text)
    const value = match ? Number(match[1]) * 1024 ** ['B', 'KB', 'MB', 'GB'].indexOf(match[2] ?? 'B') : Number.NaN
    if (value >= min && value <= max) return value
    return new Problem(`must be a size such as 512KB or 1MB, from ${min / 1024}KB to ${max / 1024 ** 2}MB`)
  }
}
