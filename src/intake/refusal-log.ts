import type { FastifyBaseLogger } from 'fastify'
import type { Refusal, RefusalCode } from './refusal.ts'
import { shorten } from './event.ts'
import { longSecrets, removed } from './secrets.ts'

export interface RefusalLog {
  readonly tell: (refusal: Refusal, context?: Record<string, unknown>) => void
  /** One that has a line of its own. */
  readonly count: (code: RefusalCode) => void
  /** By code, since the start. */
  readonly counts: ReadonlyMap<RefusalCode, number>
}

export interface RefusalLogParts {
  readonly log: FastifyBaseLogger
  /** What must not reach the log, wherever in a refused request it stands, if it is long enough: see secrets.ts. */
  readonly secrets: () => readonly string[]
}

const minute = 60_000

/** Lines of one code within a minute; the rest is counted. */
const mostOfACode = 10

/**
 * Logs refusals at `warn`, so that strangers cannot fill the log's disk: at most ten lines of a code within a minute, of
 * wrong tokens one per domain, of wrong sources one per address, and then how many more there were.
 */
export function createRefusalLog({ log, secrets }: RefusalLogParts): RefusalLog {
  const counts = new Map<RefusalCode, number>()
  let lines = new Map<string, number>()
  let known = new Set<string>()
  let untold = new Map<string, number>()
  let isCounting = false

  const endWindow = () => {
    for (const [code, count] of untold) log.warn({ code, count }, 'more refusals of this kind in the last minute')
    lines = new Map()
    known = new Set()
    untold = new Map()
    isCounting = false
  }

  const count: RefusalLog['count'] = (code) => void counts.set(code, (counts.get(code) ?? 0) + 1)

  const tell: RefusalLog['tell'] = (refusal, context) => {
    count(refusal.code)
    if (!isCounting) setTimeout(endWindow, minute).unref()
    isCounting = true
    const { code, details } = refusal
    const written = lines.get(code) ?? 0
    const who = whoIn(code, details, context)
    if ((who !== undefined && known.has(who)) || written >= mostOfACode) {
      untold.set(code, (untold.get(code) ?? 0) + 1)
      return
    }
    lines.set(code, written + 1)
    if (who !== undefined) known.add(who)
    const held = longSecrets(secrets()).map(toBinary)
    const told = Object.entries({ code, ...details, ...context }).map(([name, value]) => [name, tellable(value, held)])
    log.warn(Object.fromEntries(told), 'refused')
  }
  return { tell, count, counts }
}

/** Whose second line would say nothing that the first did not, and might hide another's. */
function whoIn(code: RefusalCode, details: Record<string, unknown>, context: Record<string, unknown> = {}) {
  if (code === 'invalid_application_token') return `${code} ${shorten(String(details['domain']))}`
  return code === 'source_not_allowed' ? `${code} ${String(context['remote'])}` : undefined
}

/** A text of a stranger, as far as it may be told. A part of a secret at the end of a shortened text would be one, too. */
function tellable(value: unknown, held: readonly string[]): unknown {
  if (Array.isArray(value)) return value.map((one) => tellable(one, held))
  if (typeof value !== 'string') return value
  return holdsOneOf(held, value) ? removed : shorten(value)
}

/** How often a text may be percent-encoded before it is no secret to anybody that reads the log. */
const mostDecodings = 3

/** Characters of a text that are looked at: what is told of it, and the longest secret in its longest form. */
const lookedAt = 4096

function holdsOneOf(held: readonly string[], text: string): boolean {
  let binary = toBinary(text.slice(0, lookedAt))
  for (let decodings = 0; decodings <= mostDecodings; decodings++) {
    if (held.some((secret) => binary.includes(secret))) return true
    binary = binary.replaceAll(/%([\da-f]{2})/g, (_, hex: string) =>
      toLower(String.fromCharCode(Number.parseInt(hex, 16))),
    )
  }
  return false
}

/** Its bytes as characters, as percent-encoding has them; paths differ in their case only by a slip of the pen. */
function toBinary(text: string): string {
  return toLower(Buffer.from(text).toString('latin1'))
}

/** ASCII alone: of what is above it these are bytes, not letters. */
function toLower(binary: string): string {
  return binary.replaceAll(/[A-Z]/g, (letter) => letter.toLowerCase())
}
