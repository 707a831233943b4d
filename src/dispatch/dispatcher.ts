import { rm, stat } from 'node:fs/promises'
import { setTimeout as sleep, setImmediate as tick } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Throttled } from '../alerts/incidents.ts'
import type { Portals } from '../bitrix24/portals.ts'
import { isDeletion } from '../events/catalogue.ts'
import type { JournalledEvent } from '../events/event.ts'
import { orderingKeyOf } from '../events/ordering-key.ts'
import type { LoadedHandler } from '../handler/loader.ts'
import type { Damage } from '../journal/damage.ts'
import { follow } from '../journal/follow.ts'
import type { Position } from '../journal/position.ts'
import { listSegments } from '../journal/segments.ts'
import { errorText } from '../lib/error-text.ts'
import { findInJournal } from '../queue/from-journal.ts'
import { createLoopBreaker, type LoopBreaker } from '../queue/loop-breaker.ts'
import type { OwnChanges } from '../queue/own-changes.ts'
import type { Delivery, NewDelivery, Queue } from '../queue/queue.ts'
import type { AbsentHandler } from './absent.ts'

import { createRunner, type Outcome } from './runner.ts'

export interface DispatcherDeps {
  readonly dataDir: string
  /** Where to follow the journal from. If undefined, another process follows it. */
  readonly from: Position | undefined
  readonly handlers: readonly LoadedHandler[]
  /** The handlers that are not loaded, by name. An entry disappears when its handler is loaded after all or forgotten. */
  readonly absent?: ReadonlyMap<string, AbsentHandler>
  readonly queue: Queue
  readonly portals: Portals
  readonly ownChanges: OwnChanges
  /** Without it, this process counts only its own runs. */
  readonly loopBreaker?: LoopBreaker
  /** How many runs may be under way at once; 0 if other processes run the handlers. */
  readonly concurrency: number
  /** Milliseconds, like `handlerTimeout`. */
  readonly retryFor: number
  readonly handlerTimeout: number
  /** Days after which a segment that was followed is removed. */
  readonly retentionDays: number
  readonly log: Logger
  /** Called when a run ends, whatever its outcome: it shows that this process works. */
  readonly onOutcome?: (outcome: Outcome) => void
  /** Called when a line of the journal cannot be read. */
  readonly onDamage?: (damage: Damage) => void
  /** Called when something that a run started fails after the run has ended. */
  readonly onLate?: (delivery: Delivery, reason: string) => void
  /** How the previous process ended, if the receiver knows. */
  readonly lastEnd?: string | undefined
  /** Returns the names of the changed built-ins; see shared-globals.ts. */
  readonly lookAtGlobals?: () => readonly string[]
  readonly onThrottled?: (throttled: Throttled) => void
  /** Called when deliveries were added. */
  readonly onForwarded?: () => void
  /** Receives why segments older than the retention are still there; `undefined` if there are none. */
  readonly onRetained?: (trouble: string | undefined) => void
}

/**
 * A handler changed built-ins that all handlers share. They were restored, but code
 * may hold the changed ones in a variable.
 */
export class GlobalsChanged extends Error {
  override readonly name = 'GlobalsChanged'
  /** The handlers of which one made the change. */
  readonly handlers: readonly string[]

  constructor(changed: readonly string[], handlers: readonly string[]) {
    super(
      `${handlers.length === 1 ? `the handler ${handlers[0]}` : `one of the handlers ${handlers.join(', ')}`} changed ${changed.join(', ')}, which all handlers share: define a function of your own instead (docs/handlers.md)`,
    )
    this.handlers = handlers
  }
}

export interface Dispatcher {
  /** Rejects when this process cannot continue: the journal or the queue failed, or a handler does not end. */
  readonly failed: Promise<never>
  /** Makes postponed deliveries ready to run. */
  readonly resume: () => void
  /** Adds a handler that is loaded after all: the events kept for it may run. */
  readonly adopt: (handler: LoadedHandler) => void
  /**
   * Claims no more deliveries, and waits `grace` milliseconds for the running
   * handlers. Unfinished deliveries run again later.
   */
  stop(grace: number): Promise<void>
}

/** Milliseconds. The clock may jump, and a Node timer cannot be set for longer than 24 days. */
const longestSleep = 60_000

const hour = 3_600_000
const day = 24 * hour

/** An event that a backfill found may be for a single handler. */
function isFor(loaded: Pick<LoadedHandler, 'name' | 'matches'>, event: JournalledEvent): boolean {
  return event.erased !== true && (event.handler ?? loaded.name) === loaded.name && loaded.matches(event.event)
}

/** Follows the journal, matches events to handlers, queues deliveries and runs them. */
export async function startDispatcher(deps: DispatcherDeps): Promise<Dispatcher> {
  const { dataDir, from, queue, concurrency, retentionDays, log, absent = new Map<string, AbsentHandler>() } = deps
  const handlers = [...deps.handlers]
  const { onOutcome = () => undefined, onForwarded = () => undefined } = deps
  const { onDamage = () => undefined, onRetained = () => undefined, lookAtGlobals = () => [] } = deps
  const { onLate = () => undefined } = deps
  const byName = new Map(handlers.map((handler) => [handler.name, handler]))
  const stopping = new AbortController()
  const running = new Map<Delivery, Promise<void>>()
  /** Handlers whose runs have ended since the last check of the shared globals. */
  const ended = new Set<string>()
  /** Keys of the deliveries whose object was deleted while they ran. */
  const outlived = new Set<number>()
  const failure = Promise.withResolvers<never>()
  let alarm: NodeJS.Timeout | undefined
  let claiming: Promise<unknown> = Promise.resolve()
  let isFillDue = false
  let retiring = Promise.resolve()
  let followed = from
  let isStopping = false
  const { loopBreaker = createLoopBreaker() } = deps
  const runner = createRunner({
    ...deps,
    loopBreaker,
    onStuck: giveUp,
    onOutcome,
    resume,
    onLate: (delivery, error) => void noteLate(delivery, error),
    keepsNothing: ({ key }) => outlived.has(key),
  })

  /** Starts no more work and rejects `failed`: the caller stops this process. */
  function giveUp(error: unknown): void {
    // During a stop the process may exit before the caller reports `failed`, so the error is logged here.
    if (isStopping) log.error({ err: error }, 'not written down before the end')
    stopping.abort()
    failure.reject(error)
  }

  /** Records the failure with the delivery. The delivery's outcome does not change. */
  async function noteLate(delivery: Delivery, error: unknown): Promise<void> {
    const reason = errorText(error)
    onLate(delivery, reason)
    try {
      await queue.noteFailure(delivery, `after its end: ${reason}`)
    } catch (err) {
      log.warn({ id: delivery.event.id, err }, 'a failure after the end of its run is in the log alone')
    }
  }

  async function followJournal(from: Position): Promise<void> {
    for await (const { entries, position } of follow({ dataDir, from, signal: stopping.signal, onDamage, log })) {
      const deliveries = entries.flatMap(({ event, at: { segment } }): NewDelivery[] => [
        ...handlers
          .filter((handler) => isFor(handler, event))
          .map(({ name, options: { order, debounce } }) => ({ handler: name, event, segment, order, debounce })),
        ...[...absent.values()]
          .filter((handler) => isFor(handler, event))
          .map(({ name, order, debounce }) => ({ handler: name, event, segment, order, debounce, isAbsent: true })),
      ])
      const droppedSnapshots = entries.flatMap(({ event }) =>
        keepersNotTold(event).map(({ name }) => ({ handler: name, event })),
      )
      for (const { handler, event } of droppedSnapshots)
        for (const delivery of running.keys())
          if (delivery.handler === handler && orderingKeyOf(delivery.event) === orderingKeyOf(event))
            outlived.add(delivery.key)
      await queue.add(deliveries, position, droppedSnapshots)
      followed = position
      if (deliveries.length === 0) continue
      onForwarded()
      fill()
    }
  }

  /**
   * Returns the handlers whose snapshot of a deleted object must be dropped now. A handler that receives the deletion is
   * not among them: its run needs the snapshot, and drops it.
   */
  function keepersNotTold({ event, object }: JournalledEvent): readonly { readonly name: string }[] {
    if (object === undefined || !isDeletion(event)) return []
    return [
      ...handlers.filter((handler) => handler.options.onChange && !handler.matches(event)),
      // Whether an absent handler has `onChange` is not known. Dropping a snapshot that does not exist does no harm.
      ...[...absent.values()].filter((handler) => !handler.matches(event)),
    ]
  }

  /**
   * Starts the deliveries that may run now. The queue is asked once per turn of the event loop, however many runs ended
   * together. Without the tick, handlers that never await would block the event loop until nothing is pending for them.
   */
  function fill(): void {
    if (isFillDue) return
    isFillDue = true
    claiming = claiming.then(tick).then(claimAndRun).catch(giveUp)
  }

  async function claimAndRun(): Promise<void> {
    isFillDue = false
    look()
    const free = concurrency - running.size
    if (free <= 0 || stopping.signal.aborted) return
    const busy = [...running.keys()].map((delivery) => delivery.handler)
    const wanted = handlers.map(({ name, options }) => ({
      handler: name,
      limit: options.concurrency - busy.filter((handler) => handler === name).length,
      coalesce: options.coalesce,
    }))
    for (const delivery of await queue.claim(wanted, free)) run(delivery)
    const due = await queue.nextDue()
    clearTimeout(alarm)
    if (due !== undefined) alarm = setTimeout(fill, Math.min(Math.max(0, due - Date.now()), longestSleep))
  }

  function run(delivery: Delivery): void {
    const handler = byName.get(delivery.handler)
    if (handler === undefined) throw new Error(`the queue gave a delivery of ${delivery.handler}, which is not loaded`)
    const run = runIfReadable(delivery, handler)
      .catch((error: unknown) => {
        // A delivery that was released belongs to the next process, and the queue may be closed.
        if (running.has(delivery)) giveUp(error)
      })
      .finally(() => {
        running.delete(delivery)
        outlived.delete(delivery.key)
        ended.add(handler.name)
        fill()
      })
    running.set(delivery, run)
  }

  /**
   * Checks the shared globals after runs are recorded. If several ran together, any
   * may have made the change: none is charged.
   */
  function look(): void {
    const changed = ended.size > 0 ? lookAtGlobals() : []
    const names = new Set([...ended, ...[...running.keys()].map((delivery) => delivery.handler)])
    ended.clear()
    if (changed.length === 0) return
    giveUp(new GlobalsChanged(changed, [...names]))
  }

  /**
   * The journal is the record of what was acknowledged: if the queue's copy of an event
   * cannot be read, the journal's line replaces it.
   */
  async function runIfReadable(delivery: Delivery, handler: LoadedHandler): Promise<void> {
    const { unreadable, ...rest } = delivery
    if (unreadable === undefined) return runner.run(delivery, handler)
    const { id, event: name } = delivery.event
    const event = await findInJournal(dataDir, { id, name, orderingKey: orderingKeyOf(delivery.event) })
    if (event === undefined) return runner.giveUp(delivery, unreadable)
    await queue.restore(delivery, event)
    log.warn(
      { id, handler: handler.name, reason: unreadable },
      'a stored event cannot be read; its line in the journal is',
    )
    return runner.run({ ...rest, event }, handler)
  }

  function resume(): void {
    if (stopping.signal.aborted) return
    claiming = claiming.then(() => queue.resumePostponed()).catch(giveUp)
    fill()
  }

  async function chargeCrash(): Promise<void> {
    for (let delivery = await queue.reclaim(); delivery !== undefined; delivery = await queue.reclaim()) {
      const handler = byName.get(delivery.handler)
      // The handler's file is gone: the delivery waits with the others that are pending for that handler.
      if (handler === undefined) await queue.release(delivery)
      else await runner.chargeCrash(delivery, handler)
    }
  }

  /** Takes over the deliveries of processes that share the queue and died. */
  function takeOver(): void {
    if (!stopping.signal.aborted) claiming = claiming.then(chargeCrash).catch(giveUp)
    fill()
  }

  /** Removes the segments that were followed and are older than the retention. */
  async function retire(): Promise<void> {
    const segments = await listSegments(dataDir)
    const kept = new Map<string, unknown>()
    for (const { number, path } of segments.slice(0, -1)) {
      if (stopping.signal.aborted || followed === undefined || number >= followed.segment) break
      try {
        if ((await stat(path)).mtimeMs > Date.now() - retentionDays * day) break
      } catch (error) {
        kept.set(path, error)
        continue
      }
      await queue.prune(number)
      // A segment that cannot be removed costs disk space but loses no event, so handlers keep running.
      const error = await rm(path, { force: true }).catch((error: unknown) => error)
      if (error !== undefined) kept.set(path, error)
      else log.info({ segment: path }, 'a segment was followed and is older than RETENTION_DAYS: removed')
    }
    for (const [segment, err] of kept)
      log.error({ segment, err }, 'a segment is older than RETENTION_DAYS and cannot be removed')
    const [first] = kept
    onRetained(
      first && `${kept.size} segments are older than RETENTION_DAYS and cannot be removed: ${String(first[1])}`,
    )
  }

  async function disposeAll(): Promise<void> {
    for (const { name, dispose } of handlers) {
      try {
        await dispose?.()
      } catch (error) {
        log.error({ handler: name, err: error }, 'dispose() failed')
      }
    }
  }

  if (concurrency > 0) {
    await chargeCrash()
    // A tool or another receiver may add deliveries, or make them ready again.
    queue.watch({ changed: fill, died: takeOver })
    // Incoming webhooks are assumed to work until a call fails.
    resume()
  }
  const following = from === undefined ? Promise.resolve() : followJournal(from)
  following.catch(giveUp)
  const retireNow = () => {
    retiring = retiring.then(retire).catch(giveUp)
  }
  const hourly = setInterval(retireNow, hour)
  retireNow()

  return {
    failed: failure.promise,
    resume,
    adopt(handler) {
      handlers.push(handler)
      byName.set(handler.name, handler)
      fill()
    },
    async stop(grace) {
      isStopping = true
      stopping.abort()
      queue.failFast()
      clearTimeout(alarm)
      clearInterval(hourly)
      await Promise.allSettled([following, claiming, retiring])
      const over = new AbortController()
      // The timer keeps the process alive: a handler that waits on no timer or socket does not.
      const ended = Promise.allSettled(running.values()).then(disposeAll)
      await Promise.race([ended, sleep(grace, undefined, { signal: over.signal })])
      over.abort()
      for (const delivery of running.keys()) {
        running.delete(delivery)
        await queue.release(delivery)
      }
    },
  }
}
