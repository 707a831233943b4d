import { textOf } from '../../bitrix24/answer.ts'
import { Bitrix24Error } from '../../bitrix24/bitrix24-error.ts'
import { createClient } from '../../bitrix24/client.ts'
import type { IncomingWebhook } from '../../bitrix24/incoming-webhook.ts'
import { createLimits } from '../../bitrix24/limits.ts'
import { createTransport } from '../../bitrix24/transport.ts'
import { readSettings } from '../../config/config.ts'
import { realClock } from '../../lib/clock.ts'
import { messageOf } from '../../lib/error-text.ts'
import { isObject } from '../../lib/is-object.ts'
import { type Check, fail, ok, skipped, warn } from './check.ts'

const name = 'incoming_webhook'

/** Milliseconds for all calls of an incoming webhook. */
const timeoutMs = 20_000

/** Seconds. The age and the author of a change are determined by comparing both clocks. */
const maxSkew = 2

/**
 * Checks whether each incoming webhook works, as which user it acts, and how far the portal's clock differs from
 * ours.
 */
export async function checkIncomingWebhooks(): Promise<readonly Check[]> {
  const { incomingWebhooks } = readSettings(process.env, 'incomingWebhooks')
  if (incomingWebhooks.length === 0) return [skipped(name, 'B24_HOOK is not set: handlers cannot call Bitrix24')]
  return (await Promise.all(incomingWebhooks.map(checkIncomingWebhook))).flat()
}

async function checkIncomingWebhook(incomingWebhook: IncomingWebhook): Promise<readonly Check[]> {
  const { rate, burst } = readSettings(process.env, 'rate', 'burst')
  const signal = AbortSignal.timeout(timeoutMs)
  const send = createTransport(incomingWebhook, signal)
  let skew: number | undefined
  const client = createClient({
    incomingWebhook,
    signal,
    limits: createLimits({ rate, burst, clock: realClock }),
    async send(method, params) {
      const sentAt = Date.now()
      const envelope = await send(method, params)
      // The last call counts, because the first one had to load the transport and to connect.
      skew = skewOf(envelope.time, (sentAt + Date.now()) / 2) ?? skew
      return envelope
    },
  })
  try {
    const profile = await client.call('profile')
    const scopes = await client.call('scope')
    const text = `${incomingWebhook.label} answers: ${userText(profile)}; scopes ${Array.isArray(scopes) ? scopes.map(textOf).join(', ') : 'unknown'}`
    return [ok(name, text), checkClock(incomingWebhook, skew)]
  } catch (error) {
    const text = signal.aborted
      ? `${incomingWebhook.label} did not answer within ${timeoutMs / 1000} s`
      : messageOf(error)
    const trouble = error instanceof Bitrix24Error ? error.trouble : undefined
    return [fail(name, text, advices[trouble ?? 'unreachable'])]
  }
}

const advices = {
  dead: 'make a new incoming webhook in the portal',
  unreachable: 'can the portal be reached from here?',
  not_rest: 'was the portal renamed, deleted or blocked, or does a proxy answer? Open its address in a browser',
} as const

function userText(profile: unknown): string {
  if (!isObject(profile)) return 'of an unknown user'
  const called = [profile['NAME'], profile['LAST_NAME']].map(textOf).filter(Boolean).join(' ')
  return `user ${textOf(profile['ID'])}, ${JSON.stringify(called)}, ${profile['ADMIN'] === true ? 'an administrator' : 'no administrator'}`
}

/** Returns the seconds by which the portal is ahead. @param now Unix milliseconds, in the middle of the call */
function skewOf(time: unknown, now: number): number | undefined {
  if (!isObject(time)) return undefined
  const middle = (Number(time['start']) + Number(time['finish'])) / 2
  return middle > 0 ? middle - now / 1000 : undefined
}

function checkClock({ host }: IncomingWebhook, skew: number | undefined): Check {
  if (skew === undefined) return skipped('clock', `${host} does not send its time`)
  const text = `${host} is ${Math.abs(skew).toFixed(1)} s ${skew < 0 ? 'behind' : 'ahead of'} this machine`
  if (Math.abs(skew) <= maxSkew) return ok('clock', text)
  return warn('clock', text, 'let NTP set the clock: ignoreOwnChanges goes by it')
}
