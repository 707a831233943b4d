import { Bitrix24Error } from './bitrix24-error.ts'
import type { Clock } from '../lib/clock.ts'
import type { Hook } from './incoming-webhook.ts'
import type { Limits } from './limits.ts'
import { createTransport, type Send } from './transport.ts'

/** Whether a hook works, as far as its calls and a probe have shown. */
export interface HookHealth {
  /** Why nothing is sent through it; `undefined` while it works. */
  readonly trouble: () => Bitrix24Error | undefined
  /**
   * A call failed, and that may be the hook's fault: the portal is asked, and answers for all. When the hook is to blame,
   * resolves to its trouble; it is down then, and asked for again and again until it is up.
   */
  readonly examine: () => Promise<Bitrix24Error | undefined>
  /** Sends while the hook works, and refuses locally while it is down. `onDoubt`: a failure that may be the hook's. */
  readonly guard: (send: Send, onDoubt: () => void) => Send
  /** Ends the asking. */
  readonly stop: () => void
}

export interface HookHealthParts {
  readonly hook: Hook
  readonly limits: Limits
  readonly clock: Clock
  /** It went down, or, with `undefined`, is up again. */
  readonly onChange: (trouble: Bitrix24Error | undefined) => void
  /** Milliseconds between two probes. */
  readonly probeEvery?: number
  /** Milliseconds after which a probe is not answered. */
  readonly patience?: number
}

/** Every hook may call it, nobody without one; and it tells nothing about people. */
const probeMethod = 'scope'

export function createHookHealth(parts: HookHealthParts): HookHealth {
  const { hook, limits, clock, onChange, probeEvery = 60_000, patience = 10_000 } = parts
  const stopping = new AbortController()
  let trouble: Bitrix24Error | undefined
  let asking: Promise<Bitrix24Error | undefined> | undefined

  async function probe(): Promise<Bitrix24Error | undefined> {
    for (;;) {
      await limits.turn([probeMethod], stopping.signal)
      const tooLong = AbortSignal.timeout(patience)
      const send = createTransport(hook, AbortSignal.any([stopping.signal, tooLong]))
      try {
        await send(probeMethod, {})
        return undefined
      } catch (error) {
        stopping.signal.throwIfAborted()
        if (tooLong.aborted) return noAnswer()
        // What nobody foresaw says nothing about the hook.
        if (!(error instanceof Bitrix24Error)) return undefined
        if (limits.refuse(probeMethod, error.code)) continue
        // Every hook may call it: what refuses it, in whatever words, is a portal that does not let the hook in.
        const { code, description, status } = error
        return error.trouble
          ? error
          : new Bitrix24Error({ hook, method: probeMethod, code, description, status, trouble: 'dead' })
      }
    }
  }

  function noAnswer(): Bitrix24Error {
    const description = `no answer in ${patience / 1000} s`
    return new Bitrix24Error({ hook, method: probeMethod, code: 'ETIMEDOUT', status: 0, description })
  }

  async function ask(): Promise<Bitrix24Error | undefined> {
    try {
      trouble = await probe()
    } finally {
      asking = undefined
    }
    if (trouble) {
      onChange(trouble)
      void waitUntilUp()
    }
    return trouble
  }

  async function waitUntilUp(): Promise<void> {
    try {
      while (trouble) {
        await clock.sleep(probeEvery, stopping.signal)
        trouble = await probe()
      }
      onChange(undefined)
    } catch (error) {
      if (!stopping.signal.aborted) throw error
    }
  }

  return {
    trouble: () => trouble,
    async examine() {
      // One that is under way may have been answered before the failure.
      await asking
      if (trouble) return trouble
      asking ??= ask()
      return asking
    },
    guard: (send, onDoubt) => async (method, params) => {
      if (trouble) {
        onDoubt()
        const { code, description, status, trouble: kind } = trouble
        throw new Bitrix24Error({ hook, method, code, description, status, trouble: kind })
      }
      try {
        return await send(method, params)
      } catch (error) {
        if (isDoubtful(error)) onDoubt()
        throw error
      }
    },
    stop: () => stopping.abort(new Error('the hook is asked for no more')),
  }
}

/**
 * Not what the portal answered to this call: a call that was cut off in the midst may have reached nobody, too, and a
 * refusal that is no method's may be one of all of them.
 */
export function isDoubtful(error: unknown): boolean {
  if (!(error instanceof Bitrix24Error)) return true
  const { trouble, code, status, command } = error
  if (trouble !== undefined || code === 'REQUEST_TIMEOUT') return true
  return command === undefined && [401, 403, 410, 423].includes(status) && code !== 'insufficient_scope'
}
