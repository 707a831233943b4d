import { rm, stat } from 'node:fs/promises'
import { setTimeout as sleep, setImmediate as tick } from 'node:timers/promises'
import { inspect } from 'node:util'
import type { Logger } from 'pino'
import type { Bitrix24Error } from '../bitrix24/bitrix24-error.ts'
import type { Portals } from '../bitrix24/portals.ts'
import { follow, type JournalledEvent, type Position } from '../journal/follow.ts'
import { listSegments } from '../journal/segments.ts'
import { createRun } from './context.ts'
import { createLoopBreaker } from './loop-breaker.ts'
import type { OwnWrites } from './own-writes.ts'
import type { Delivery, Queue } from './queue.ts'
import type { LoadedHandler } from './registry.ts'
import { nextTry } from './retry.ts'
import { createRunTimer } from './run-timer.ts'
import { laneOf } from './sqlite-queue.ts'

export interface DispatcherParts {
  readonly dataDir: string
  readonly from: Position
  readonly handlers: readonly LoadedHandler[]
  readonly queue: Queue
  readonly portals: Portals
  readonly ownWrites: OwnWrites
  /** Runs at once. */
  readonly concurrency: number
  /** Milliseconds, as is `handlerTimeout`. */
  readonly retryFor: number
  readonly handlerTimeout: number
  /** Days after which a segment that was followed goes. */
  readonly retentionDays: number
  readonly log: Logger
  /** A run ended, one way or another: this process is able to work. */
  readonly onEnded?: () => void
}

export interface Dispatcher {
  /** Rejects when this process cannot go on: the journal or the queue is gone, or a handler does not end. */
  readonly failed: Promise<never>
  /** What was postponed may run. */
  readonly resume: () => void
  /** Takes no more and gives the handlers that run so many milliseconds; those that need longer run again some day. */
  stop(grace: number): Promise<void>
}

/** The clock may jump, and a timer cannot be set for longer than 24 days. */
const longestSleep = 60_000

/** Nothing waits for ever for a word that was missed: it looks for itself. */
const longestPostponement = 600_000

const hour = 3_600_000
const day = 24 * hour

/** follow → match → queue → run. */
export async function startDispatcher(parts: DispatcherParts): Promise<Dispatcher> {
  const { dataDir, from, handlers, queue, portals, ownWrites, concurrency, retentionDays, log, onEnded } = parts
  const loopBreaker = createLoopBreaker()
  const byName = new Map(handlers.map((handler) => [handler.name, handler]))
  const stopping = new AbortController()
  const running = new Map<Delivery, Promise<void>>()
  /** Names of the handlers that were seen calling Bitrix24. */
  const callers = new Set<string>()
  const failure = Promise.withResolvers<never>()
  let alarm: NodeJS.Timeout | undefined
  let claiming: Promise<unknown> = Promise.resolve()
  let isFillDue = false
  let retiring = Promise.resolve()
  let followed = from

  /** This process cannot go on: it begins nothing more, and whoever started us stops us. */
  function giveUp(error: unknown): void {
    stopping.abort()
    failure.reject(error)
  }

  async function followJournal(): Promise<void> {
    for await (const { entries, position } of follow({ dataDir, from, signal: stopping.signal, log })) {
      const deliveries = entries.flatMap(({ event, at: { segment } }) =>
        handlers
          .filter((handler) => handler.matches(event.event))
          .map(({ name, options: { order, settle } }) => ({ handler: name, event, segment, order, settle })),
      )
      await queue.add(deliveries, position)
      followed = position
      if (deliveries.length > 0) fill()
    }
  }

  /**
   * Starts what may run now. The queue is asked once in a turn of the event loop, however many ended together, and the
   * loop does turn: handlers that never wait would hold it for as long as they are owed something.
   */
  function fill(): void {
    if (isFillDue) return
    isFillDue = true
    claiming = claiming.then(tick).then(claimAndRun).catch(giveUp)
  }

  async function claimAndRun(): Promise<void> {
    isFillDue = false
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
    const ended = runOne(delivery, handler)
      .then(onEnded, (error: unknown) => {
        // What was released is the next process's, and the queue may be closed.
        if (running.has(delivery)) giveUp(error)
      })
      .finally(() => {
        running.delete(delivery)
        fill()
      })
    running.set(delivery, ended)
  }

  async function runOne(delivery: Delivery, handler: LoadedHandler): Promise<void> {
    const { event, attempt, coalesced } = delivery
    const about = {
      id: event.id,
      event: event.event,
      object: event.object,
      handler: handler.name,
      attempt,
      ...(coalesced > 1 && { coalesced }),
    }
    const known = callers.has(handler.name) ? troubleFor(event) : undefined
    if (known) return postpone(delivery, known, about)
    const loop = JSON.stringify([handler.name, laneOf(event)])
    const heldUntil = loopBreaker.heldUntil(loop)
    if (heldUntil !== undefined) return queue.postpone(delivery, { due: heldUntil, error: 'held by the loop breaker' })
    const timeout = handler.options.timeout ?? parts.handlerTimeout
    const timer = createRunTimer(timeout)
    const started = performance.now()
    const ms = () => Math.round(performance.now() - started)
    const run = createRun({
      delivery,
      log: log.child(about),
      timer,
      portals,
      ownWrites,
      onCall: () => void callers.add(handler.name),
    })
    try {
      // Not on a retry: a run that failed half-way has written, too.
      if (handler.options.ignoreOwnChanges && attempt === 1) {
        const verdict = await ownWrites.judge({ handler: handler.name, event, coalesced }, run.readRecord)
        if (verdict === 'echo') {
          await queue.done(delivery)
          log.info({ ...about, ms: ms() }, 'echo')
          return
        }
      }
      await Promise.race([
        handler.handle(event, run.context),
        // JavaScript cannot be stopped. A handler that ignores its signal holds its object until the process goes.
        timer.overdue.then(() => {
          throw new HandlerStuck(`${handler.name} did not end ${2 * timeout} ms after its start`)
        }),
      ])
      // What it did after the time was up counts as not done: it was told to stop.
      timer.signal.throwIfAborted()
      await queue.done(delivery)
      log.info({ ...about, ms: ms() }, run.isGone() ? 'gone' : 'handled')
    } catch (error) {
      timer.stop()
      // Before its delivery ends: what waits behind it must not start beside it.
      if (error instanceof HandlerStuck) giveUp(error)
      const trouble = await run.hookTrouble()
      run.cutCalls(error)
      if (trouble) await postpone(delivery, trouble, { ...about, ms: ms(), err: error })
      else await fail(delivery, handler, error, { ...about, ms: ms() }, { isGone: run.isGone() })
    } finally {
      timer.stop()
      const hold = run.hasWritten() && event.object !== undefined ? loopBreaker.wrote(loop) : undefined
      if (hold)
        log.warn({ ...about, reason: hold.reason, until: new Date(hold.until).toISOString() }, 'held: perhaps a loop')
    }
  }

  /** Of the hook that is for the event. */
  function troubleFor(event: JournalledEvent): Bitrix24Error | undefined {
    const access = portals.accessFor(event)
    return 'refusal' in access ? undefined : access.health.trouble()
  }

  async function postpone(delivery: Delivery, { message }: Bitrix24Error, about: object): Promise<void> {
    const due = Date.now() + longestPostponement
    await queue.postpone(delivery, { due, error: message })
    log.info({ ...about, reason: message }, 'postponed until the hook works')
    // It may have come back while this was written.
    if (!troubleFor(delivery.event)) resume()
  }

  function resume(): void {
    if (stopping.signal.aborted) return
    claiming = claiming.then(() => queue.resume()).catch(giveUp)
    fill()
  }

  /** @param how alone: it killed its process, so it is to run alone; isGone: what it was about is not there any more */
  async function fail(
    delivery: Delivery,
    handler: LoadedHandler,
    error: unknown,
    about: object,
    { alone = false, isGone = false } = {},
  ): Promise<void> {
    const { attempt, firstRunAt } = delivery
    // A handler may throw anything, also what has no text.
    const text = error instanceof Error ? String(error) : inspect(error)
    const retryFor = handler.options.retryFor ?? parts.retryFor
    const due = nextTry({ error, attempt, firstRunAt, now: Date.now(), retryFor, random: Math.random() })
    if (due === undefined && isGone) {
      await queue.done(delivery)
      log.info({ ...about, err: error }, 'gone')
    } else if (due === undefined) {
      await queue.dead(delivery, text)
      log.error({ ...about, err: error }, 'failed for good: this delivery is dead')
    } else {
      await queue.retry(delivery, { due, error: text, alone })
      log.warn({ ...about, err: error, retry_at: new Date(due).toISOString() }, 'failed, will be tried again')
    }
  }

  /** Charges the run that, alone, took the process down with it. */
  async function chargeCrash(): Promise<void> {
    const delivery = await queue.recover()
    if (delivery === undefined) return
    const { handler: name, event, attempt } = delivery
    const handler = byName.get(name)
    // Its file is gone: it waits with the rest of what that handler is owed.
    if (handler === undefined) return queue.release(delivery)
    const about = { id: event.id, event: event.event, object: event.object, handler: name, attempt }
    await fail(delivery, handler, new Error('the dispatcher died while this ran'), about, { alone: true })
  }

  /** Removes the segments that were followed and are older than the retention. */
  async function retire(): Promise<void> {
    const segments = await listSegments(dataDir)
    for (const { number, path } of segments.slice(0, -1)) {
      if (stopping.signal.aborted || number >= followed.segment) return
      if ((await stat(path)).mtimeMs > Date.now() - retentionDays * day) return
      await queue.prune(number)
      await rm(path)
      log.info({ segment: path }, 'a segment was followed and is older than RETENTION_DAYS: removed')
    }
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

  await chargeCrash()
  // Hooks are taken for good until a call fails.
  resume()
  const following = followJournal()
  following.catch(giveUp)
  const retireNow = () => {
    retiring = retiring.then(retire).catch(giveUp)
  }
  const hourly = setInterval(retireNow, hour)
  retireNow()

  return {
    failed: failure.promise,
    resume,
    async stop(grace) {
      stopping.abort()
      clearTimeout(alarm)
      clearInterval(hourly)
      await Promise.allSettled([following, claiming, retiring])
      const over = new AbortController()
      // It keeps the process: a handler that waits for nothing does not.
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

/** A handler ignored its signal; only a new process gets its object free. */
class HandlerStuck extends Error {
  override readonly name = 'HandlerStuck'
}
