import type { Logger } from 'pino'
import type { Throttled } from '../alerts/incidents.ts'
import type { Bitrix24Error } from '../bitrix24/bitrix24-error.ts'
import type { NoAccess, Portals } from '../bitrix24/portals.ts'
import type { JournalledEvent } from '../events/event.ts'
import { orderingKeyOf } from '../events/ordering-key.ts'
import type { LoadedHandler } from '../handler/loader.ts'
import { toDuration } from '../lib/duration.ts'

import { errorText } from '../lib/error-text.ts'
import type { LoopBreaker } from '../queue/loop-breaker.ts'
import type { OwnChanges } from '../queue/own-changes.ts'
import type { Delivery, Queue, SnapshotFields } from '../queue/queue.ts'

import { judgeChange, noteOwnChange } from './on-change.ts'
import { type NextTry, nextTry } from './retry.ts'
import { createRun } from './run.ts'
import { inScope, type RunScope } from './run-scope.ts'
import { createRunTimer } from './run-timer.ts'

/** The result of a delivery that was claimed. */
export interface Outcome {
  readonly handler: string
  readonly event: JournalledEvent
  readonly outcome:
    | 'handled'
    | 'unchanged'
    | 'remembered'
    | 'gone'
    | 'own_change'
    | 'retried'
    | 'dead'
    | 'postponed'
    | 'throttled'
  /** Duration of the run in milliseconds; 0 if the handler was not run. */
  readonly ms: number
  /** Why the delivery failed or waits. */
  readonly reason?: string
}

export interface RunnerDeps {
  readonly queue: Pick<Queue, 'done' | 'retry' | 'dead' | 'postpone' | 'snapshot' | 'markDirty'>
  readonly portals: Portals
  readonly ownChanges: OwnChanges
  readonly loopBreaker: LoopBreaker
  /** Milliseconds, like `handlerTimeout`. */
  readonly retryFor: number
  readonly handlerTimeout: number
  readonly log: Logger
  /** Called when a handler does not end: this process cannot continue. */
  readonly onStuck: (error: unknown) => void
  readonly onOutcome: (outcome: Outcome) => void
  readonly onThrottled?: (throttled: Throttled) => void
  /** How the previous process ended. */
  readonly lastEnd?: string | undefined
  /** Called when something that a run started fails after the run has ended. */
  readonly onLate?: (delivery: Delivery, error: unknown) => void
  /** Makes postponed deliveries ready to run. */
  readonly resume: () => void
  /** Whether the delivery's snapshot is useless: its object was deleted meanwhile. */
  readonly keepsNothing?: (delivery: Delivery) => boolean
  /** Aborts the signals of the runs. */
  readonly interrupt?: AbortSignal
}

/** Runs deliveries that were claimed, and records their outcome. */
export interface Runner {
  run(delivery: Delivery, handler: LoadedHandler): Promise<void>
  /** Charges the run that was the only one in progress when its process died. */
  chargeCrash(delivery: Delivery, handler: LoadedHandler): Promise<void>
  /** Marks a delivery dead whose event can be read neither in the queue nor in the journal. Its bytes are kept. */
  giveUp(delivery: Delivery, unreadable: string): Promise<void>
}

/** Milliseconds. A postponed delivery runs again after this time even if the signal to resume was missed. */
const longestPostponement = 600_000

export function createRunner(deps: RunnerDeps): Runner {
  const { queue, portals, ownChanges, loopBreaker, log, onStuck, onOutcome, resume, keepsNothing = () => false } = deps
  /** Names of the handlers that have called Bitrix24. */
  const callers = new Set<string>()

  async function run(delivery: Delivery, handler: LoadedHandler): Promise<void> {
    const { event, attempt, coalesced } = delivery
    const { ignoreOwnChanges, onChange, first } = handler.options
    const about = aboutOf(delivery)
    const known = callers.has(handler.name) ? troubleFor(event) : undefined
    if (known) return postpone(delivery, known, about)
    const loop = JSON.stringify([handler.name, orderingKeyOf(event)])
    // A handler that never calls Bitrix24 cannot cause a loop.
    const throttledUntil = callers.has(handler.name) ? await loopBreaker.throttledUntil(loop) : undefined
    if (throttledUntil !== undefined) {
      const reason = 'throttled by the loop breaker'
      await queue.postpone(delivery, { due: throttledUntil, error: reason })
      return onOutcome({ handler: handler.name, event, outcome: 'throttled', ms: 0, reason })
    }
    const timeout = handler.options.timeout ?? deps.handlerTimeout
    const timer = createRunTimer(timeout, deps.interrupt)
    const started = performance.now()
    const ms = () => Math.round(performance.now() - started)
    const end = async (outcome: Ended['outcome'], snapshot: Ended['snapshot']) => {
      await queue.done(delivery, keepsNothing(delivery) ? null : snapshot)
      const took = ms()
      log.info({ ...about, ms: took }, outcome)
      onOutcome({ handler: handler.name, event, outcome, ms: took })
    }
    const run = createRun({
      delivery,
      log: log.child(about),
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
        log.error({ ...about, err: error }, 'failed after its run had ended')
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
    const endFailed = async (error: unknown) => {
      timer.stop()
      // Before the delivery ends: the next delivery of the object must not start beside the stuck run.
      if (error instanceof HandlerStuck) onStuck(error)
      const trouble = await run.incomingWebhookTrouble()
      run.cutCalls(error)
      if (trouble) await postpone(delivery, trouble, { ...about, err: error }, ms())
      else await fail(delivery, handler, { error, ms: ms(), isGone: run.isGone() })
    }
    const write = await toItsEnd().then(
      ({ outcome, snapshot }) => {
        state = 'ended'
        return () => end(outcome, snapshot)
      },
      (error: unknown) => {
        state = 'failed'
        return () => endFailed(error)
      },
    )
    try {
      await write()
    } finally {
      timer.stop()
      const hold = run.hasWritten() && event.object !== undefined ? await loopBreaker.wrote(loop) : undefined
      if (hold) {
        log.warn(
          { ...about, reason: hold.reason, until: new Date(hold.until).toISOString() },
          'throttled: perhaps a loop',
        )
        const { id, object } = event
        deps.onThrottled?.({ handler: handler.name, id, event: event.event, object, ...hold })
      }
    }
  }

  /** Returns the trouble of the event's incoming webhook, or the lack of one. */
  function troubleFor(event: JournalledEvent): Bitrix24Error | NoAccess | undefined {
    const access = portals.accessFor(event)
    return 'refusal' in access ? access : access.health.trouble()
  }

  async function postpone(delivery: Delivery, trouble: Bitrix24Error | NoAccess, about: object, ms = 0): Promise<void> {
    const { handler, event } = delivery
    const message = 'refusal' in trouble ? trouble.refusal : trouble.message
    if ('refusal' in trouble) portals.waitFor(event)
    const due = Date.now() + longestPostponement
    await queue.postpone(delivery, { due, error: message })
    log.info({ ...about, ...(ms > 0 && { ms }), reason: message }, 'postponed until the incoming webhook works')
    onOutcome({ handler, event, outcome: 'postponed', ms, reason: message })
    // The incoming webhook may have recovered during the write.
    if (!troubleFor(event)) resume()
  }

  async function fail(
    delivery: Delivery,
    handler: LoadedHandler,
    { error, ms, alone = false, isGone = false }: Failed,
  ): Promise<void> {
    const { event, attempt } = delivery
    const retryFor = handler.options.retryFor ?? deps.retryFor
    const ranMs = delivery.spentMs + (ms ?? 0)
    const { delayMs, refused } = nextTry({ error, attempt, spentMs: ranMs, retryFor, random: Math.random() })
    const refusal = refused && tellRefusal(refused, handler)
    const about = {
      ...aboutOf(delivery),
      ...(ms !== undefined && { ms }),
      ...(refusal && { refused: refusal }),
      err: error,
    }
    const reason = refusal ? `${errorText(error)} (${refusal})` : errorText(error)
    const tell = (outcome: Outcome['outcome']) =>
      onOutcome({ handler: handler.name, event, outcome, ms: ms ?? 0, reason })
    if (delayMs === undefined && isGone) {
      await queue.done(delivery)
      log.info(about, 'gone')
      tell('gone')
    } else if (delayMs === undefined) {
      await queue.dead(delivery, reason)
      log.error(about, 'failed for good: this delivery is dead')
      tell('dead')
    } else {
      const due = Date.now() + delayMs
      await queue.retry(delivery, { due, error: reason, spentMs: ranMs + delayMs, alone })
      log.warn({ ...about, retry_at: new Date(due).toISOString() }, 'failed, will be tried again')
      tell('retried')
    }
  }

  return {
    run,
    async giveUp(delivery, unreadable) {
      const { handler, event } = delivery
      const reason = `the event kept for it cannot be read (${unreadable}), and the journal here has none of this id, name and object: "b24-receiver show ${event.id} --raw" prints its bytes`
      await queue.dead(delivery, reason)
      log.error({ ...aboutOf(delivery), reason }, 'failed for good: this delivery is dead')
      onOutcome({ handler, event, outcome: 'dead', ms: 0, reason })
    },
    chargeCrash: (delivery, handler) =>
      fail(delivery, handler, { error: new Error(crashOf(deps.lastEnd)), alone: true }),
  }
}

/** A run that did not fail, and the snapshot to store. */
interface Ended {
  readonly outcome: 'handled' | 'unchanged' | 'remembered' | 'gone' | 'own_change'
  readonly snapshot?: SnapshotFields | null | undefined
}

interface Failed {
  readonly error: unknown
  readonly ms?: number
  /** The delivery may have ended its process, so it is quarantined and runs in isolation. */
  readonly alone?: boolean
  /** The event's object no longer exists. */
  readonly isGone?: boolean
}

function crashOf(lastEnd: string | undefined): string {
  return `the dispatcher died while this ran${lastEnd === undefined ? '' : `: ${lastEnd}`}`
}

/** Says why the delay that a handler chose was refused. */
function tellRefusal({ chosenMs, leftMs }: NonNullable<NextTry['refused']>, { options }: LoadedHandler): string {
  const limit = options.retryFor === undefined ? 'RETRY_FOR' : 'its retryFor'
  return `a delay of ${toDuration(chosenMs)} is longer than the ${toDuration(leftMs)} that are left of ${limit}: refused`
}

/** Returns the fields that a log line about a delivery has. */
function aboutOf({ handler, event, attempt, coalesced }: Delivery): object {
  return {
    id: event.id,
    event: event.event,
    object: event.object,
    handler,
    attempt,
    ...(coalesced > 1 && { coalesced }),
  }
}

/** A handler ignored its signal. Only a new process frees its object. */
class HandlerStuck extends Error {
  override readonly name = 'HandlerStuck'
}
