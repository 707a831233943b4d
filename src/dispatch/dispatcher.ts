import { setTimeout as sleep, setImmediate as tick } from 'node:timers/promises'
import { orderingKeyOf } from '../events/ordering-key.ts'
import type { LoadedHandler } from '../handler/loader.ts'
import type { Damage } from '../journal/damage.ts'
import { follow } from '../journal/follow.ts'
import type { Position } from '../journal/position.ts'
import { errorText } from '../lib/error-text.ts'
import { findInJournal } from '../queue/from-journal.ts'
import { createLoopBreaker } from '../queue/loop-breaker.ts'
import type { Delivery, Queue } from '../queue/queue.ts'
import type { AbsentHandler } from './absent.ts'
import { deliveriesOf, snapshotsToDrop } from './matching.ts'
import { type RetentionDeps, removeOldSegments } from './retention.ts'
import { createRunner, type RunnerDeps } from './runner.ts'
import { GlobalsChanged } from './shared-globals.ts'

/** `onOutcome` is called when a run ends, whatever its outcome: it shows that this process works. */
export interface DispatcherDeps
  extends Pick<
      RunnerDeps,
      'portals' | 'ownChanges' | 'retryFor' | 'handlerTimeout' | 'log' | 'lastEnd' | 'onThrottled'
    >,
    Partial<Pick<RunnerDeps, 'loopBreaker' | 'onOutcome'>>,
    Partial<Pick<RetentionDeps, 'onRetained'>>,
    Pick<RetentionDeps, 'dataDir' | 'retentionDays'> {
  /** Where to follow the journal from. If undefined, another process follows it. */
  readonly from: Position | undefined
  readonly handlers: readonly LoadedHandler[]
  /** The handlers that are not loaded, by name. An entry disappears when its handler is loaded after all or forgotten. */
  readonly absent?: ReadonlyMap<string, AbsentHandler>
  readonly queue: Queue
  /** How many runs may be under way at once; 0 if other processes run the handlers. */
  readonly concurrency: number
  readonly onDamage?: (damage: Damage) => void
  /** Called when something that a run started fails after the run has ended. */
  readonly onLate?: (delivery: Delivery, reason: string) => void
  /** Returns the names of the changed built-ins; see shared-globals.ts. */
  readonly changedGlobals?: () => readonly string[]
  readonly onForwarded?: () => void
}

/** The clock may jump, and a Node timer cannot be set for longer than 24 days. */
const maxSleepMs = 60_000

const hour = 3_600_000

/** Follows the journal, matches events to handlers, queues deliveries and runs them. */
export async function startDispatcher(deps: DispatcherDeps) {
  const { dataDir, from, queue, concurrency, log, absent = new Map<string, AbsentHandler>() } = deps
  const { onDamage = () => undefined, onLate = () => undefined, onForwarded = () => undefined } = deps
  const { changedGlobals = () => [], onRetained = () => undefined } = deps
  const handlers = [...deps.handlers]
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
  let removing = Promise.resolve()
  let followed = from
  let isStopping = false
  const runner = createRunner({
    loopBreaker: createLoopBreaker(),
    onOutcome: () => undefined,
    ...deps,
    onStuck: giveUp,
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
      const all = { loaded: handlers, absent: [...absent.values()] }
      const deliveries = deliveriesOf(entries, all)
      const droppedSnapshots = snapshotsToDrop(entries, all)
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
    checkGlobals()
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
    if (due !== undefined) alarm = setTimeout(fill, Math.min(Math.max(0, due - Date.now()), maxSleepMs))
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

  /** Checks the shared globals after runs are recorded. If several ran together, any may have made the change. */
  function checkGlobals(): void {
    const changed = ended.size > 0 ? changedGlobals() : []
    const names = new Set([...ended, ...[...running.keys()].map((delivery) => delivery.handler)])
    ended.clear()
    if (changed.length > 0) giveUp(new GlobalsChanged(changed, [...names]))
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
  const removeOld = () => {
    const retention = { ...deps, onRetained, followedSegment: () => followed?.segment, signal: stopping.signal }
    removing = removing.then(() => removeOldSegments(retention)).catch(giveUp)
  }
  const hourly = setInterval(removeOld, hour)
  removeOld()

  return {
    /** Rejects when this process cannot continue: the journal or the queue failed, or a handler does not end. */
    failed: failure.promise,
    /** Makes postponed deliveries ready to run. */
    resume,
    /** Adds a handler that is loaded after all: the events kept for it may run. */
    adopt: (handler: LoadedHandler) => {
      handlers.push(handler)
      byName.set(handler.name, handler)
      fill()
    },
    /** Claims no more deliveries, and waits `grace` milliseconds for the runs. Unfinished deliveries run again later. */
    stop: async (grace: number) => {
      isStopping = true
      stopping.abort()
      queue.failFast()
      clearTimeout(alarm)
      clearInterval(hourly)
      await Promise.allSettled([following, claiming, removing])
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
