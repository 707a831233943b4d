import type { Logger } from 'pino'
import type { Bitrix24Error } from '../bitrix24/bitrix24-error.ts'
import type { NoAccess, Portals } from '../bitrix24/portals.ts'
import type { JournalledEvent } from '../events/event.ts'
import type { LoadedHandler } from '../handler/loader.ts'
import { toDuration } from '../lib/duration.ts'
import { errorText } from '../lib/error-text.ts'
import type { Delivery, Queue, SnapshotFields } from '../queue/queue.ts'
import { type NextTry, nextTry } from './retry.ts'

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

export interface RecorderDeps {
  readonly queue: Pick<Queue, 'done' | 'retry' | 'dead' | 'postpone'>
  readonly portals: Portals
  /** Milliseconds. */
  readonly retryFor: number
  readonly log: Logger
  readonly onOutcome: (outcome: Outcome) => void
  /** Makes postponed deliveries ready to run. */
  readonly resume: () => void
}

/** A run that did not fail, and the snapshot to store. */
export interface Ended {
  readonly outcome: 'handled' | 'unchanged' | 'remembered' | 'gone' | 'own_change'
  readonly snapshot?: SnapshotFields | null | undefined
}

export interface Failed {
  readonly error: unknown
  /** `undefined` if it is not known how long the run took. */
  readonly ms?: number
  /** The delivery may have ended its process, so it is quarantined and runs in isolation. */
  readonly alone?: boolean
  /** The event's object no longer exists. */
  readonly isGone?: boolean
}

/** Milliseconds. A postponed delivery runs again after this time even if the signal to resume was missed. */
const maxPostponementMs = 600_000

/** Records what becomes of deliveries: in the queue, in the log, and for the metrics. */
export function createRecorder({ queue, portals, retryFor, log, onOutcome, resume }: RecorderDeps) {
  function report({ handler, event }: Delivery, outcome: Outcome['outcome'], ms = 0, reason?: string): void {
    onOutcome({ handler, event, outcome, ms, ...(reason !== undefined && { reason }) })
  }

  /** Returns the trouble of the event's incoming webhook, or the lack of one. */
  function troubleFor(event: JournalledEvent): Bitrix24Error | NoAccess | undefined {
    const access = portals.accessFor(event)
    return 'refusal' in access ? access : access.health.trouble()
  }

  async function markDead(delivery: Delivery, reason: string, fields: object, ms?: number): Promise<void> {
    await queue.dead(delivery, reason)
    log.error({ ...fieldsOf(delivery), ...fields }, 'failed for good: this delivery is dead')
    report(delivery, 'dead', ms, reason)
  }

  return {
    troubleFor,

    /** @param ms returns how long the run took */
    ended: async (delivery: Delivery, { outcome, snapshot }: Ended, ms: () => number): Promise<void> => {
      await queue.done(delivery, snapshot)
      const took = ms()
      log.info({ ...fieldsOf(delivery), ms: took }, outcome)
      report(delivery, outcome, took)
    },

    failed: async (delivery: Delivery, { options }: LoadedHandler, failure: Failed): Promise<void> => {
      const { error, ms, alone = false, isGone = false } = failure
      const spentMs = delivery.spentMs + (ms ?? 0)
      const limits = { attempt: delivery.attempt, spentMs, retryFor: options.retryFor ?? retryFor }
      const { delayMs, refused } = nextTry({ error, ...limits, random: Math.random() })
      const refusal = refused && refusalText(refused, options.retryFor === undefined ? 'RETRY_FOR' : 'its retryFor')
      const fields = { ...(ms !== undefined && { ms }), ...(refusal && { refused: refusal }), err: error }
      const reason = refusal ? `${errorText(error)} (${refusal})` : errorText(error)
      if (delayMs === undefined && !isGone) return markDead(delivery, reason, fields, ms)
      if (delayMs === undefined) {
        await queue.done(delivery)
        log.info({ ...fieldsOf(delivery), ...fields }, 'gone')
      } else {
        const due = Date.now() + delayMs
        await queue.retry(delivery, { due, error: reason, spentMs: spentMs + delayMs, alone })
        const again = { retry_at: new Date(due).toISOString() }
        log.warn({ ...fieldsOf(delivery), ...fields, ...again }, 'failed, will be tried again')
      }
      report(delivery, delayMs === undefined ? 'gone' : 'retried', ms, reason)
    },

    /** @param ran absent if the handler was not run */
    postponed: async (
      delivery: Delivery,
      trouble: Bitrix24Error | NoAccess,
      ran?: { readonly ms: number; readonly err: unknown },
    ): Promise<void> => {
      const { event } = delivery
      const reason = 'refusal' in trouble ? trouble.refusal : trouble.message
      if ('refusal' in trouble) portals.waitFor(event)
      await queue.postpone(delivery, { due: Date.now() + maxPostponementMs, error: reason })
      log.info({ ...fieldsOf(delivery), ...ran, reason }, 'postponed until the incoming webhook works')
      report(delivery, 'postponed', ran?.ms, reason)
      // The incoming webhook may have recovered during the write.
      if (!troubleFor(event)) resume()
    },

    throttled: async (delivery: Delivery, due: number): Promise<void> => {
      const reason = 'throttled by the loop breaker'
      await queue.postpone(delivery, { due, error: reason })
      report(delivery, 'throttled', 0, reason)
    },

    /** Marks a delivery dead whose event can be read neither in the queue nor in the journal. Its bytes are kept. */
    unreadable: (delivery: Delivery, problem: string): Promise<void> => {
      const reason = `the event kept for it cannot be read (${problem}), and the journal here has none of this id, name and object: "b24-receiver show ${delivery.event.id} --raw" prints its bytes`
      return markDead(delivery, reason, { reason })
    },
  }
}

/** Says why the delay that a handler chose was refused. */
function refusalText({ chosenMs, leftMs }: NonNullable<NextTry['refused']>, limit: string): string {
  return `a delay of ${toDuration(chosenMs)} is longer than the ${toDuration(leftMs)} that are left of ${limit}: refused`
}

/** Returns the fields that a log line about a delivery has. */
export function fieldsOf({ handler, event, attempt, coalesced }: Delivery): object {
  const { id, event: name, object } = event
  return { id, event: name, object, handler, attempt, ...(coalesced > 1 && { coalesced }) }
}
