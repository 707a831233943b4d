import type { Clock } from '../lib/clock.ts'
import { Bitrix24Error } from './bitrix24-error.ts'
import type { IncomingWebhook } from './incoming-webhook.ts'
import type { Limits } from './limits.ts'
import { createTransport, type Send } from './transport.ts'

/** Whether an incoming webhook works, as far as its calls and a probe have shown. */
export interface IncomingWebhookHealth {
  /** Why nothing is sent through it; `undefined` while it works. */
  readonly trouble: () => Bitrix24Error | undefined
  /**
   * Call it after a failure that may be the incoming webhook's fault. One probe of the portal answers all such calls.
   * If the incoming webhook is at fault, the promise resolves to its trouble. The incoming webhook is then down, and
   * is probed repeatedly until it works.
   */
  readonly examine: () => Promise<Bitrix24Error | undefined>
  /**
   * Sends while the incoming webhook works, and refuses locally while it is down. `onDoubt` is called for a failure
   * that may be the incoming webhook's fault.
   */
  readonly guard: (send: Send, onDoubt: () => void) => Send
  /** Stops the probes. */
  readonly stop: () => void
}

export interface IncomingWebhookHealthDeps {
  readonly incomingWebhook: IncomingWebhook
  readonly limits: Limits
  readonly clock: Clock
  /** The incoming webhook went down, or, with `undefined`, works again. */
  readonly onChange: (trouble: Bitrix24Error | undefined) => void
  /** Milliseconds between two probes. */
  readonly probeEvery?: number
  /** Milliseconds after which a probe counts as unanswered. */
  readonly probeTimeoutMs?: number
}

/**
 * Every incoming webhook may call this method, and only an incoming webhook. Its answer contains nothing about
 * people.
 */
const probeMethod = 'scope'

export function createIncomingWebhookHealth(deps: IncomingWebhookHealthDeps): IncomingWebhookHealth {
  const { incomingWebhook, limits, clock, onChange, probeEvery = 60_000, probeTimeoutMs = 10_000 } = deps
  const stopping = new AbortController()
  let trouble: Bitrix24Error | undefined
  let asking: Promise<Bitrix24Error | undefined> | undefined

  async function probe(): Promise<Bitrix24Error | undefined> {
    for (;;) {
      await limits.turn([probeMethod], stopping.signal)
      const timeout = AbortSignal.timeout(probeTimeoutMs)
      const send = createTransport(incomingWebhook, AbortSignal.any([stopping.signal, timeout]))
      try {
        await send(probeMethod, {})
        return undefined
      } catch (error) {
        stopping.signal.throwIfAborted()
        if (timeout.aborted) return noAnswer()
        // An unexpected error says nothing about the incoming webhook.
        if (!(error instanceof Bitrix24Error)) return undefined
        if (limits.refuse(probeMethod, error.code)) continue
        // Every incoming webhook may call this method. So a portal that refuses it, with any text, does not accept the
        // incoming webhook.
        const { code, description, status } = error
        return error.trouble
          ? error
          : new Bitrix24Error({ incomingWebhook, method: probeMethod, code, description, status, trouble: 'dead' })
      }
    }
  }

  function noAnswer(): Bitrix24Error {
    const description = `no answer in ${probeTimeoutMs / 1000} s`
    return new Bitrix24Error({ incomingWebhook, method: probeMethod, code: 'ETIMEDOUT', status: 0, description })
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
      // A probe in progress may have been answered before the failure.
      await asking
      if (trouble) return trouble
      asking ??= ask()
      return asking
    },
    guard: (send, onDoubt) => async (method, params) => {
      if (trouble) {
        onDoubt()
        const { code, description, status, trouble: kind } = trouble
        throw new Bitrix24Error({ incomingWebhook, method, code, description, status, trouble: kind })
      }
      try {
        return await send(method, params)
      } catch (error) {
        if (isDoubtful(error)) onDoubt()
        throw error
      }
    },
    stop: () => stopping.abort(new Error('the incoming webhook is asked for no more')),
  }
}

/**
 * Returns whether the error may not be the portal's answer to this call. A connection cut during the call may mean
 * that the portal is unreachable, and a refusal that is not about the method may apply to all calls.
 */
export function isDoubtful(error: unknown): boolean {
  if (!(error instanceof Bitrix24Error)) return true
  const { trouble, code, status, command } = error
  if (trouble !== undefined || code === 'REQUEST_TIMEOUT') return true
  return command === undefined && [401, 403, 410, 423].includes(status) && code !== 'insufficient_scope'
}
