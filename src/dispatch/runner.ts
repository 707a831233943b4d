import type { Throttled } from '../alerts/incidents.ts'
import { orderingKeyOf } from '../events/ordering-key.ts'
import type { LoadedHandler } from '../handler/loader.ts'
import type { LoopBreaker } from '../queue/loop-breaker.ts'
import type { OwnChanges } from '../queue/own-changes.ts'
import type { Delivery, Queue } from '../queue/queue.ts'
import { judgeChange, noteOwnChange } from './on-change.ts'
import { createRecorder, type Ended, fieldsOf, type RecorderDeps } from './outcome.ts'
import { createRun } from './run.ts'
import { inScope, type RunScope } from './run-scope.ts'
import { createRunTimer } from './run-timer.ts'

export interface RunnerDeps extends RecorderDeps {
  readonly queue: RecorderDeps['queue'] & Pick<Queue, 'snapshot' | 'markDirty'>
  readonly ownChanges: OwnChanges
  readonly loopBreaker: LoopBreaker
  /** Milliseconds. */
  readonly handlerTimeout: number
  /** Called when a handler does not end: this process cannot continue. */
  readonly onStuck: (error: unknown) => void
  readonly onThrottled?: (throttled: Throttled) => void
  /** How the previous process ended, if the receiver knows. */
  readonly lastEnd?: string | undefined
  /** Called when something that a run started fails after the run has ended. */
  readonly onLate?: (delivery: Delivery, error: unknown) => void
  /** Whether the delivery's snapshot is useless: its object was deleted meanwhile. */
  readonly keepsNothing?: (delivery: Delivery) => boolean
  readonly interrupt?: AbortSignal
}

/** Runs deliveries that were claimed, and records their outcome. */
export function createRunner(deps: RunnerDeps) {
  const { queue, portals, ownChanges, loopBreaker, lastEnd, log, onStuck, keepsNothing = () => false } = deps
  const recorder = createRecorder(deps)
  const callers = new Set<string>()

  async function run(delivery: Delivery, handler: LoadedHandler): Promise<void> {
    const { event, attempt, coalesced } = delivery
    const { ignoreOwnChanges, onChange, first } = handler.options
    const trouble = callers.has(handler.name) ? recorder.troubleFor(event) : undefined
    if (trouble) return recorder.postponed(delivery, trouble)
    const loop = JSON.stringify([handler.name, orderingKeyOf(event)])
    // A handler that never calls Bitrix24 cannot cause a loop.
    const throttledUntil = callers.has(handler.name) ? await loopBreaker.throttledUntil(loop) : undefined
    if (throttledUntil !== undefined) return recorder.throttled(delivery, throttledUntil)
    const fields = fieldsOf(delivery)
    const timeout = handler.options.timeout ?? deps.handlerTimeout
    const timer = createRunTimer(timeout, deps.interrupt)
    const started = performance.now()
    const ms = () => Math.round(performance.now() - started)
    const run = createRun({
      delivery,
      log: log.child(fields),
      timer,
      portals,
      ownChanges,
      onCall: () => void callers.add(handler.name),
    })
    const question = onChange && { delivery, names: onChange, first, queue, readRecord: run.readOnce }
    const stray = Promise.withResolvers<never>()
    stray.promise.catch(() => undefined)
    let state: 'running' | 'ended' | 'failed' = 'running'
    const scope: RunScope = {
      fail(error) {
        // A failed run may fail again, because its calls were aborted.
        if (state === 'failed') return
        if (state === 'running') return stray.reject(error)
        log.error({ ...fields, err: error }, 'failed after its run had ended')
        deps.onLate?.(delivery, error)
      },
    }
    /** Runs the handler to its end. Recording the outcome is separate: an error there is not the handler's failure. */
    const toItsEnd = async (): Promise<Ended> => {
      // Not on a retry: the failed run may have written, too.
      if (ignoreOwnChanges && attempt === 1) {
        const readRecord = onChange ? run.readOnce : run.readRecord
        const verdict = await ownChanges.judge({ handler: handler.name, event, coalesced }, readRecord)
        if (verdict === 'own_change') {
          if (question) await noteOwnChange(question)
          return { outcome: 'own_change' }
        }
      }
      const change = question && (await judgeChange(question))
      if (change && change.verdict !== 'run') return { outcome: change.verdict, snapshot: change.snapshot }
      await Promise.race([
        inScope(scope, async () => handler.handle(structuredClone(event), run.contextWith(change?.previous))).then(
          run.callsEnded,
        ),
        stray.promise,
        // JavaScript cannot be stopped. A handler that ignores its signal blocks its object until the process ends.
        timer.overdue.then(() => {
          throw new HandlerStuck(`${handler.name} did not end ${2 * timeout} ms after its start`)
        }),
      ])
      // Work done after the timeout does not count: the signal asked the handler to stop.
      timer.signal.throwIfAborted()
      return { outcome: run.isGone() ? 'gone' : 'handled', snapshot: change?.snapshot }
    }
    const recordFailure = async (error: unknown) => {
      timer.stop()
      // Before the delivery ends: the next delivery of the object must not start beside the stuck run.
      if (error instanceof HandlerStuck) onStuck(error)
      const trouble = await run.incomingWebhookTrouble()
      run.cutCalls(error)
      if (trouble) await recorder.postponed(delivery, trouble, { err: error, ms: ms() })
      else await recorder.failed(delivery, handler, { error, ms: ms(), isGone: run.isGone() })
    }
    const record = await toItsEnd().then(
      (end) => {
        state = 'ended'
        return () => recorder.ended(delivery, keepsNothing(delivery) ? { ...end, snapshot: null } : end, ms)
      },
      (error: unknown) => {
        state = 'failed'
        return () => recordFailure(error)
      },
    )
    try {
      await record()
    } finally {
      timer.stop()
      const hold = run.hasWritten() && event.object !== undefined ? await loopBreaker.wrote(loop) : undefined
      if (hold) {
        const until = new Date(hold.until).toISOString()
        log.warn({ ...fields, reason: hold.reason, until }, 'throttled: perhaps a loop')
        const { id, object } = event
        deps.onThrottled?.({ handler: handler.name, id, event: event.event, object, ...hold })
      }
    }
  }

  return {
    run,
    giveUp: recorder.unreadable,
    /** Charges the run that was the only one in progress when its process died. */
    chargeCrash(delivery: Delivery, handler: LoadedHandler): Promise<void> {
      const how = lastEnd === undefined ? '' : `: ${lastEnd}`
      return recorder.failed(delivery, handler, {
        error: new Error(`the dispatcher died while this ran${how}`),
        alone: true,
      })
    },
  }
}

/** A handler ignored its signal. Only a new process frees its object. */
class HandlerStuck extends Error {
  override readonly name = 'HandlerStuck'
}
