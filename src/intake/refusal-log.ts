import type { FastifyBaseLogger } from 'fastify'
import { shorten } from '../lib/shorten.ts'
import type { Refusal, RefusalCode } from './refusal.ts'
import { longSecrets, removed } from './secrets.ts'

export interface RefusalLog {
  readonly write: (refusal: Refusal, context?: Record<string, unknown>) => void
  /** Counts a refusal that has its own log line. */
  readonly count: (code: RefusalCode) => void
  /** By code, since the start. */
  readonly counts: ReadonlyMap<RefusalCode, number>
}

export interface RefusalLogDeps {
  readonly log: FastifyBaseLogger
  /** Values that must not reach the log, in any place of a refused request, if they are long enough: see secrets.ts. */
  readonly secrets: () => readonly string[]
}

const minuteMs = 60_000

/** Lines of one code within a minute. Further refusals are only counted. */
const maxLinesOfACode = 10

/**
 * Logs refusals at `warn`, limited so that strangers cannot fill the log's disk. Each code gets at most ten lines
 * within a minute, wrong tokens one line per domain, wrong sources one line per address. A line then says how many
 * more there were.
 */
export function createRefusalLog({ log, secrets }: RefusalLogDeps): RefusalLog {
  const counts = new Map<RefusalCode, number>()
  let lines = new Map<string, number>()
  let known = new Set<string>()
  let unlogged = new Map<string, number>()
  let isCounting = false

  const endWindow = () => {
    for (const [code, count] of unlogged) log.warn({ code, count }, 'more refusals of this kind in the last minute')
    lines = new Map()
    known = new Set()
    unlogged = new Map()
    isCounting = false
  }

  const count: RefusalLog['count'] = (code) => void counts.set(code, (counts.get(code) ?? 0) + 1)

  const write: RefusalLog['write'] = (refusal, context) => {
    count(refusal.code)
    if (!isCounting) setTimeout(endWindow, minuteMs).unref()
    isCounting = true
    const { code, details } = refusal
    const written = lines.get(code) ?? 0
    const who = whoIn(code, details, context)
    if ((who !== undefined && known.has(who)) || written >= maxLinesOfACode) {
      unlogged.set(code, (unlogged.get(code) ?? 0) + 1)
      return
    }
    lines.set(code, written + 1)
    if (who !== undefined) known.add(who)
    const held = longSecrets(secrets()).map(toBinary)
    const fields = Object.entries({ code, ...details, ...context }).map(([name, value]) => [
      name,
      printableOf(value, held),
    ])
    log.warn(Object.fromEntries(fields), 'refused')
  }
  return { write, count, counts }
}

/** The client whose second line would repeat the first, and might displace the line of another client. */
function whoIn(code: RefusalCode, details: Record<string, unknown>, context: Record<string, unknown> = {}) {
  if (code === 'invalid_application_token') return `${code} ${shorten(String(details['domain']))}`
  return code === 'source_not_allowed' ? `${code} ${String(context['remote'])}` : undefined
}

/**
 * Returns the part of a stranger's text that may be logged. A part of a secret at the end of a shortened text would
 * also be a secret.
 */
function printableOf(value: unknown, held: readonly string[]): unknown {
  if (Array.isArray(value)) return value.map((one) => printableOf(one, held))
  if (typeof value !== 'string') return value
  return holdsOneOf(held, value) ? removed : shorten(value)
}

/** How many times a text may be percent-encoded and still be readable as a secret to a reader of the log. */
const maxDecodings = 3

/** The number of examined characters: the logged part, and the longest secret in its longest encoding. */
const maxExaminedLength = 4096

function holdsOneOf(held: readonly string[], text: string): boolean {
  let binary = toBinary(text.slice(0, maxExaminedLength))
  for (let decodings = 0; decodings <= maxDecodings; decodings++) {
    if (held.some((secret) => binary.includes(secret))) return true
    binary = binary.replaceAll(/%([\da-f]{2})/g, (_, hex: string) =>
      toLower(String.fromCharCode(Number.parseInt(hex, 16))),
    )
  }
  return false
}

/**
 * Returns the bytes as characters, as percent-encoding represents them. Case is ignored, because an operator may
 * mistype it in a path.
 */
function toBinary(text: string): string {
  return toLower(Buffer.from(text).toString('latin1'))
}

/** Lowers ASCII only: the characters above it are bytes, not letters. */
function toLower(binary: string): string {
  return binary.replaceAll(/[A-Z]/g, (letter) => letter.toLowerCase())
}
