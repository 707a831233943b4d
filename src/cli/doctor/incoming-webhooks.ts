import { textOf } from '../../bitrix24/answer.ts'
import { Bitrix24Error } from '../../bitrix24/bitrix24-error.ts'
import { createClient } from '../../bitrix24/client.ts'
import { realClock } from '../../lib/clock.ts'
import type { Hook } from '../../bitrix24/incoming-webhook.ts'
import { createLimits } from '../../bitrix24/limits.ts'
import { createTransport } from '../../bitrix24/transport.ts'
import { readHooks, readSettings } from '../../config/config.ts'
import { isObject } from '../../lib/is-object.ts'
import { type Check, reasonOf } from './check.ts'

/** Milliseconds for all calls of a hook. */
const patience = 20_000

/** Seconds: how old a change is, and whose, is told by comparing both clocks. */
const mostSkew = 2

/** Whether each hook works, as whom it acts, and how far the portal's clock is from ours. */
export async function checkHooks(): Promise<readonly Check[]> {
  const hooks = readHooks(process.env)
  if (hooks.length === 0)
    return [{ name: 'hook', state: 'skipped', text: 'B24_HOOK is not set: handlers cannot call Bitrix24' }]
  return (await Promise.all(hooks.map(checkHook))).flat()
}

async function checkHook(hook: Hook): Promise<readonly Check[]> {
  const { B24_RATE: rate, B24_BURST: burst } = readSettings(process.env, 'B24_RATE', 'B24_BURST')
  const signal = AbortSignal.timeout(patience)
  const send = createTransport(hook, signal)
  let skew: number | undefined
  const client = createClient({
    hook,
    signal,
    limits: createLimits({ rate, burst, clock: realClock }),
    async send(method, params) {
      const sentAt = Date.now()
      const envelope = await send(method, params)
      // The last call counts: the first had to load what makes it, and to connect.
      skew = skewOf(envelope.time, (sentAt + Date.now()) / 2) ?? skew
      return envelope
    },
  })
  try {
    const profile = await client.call('profile')
    const scopes = await client.call('scope')
    const text = `${hook.label} answers: ${tellUser(profile)}; scopes ${Array.isArray(scopes) ? scopes.map(textOf).join(', ') : 'unknown'}`
    return [{ name: 'hook', state: 'ok', text }, tellClock(hook, skew)]
  } catch (error) {
    const text = signal.aborted ? `${hook.label} did not answer within ${patience / 1000} s` : reasonOf(error)
    const trouble = error instanceof Bitrix24Error ? error.trouble : undefined
    const advice = advices[trouble ?? 'unreachable']
    return [{ name: 'hook', state: 'FAIL', text, advice }]
  }
}

const advices = {
  dead: 'make a new incoming webhook in the portal',
  unreachable: 'can the portal be reached from here?',
  not_rest: 'was the portal renamed, deleted or blocked, or does a proxy answer? Open its address in a browser',
} as const

function tellUser(profile: unknown): string {
  if (!isObject(profile)) return 'of an unknown user'
  const called = [profile['NAME'], profile['LAST_NAME']].map(textOf).filter(Boolean).join(' ')
  return `user ${textOf(profile['ID'])}, ${JSON.stringify(called)}, ${profile['ADMIN'] === true ? 'an administrator' : 'no administrator'}`
}

/** Seconds by which the portal is ahead. @param now Unix milliseconds, in the middle of the call */
function skewOf(time: unknown, now: number): number | undefined {
  if (!isObject(time)) return undefined
  const middle = (Number(time['start']) + Number(time['finish'])) / 2
  return middle > 0 ? middle - now / 1000 : undefined
}

function tellClock({ host }: Hook, skew: number | undefined): Check {
  const name = 'clock'
  if (skew === undefined) return { name, state: 'skipped', text: `${host} does not tell the time` }
  const text = `${host} is ${Math.abs(skew).toFixed(1)} s ${skew < 0 ? 'behind' : 'ahead of'} this machine`
  if (Math.abs(skew) <= mostSkew) return { name, state: 'ok', text }
  return { name, state: 'warn', text, advice: 'let NTP set the clock: ignoreOwnChanges goes by it' }
}
