import { rm, stat } from 'node:fs/promises'
import { setTimeout as sleep, setImmediate as tick } from 'node:timers/promises'
import { inspect } from 'node:util'
import type { Logger } from 'pino'
import { follow, type Position } from '../journal/follow.ts'
import { listSegments } from '../journal/segments.ts'
import type { Delivery, Queue } from './queue.ts'
import type { LoadedHandler } from './registry.ts'
import { nextTry } from './retry.ts'

export interface DispatcherParts {
  readonly dataDir: string
  readonly from: Position
  readonly handlers: readonly LoadedHandler[]
  readonly queue: Queue
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
  /** Takes no more and gives the handlers that run so many milliseconds; those that need longer run again some day. */
  stop(grace: number): Promise<void>
}

/** The clock may jump, and a timer cannot be set for longer than 24 days. */
const longestSleep = 60_000

const hour = 3_600_000
const day = 24 * hour

/** follow → match → queue → run. */
export async function startDispatcher(parts: DispatcherParts): Promise<Dispatcher> {
  const { dataDir, from, handlers, queue, concurrency, retentionDays, log, onEnded } = parts
  const byName = new Map(handlers.map((handler) => [handler.name, handler]))
  const stopping = new AbortController()
  const running = new Map<Delivery, Promise<void>>()
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
    const timeout = handler.options.timeout ?? parts.handlerTimeout
    const signal = AbortSignal.timeout(timeout)
    const started = performance.now()
    const ms = () => Math.round(performance.now() - started)
    const over = new AbortController()
    try {
      await Promise.race([
        handler.handle(event, { log: log.child(about), signal, attempt, coalesced }),
        // JavaScript cannot be stopped. A handler that ignores its signal holds its object until the process goes.
        sleep(2 * timeout, undefined, { signal: over.signal, ref: false }).then(() => {
          throw new HandlerStuck(`${handler.name} did not end ${2 * timeout} ms after its start`)
        }),
      ])
      // What it did after the time was up counts as not done: it was told to stop.
      signal.throwIfAborted()
      await queue.done(delivery)
      log.info({ ...about, ms: ms() }, 'handled')
    } catch (error) {
      // Before its delivery ends: what waits behind it must not start beside it.
      if (error instanceof HandlerStuck) giveUp(error)
      await fail(delivery, handler, error, { ...about, ms: ms() })
    } finally {
      over.abort()
    }
  }

  /** @param alone it killed its process, so it is to run alone */
  async function fail(
    delivery: Delivery,
    handler: LoadedHandler,
    error: unknown,
    about: object,
    alone = false,
  ): Promise<void> {
    const { attempt, firstRunAt } = delivery
    // A handler may throw anything, also what has no text.
    const text = error instanceof Error ? String(error) : inspect(error)
    const retryFor = handler.options.retryFor ?? parts.retryFor
    const due = nextTry({ error, attempt, firstRunAt, now: Date.now(), retryFor, random: Math.random() })
    if (due === undefined) {
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
    await fail(delivery, handler, new Error('the dispatcher died while this ran'), about, true)
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
  fill()
  const following = followJournal()
  following.catch(giveUp)
  const retireNow = () => {
    retiring = retiring.then(retire).catch(giveUp)
  }
  const hourly = setInterval(retireNow, hour)
  retireNow()

  return {
    failed: failure.promise,
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
