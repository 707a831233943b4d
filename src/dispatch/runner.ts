import type { Logger } from 'pino'
import type { Bitrix24Error } from '../bitrix24/bitrix24-error.ts'
import type { NoAccess, Portals } from '../bitrix24/portals.ts'
import { toDuration } from '../config/values.ts'
import type { JournalledEvent } from '../journal/follow.ts'
import { createRun } from './run.ts'
import { errorText } from '../lib/error-text.ts'
import { laneOf } from '../events/ordering-key.ts'
import type { LoopBreaker } from '../queue/loop-breaker.ts'
import type { Throttled } from './messages.ts'
import { judgeChange, noteOwnChange } from './on-change.ts'
import type { OwnWrites } from '../queue/own-changes.ts'
import type { Delivery, Queue, SeenFields } from '../queue/queue.ts'
import type { LoadedHandler } from '../handler/loader.ts'
import { type NextTry, nextTry } from './retry.ts'
import { inScope, type RunScope } from './run-scope.ts'
import { createRunTimer } from './run-timer.ts'

/** What became of a delivery that was claimed. */
export interface Outcome {
  readonly handler: string
  readonly event: JournalledEvent
  readonly outcome: 'handled' | 'unchanged' | 'remembered' | 'gone' | 'echo' | 'retried' | 'dead' | 'postponed' | 'held'
  /** Of the run; 0 where it was not run. */
  readonly ms: number
  /** Why it failed or waits. */
  readonly reason?: string
}

export interface RunnerParts {
  readonly queue: Pick<Queue, 'done' | 'retry' | 'dead' | 'postpone' | 'seen' | 'doubt'>
  readonly portals: Portals
  readonly ownWrites: OwnWrites
  readonly loopBreaker: LoopBreaker
  /** Milliseconds, as is `handlerTimeout`. */
  readonly retryFor: number
  readonly handlerTimeout: number
  readonly log: Logger
  /** This process cannot go on: a handler does not end. */
  readonly onStuck: (error: unknown) => void
  readonly onOutcome: (outcome: Outcome) => void
  readonly onThrottled?: (throttled: Throttled) => void
  /** How the process before this one ended. */
  readonly lastEnd?: string | undefined
  /** Something that a run has started failed after its end. */
  readonly onLate?: (delivery: Delivery, error: unknown) => void
  /** What was postponed may run. */
  readonly resume: () => void
  /** What it saw is of no use any more: its object was deleted meanwhile. */
  readonly keepsNothing?: (delivery: Delivery) => boolean
  /** Somebody who waits for the runs wants them to end: their signals abort. */
  readonly interrupt?: AbortSignal
}

/** Runs deliveries that were claimed, and decides what becomes of them. */
export interface Runner {
  run(delivery: Delivery, handler: LoadedHandler): Promise<void>
  /** Charges the run that, alone, took its process down with it. */
  chargeCrash(delivery: Delivery, handler: LoadedHandler): Promise<void>
  /** The event cannot be read, here nor in the journal. Nothing is guessed: it is dead, its bytes stay. */
  giveUp(delivery: Delivery, unreadable: string): Promise<void>
}

/** Nothing waits for ever for a word that was missed: it looks for itself. */
const longestPostponement = 600_000

export function createRunner(parts: RunnerParts): Runner {
  const { queue, portals, ownWrites, loopBreaker, log, onStuck, onOutcome, resume, keepsNothing = () => false } = parts
  /** Names of the handlers that were seen calling Bitrix24. */
  const callers = new Set<string>()

  async function run(delivery: Delivery, handler: LoadedHandler): Promise<void> {
    const { event, attempt, coalesced } = delivery
    const { ignoreOwnChanges, onChange, first } = handler.options
    const about = aboutOf(delivery)
    const known = callers.has(handler.name) ? troubleFor(event) : undefined
    if (known) return postpone(delivery, known, about)
    const loop = JSON.stringify([handler.name, laneOf(event)])
    // Who never calls Bitrix24 makes no loop.
    const heldUntil = callers.has(handler.name) ? await loopBreaker.heldUntil(loop) : undefined
    if (heldUntil !== undefined) {
      const reason = 'held by the loop breaker'
      await queue.postpone(delivery, { due: heldUntil, error: reason })
      return onOutcome({ handler: handler.name, event, outcome: 'held', ms: 0, reason })
    }
    const timeout = handler.options.timeout ?? parts.handlerTimeout
    const timer = createRunTimer(timeout, parts.interrupt)
    const started = performance.now()
    const ms = () => Math.round(performance.now() - started)
    const end = async (outcome: Ended['outcome'], seen: Ended['seen']) => {
      await queue.done(delivery, keepsNothing(delivery) ? null : seen)
      const took = ms()
      log.info({ ...about, ms: took }, outcome)
      onOutcome({ handler: handler.name, event, outcome, ms: took })
    }
    const run = createRun({
      delivery,
      log: log.child(about),
      timer,
      portals,
      ownWrites,
      onCall: () => void callers.add(handler.name),
    })
    const question = onChange && { delivery, names: onChange, first, queue, readRecord: run.readOnce }
    const stray = Promise.withResolvers<never>()
    stray.promise.catch(() => undefined)
    let state: 'running' | 'ended' | 'failed' = 'running'
    const scope: RunScope = {
      fail(error) {
        // Of a run that failed more may fail: its calls were cut off.
        if (state === 'failed') return
        if (state === 'running') return stray.reject(error)
        log.error({ ...about, err: error }, 'failed after its run had ended')
        parts.onLate?.(delivery, error)
      },
    }
    /** To the end of the handler. Writing that down is no part of it: what fails then is not the handler's failure. */
    const toItsEnd = async (): Promise<Ended> => {
      // Not on a retry: a run that failed half-way has written, too.
      if (ignoreOwnChanges && attempt === 1) {
        const readRecord = onChange ? run.readOnce : run.readRecord
        const verdict = await ownWrites.judge({ handler: handler.name, event, coalesced }, readRecord)
        if (verdict === 'echo') {
          if (question) await noteOwnChange(question)
          return { outcome: 'echo' }
        }
      }
      const change = question && (await judgeChange(question))
      if (change && change.verdict !== 'run') return { outcome: change.verdict, seen: change.seen }
      await Promise.race([
        inScope(scope, async () => handler.handle(structuredClone(event), run.contextWith(change?.previous))).then(
          run.callsEnded,
        ),
        stray.promise,
        // JavaScript cannot be stopped. A handler that ignores its signal holds its object until the process goes.
        timer.overdue.then(() => {
          throw new HandlerStuck(`${handler.name} did not end ${2 * timeout} ms after its start`)
        }),
      ])
      // What it did after the time was up counts as not done: it was told to stop.
      timer.signal.throwIfAborted()
      return { outcome: run.isGone() ? 'gone' : 'handled', seen: change?.seen }
    }
    const endFailed = async (error: unknown) => {
      timer.stop()
      // Before its delivery ends: what waits behind it must not start beside it.
      if (error instanceof HandlerStuck) onStuck(error)
      const trouble = await run.hookTrouble()
      run.cutCalls(error)
      if (trouble) await postpone(delivery, trouble, { ...about, err: error }, ms())
      else await fail(delivery, handler, { error, ms: ms(), isGone: run.isGone() })
    }
    const write = await toItsEnd().then(
      ({ outcome, seen }) => {
        state = 'ended'
        return () => end(outcome, seen)
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
        log.warn({ ...about, reason: hold.reason, until: new Date(hold.until).toISOString() }, 'held: perhaps a loop')
        const { id, object } = event
        parts.onThrottled?.({ handler: handler.name, id, event: event.event, object, ...hold })
      }
    }
  }

  /** Of the hook that is for the event, or that there is none. */
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
    log.info({ ...about, ...(ms > 0 && { ms }), reason: message }, 'postponed until the hook works')
    onOutcome({ handler, event, outcome: 'postponed', ms, reason: message })
    // It may have come back while this was written.
    if (!troubleFor(event)) resume()
  }

  async function fail(
    delivery: Delivery,
    handler: LoadedHandler,
    { error, ms, alone = false, isGone = false }: Failed,
  ): Promise<void> {
    const { event, attempt } = delivery
    const retryFor = handler.options.retryFor ?? parts.retryFor
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
      fail(delivery, handler, { error: new Error(crashOf(parts.lastEnd)), alone: true }),
  }
}

/** A run that did not fail, and what is to be kept of it. */
interface Ended {
  readonly outcome: 'handled' | 'unchanged' | 'remembered' | 'gone' | 'echo'
  readonly seen?: SeenFields | null | undefined
}

interface Failed {
  readonly error: unknown
  readonly ms?: number
  /** It killed its process, so it is to run alone. */
  readonly alone?: boolean
  /** What it was about is not there any more. */
  readonly isGone?: boolean
}

function crashOf(lastEnd: string | undefined): string {
  return `the dispatcher died while this ran${lastEnd === undefined ? '' : `: ${lastEnd}`}`
}

/** Why the delay that a handler chose was not taken. */
function tellRefusal({ chosenMs, leftMs }: NonNullable<NextTry['refused']>, { options }: LoadedHandler): string {
  const limit = options.retryFor === undefined ? 'RETRY_FOR' : 'its retryFor'
  return `a delay of ${toDuration(chosenMs)} is longer than the ${toDuration(leftMs)} that are left of ${limit}: refused`
}

/** For the log. */
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

/** A handler ignored its signal; only a new process gets its object free. */
class HandlerStuck extends Error {
  override readonly name = 'HandlerStuck'
}
