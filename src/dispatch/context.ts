import { setImmediate as tick } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Bitrix24Error } from '../bitrix24/bitrix24-error.ts'
import { type Client, createClient } from '../bitrix24/client.ts'
import type { HookHealth } from '../bitrix24/hook-health.ts'
import type { Portals } from '../bitrix24/portals.ts'
import { createTransport } from '../bitrix24/transport.ts'
import { type Context, FinalError } from './handler.ts'
import type { Delivery } from './queue.ts'
import type { RunTimer } from './run-timer.ts'

export interface RunParts {
  readonly delivery: Delivery
  readonly log: Logger
  readonly timer: RunTimer
  readonly portals: Portals
  /** The run calls Bitrix24. */
  readonly onCall: () => void
}

/** One run, as its handler sees it and as its dispatcher does. */
export interface Run {
  readonly context: Context
  /** After a failure: the trouble of the hook it called through, if that is what it failed of. */
  readonly hookTrouble: () => Promise<Bitrix24Error | undefined>
  /** Ends the calls that are under way, so that none of them is made beside the next run. */
  readonly cutCalls: (reason: unknown) => void
}

export function createRun({ delivery, log, timer, portals, onCall }: RunParts): Run {
  const { event, attempt, coalesced } = delivery
  const over = new AbortController()
  let client: Client | undefined
  let doubted: HookHealth | undefined

  function openClient(): Client {
    const access = portals.accessFor(event)
    if ('refusal' in access) throw new FinalError(access.refusal)
    const { hook, limits, health } = access
    const signal = AbortSignal.any([timer.signal, over.signal])
    const send = health.guard(createTransport(hook, signal), () => {
      doubted = health
    })
    const opened = createClient({
      hook,
      limits,
      signal,
      whileWaiting: timer.whileWaiting,
      send: (method, params) => {
        onCall()
        return send(method, params)
      },
    })
    return {
      call: (method, params) => mayBeLeft(opened.call(method, params)),
      batch: (commands) => mayBeLeft(opened.batch(commands)),
      batchSettled: (commands) => mayBeLeft(opened.batchSettled(commands)),
      list: opened.list,
    }
  }

  return {
    context: {
      log,
      signal: timer.signal,
      attempt,
      coalesced,
      get bitrix24() {
        client ??= openClient()
        return client
      },
    },
    async hookTrouble() {
      // A call that was cut off with the run's time says so only now.
      if (client) await tick()
      return doubted?.examine()
    },
    cutCalls: (reason) => over.abort(reason),
  }
}

/** Of two calls the first fails, and nobody awaits the second any more: its failure is not to end the process. */
function mayBeLeft<T>(call: Promise<T>): Promise<T> {
  call.catch(() => undefined)
  return call
}
