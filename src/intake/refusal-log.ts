import type { FastifyBaseLogger } from 'fastify'
import type { Refusal, RefusalCode } from '../refusal.ts'

export interface RefusalLog {
  readonly tell: (refusal: Refusal, context?: Record<string, unknown>) => void
  /** One that has a line of its own. */
  readonly count: (code: RefusalCode) => void
  /** By code, since the start. */
  readonly counts: ReadonlyMap<RefusalCode, number>
}

const minute = 60_000

/** Lines of one code within a minute; the rest is counted. */
const mostOfACode = 10

/**
 * Logs refusals at `warn`, so that strangers cannot fill the log's disk: at most ten lines of a code within a minute, of
 * wrong tokens one per domain, of wrong sources one per address, and then how many more there were.
 */
export function createRefusalLog(log: FastifyBaseLogger): RefusalLog {
  const counts = new Map<RefusalCode, number>()
  let lines = new Map<string, number>()
  let told = new Set<string>()
  let untold = new Map<string, number>()
  let isCounting = false

  const endWindow = () => {
    for (const [code, count] of untold) log.warn({ code, count }, 'more refusals of this kind in the last minute')
    lines = new Map()
    told = new Set()
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
    if ((who !== undefined && told.has(who)) || written >= mostOfACode) {
      untold.set(code, (untold.get(code) ?? 0) + 1)
      return
    }
    lines.set(code, written + 1)
    if (who !== undefined) told.add(who)
    log.warn({ code, ...details, ...context }, 'refused')
  }
  return { tell, count, counts }
}

/** Whose second line would say nothing that the first did not, and might hide another's. */
function whoIn(code: RefusalCode, details: Record<string, unknown>, context: Record<string, unknown> = {}) {
  if (code === 'invalid_application_token') return `${code} ${String(details['domain'])}`
  return code === 'source_not_allowed' ? `${code} ${String(context['remote'])}` : undefined
}
