import type { FastifyBaseLogger } from 'fastify'
import type { Refusal } from '../refusal.ts'

const minute = 60_000

/** Lines of one code within a minute; the rest is counted. */
const mostOfACode = 10

/**
 * Logs refusals at `warn`, so that strangers cannot fill the log's disk: at most ten lines of a code within a minute, of
 * wrong tokens one per domain, and then how many more there were.
 */
export function createRefusalLog(
  log: FastifyBaseLogger,
): (refusal: Refusal, context?: Record<string, unknown>) => void {
  let lines = new Map<string, number>()
  let domains = new Set<unknown>()
  let untold = new Map<string, number>()
  let isCounting = false

  const endWindow = () => {
    for (const [code, count] of untold) log.warn({ code, count }, 'more refusals of this kind in the last minute')
    lines = new Map()
    domains = new Set()
    untold = new Map()
    isCounting = false
  }

  return (refusal, context) => {
    if (!isCounting) setTimeout(endWindow, minute).unref()
    isCounting = true
    const { code, details } = refusal
    const count = lines.get(code) ?? 0
    const isTold = code === 'invalid_application_token' && domains.has(details['domain'])
    if (isTold || count >= mostOfACode) {
      untold.set(code, (untold.get(code) ?? 0) + 1)
      return
    }
    lines.set(code, count + 1)
    if (code === 'invalid_application_token') domains.add(details['domain'])
    log.warn({ code, ...details, ...context }, 'refused')
  }
}
