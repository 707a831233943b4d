import { rm, stat } from 'node:fs/promises'
import { setTimeout as sleep, setImmediate as tick } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Portals } from '../bitrix24/portals.ts'
import { isDeletion } from '../events/catalogue.ts'
import type { Damage } from '../journal/damage.ts'
import { follow, type JournalledEvent, type Position } from '../journal/follow.ts'
import { listSegments } from '../journal/segments.ts'
import type { AbsentHandler } from './absent.ts'
import { errorText } from '../lib/error-text.ts'
import { findInJournal } from '../queue/from-journal.ts'
import { laneOf } from '../events/ordering-key.ts'
import { createLoopBreaker, type LoopBreaker } from '../queue/loop-breaker.ts'
import type { Throttled } from './messages.ts'
import type { OwnWrites } from '../queue/own-changes.ts'
import type { Delivery, NewDelivery, Queue } from '../queue/queue.ts'
import type { LoadedHandler } from '../handler/loader.ts'
import { createRunner, type Outcome } from './runner.ts'

export interface DispatcherParts {
  readonly dataDir: string
  /** Where to follow the journal from; without it others do. */
  readonly from: Position | undefined
  readonly handlers: readonly LoadedHandler[]
  /** By name, those that are not loaded. It may lose some: they are loaded after all, or forgotten. */
  readonly absent?: ReadonlyMap<string, AbsentHandler>
  readonly queue: Queue
  readonly portals: Portals
  readonly ownWrites: OwnWrites
  /** Without one this process counts for itself. */
  readonly loopBreaker?: LoopBreaker
  /** Runs at once; 0 where others run them. */
  readonly concurrency: number
  /** Milliseconds, as is `handlerTimeout`. */
  readonly retryFor: number
  readonly handlerTimeout: number
  /** Days after which a segment that was followed goes. */
  readonly retentionDays: number
  readonly log: Logger
  /** A run ended, one way or another: this process is able to work. */
  readonly onOutcome?: (outcome: Outcome) => void
  /** A line of the journal cannot be read. */
  readonly onDamage?: (damage: Damage) => void
  /** Something that a run has started failed after its end. */
  readonly onLate?: (delivery: Delivery, reason: string) => void
  /** How the process before this one ended, where its receiver knows. */
  readonly lastEnd?: string | undefined
  /** See shared-globals.ts. */
  readonly lookAtGlobals?: () => readonly string[]
  readonly onThrottled?: (throttled: Throttled) => void
  /** Deliveries were added. */
  readonly onForwarded?: () => void
  /** Why segments stay that are older than the retention; `undefined` where none does. */
  readonly onRetained?: (trouble: string | undefined) => void
}

/** Built-ins that all handlers share are not what they were. They were put back; who has them in a variable does not know. */
export class GlobalsChanged extends Error {
  override readonly name = 'GlobalsChanged'
  /** Any of these did it. */
  readonly handlers: readonly string[]

  constructor(changed: readonly string[], handlers: readonly string[]) {
    super(
      `${handlers.length === 1 ? `the handler ${handlers[0]}` : `one of the handlers ${handlers.join(', ')}`} changed ${changed.join(', ')}, which all handlers share: define a function of your own instead (docs/handlers.md)`,
    )
    this.handlers = handlers
  }
}

export interface Dispatcher {
  /** Rejects when this process cannot go on: the journal or the queue is gone, or a handler does not end. */
  readonly failed: Promise<never>
  /** What was postponed may run. */
  readonly resume: () => void
  /** It is loaded after all: what is kept for it may run. */
  readonly adopt: (handler: LoadedHandler) => void
  /** Takes no more and gives the handlers that run so many milliseconds; those that need longer run again some day. */
  stop(grace: number): Promise<void>
}

/** The clock may jump, and a timer cannot be set for longer than 24 days. */
const longestSleep = 60_000

const hour = 3_600_000
const day = 24 * hour

/** What a backfill found may be for one handler alone. */
function isFor(loaded: Pick<LoadedHandler, 'name' | 'matches'>, event: JournalledEvent): boolean {
  return event.erased !== true && (event.handler ?? loaded.name) === loaded.name && loaded.matches(event.event)
}

/** follow → match → queue → run. */
export async function startDispatcher(parts: DispatcherParts): Promise<Dispatcher> {
  const { dataDir, from, queue, concurrency, retentionDays, log, absent = new Map<string, AbsentHandler>() } = parts
  const handlers = [...parts.handlers]
  const { onOutcome = () => undefined, onForwarded = () => undefined } = parts
  const { onDamage = () => undefined, onRetained = () => undefined, lookAtGlobals = () => [] } = parts
  const { onLate = () => undefined } = parts
  const byName = new Map(handlers.map((handler) => [handler.name, handler]))
  const stopping = new AbortController()
  const running = new Map<Delivery, Promise<void>>()
  /** Handlers whose runs have ended since the last look at what they share. */
  const ended = new Set<string>()
  /** Their object was deleted while they ran. */
  const outlived = new Set<number>()
  const failure = Promise.withResolvers<never>()
  let alarm: NodeJS.Timeout | undefined
  let claiming: Promise<unknown> = Promise.resolve()
  let isFillDue = false
  let retiring = Promise.resolve()
  let followed = from
  let isStopping = false
  const { loopBreaker = createLoopBreaker() } = parts
  const runner = createRunner({
    ...parts,
    loopBreaker,
    onStuck: giveUp,
    onOutcome,
    resume,
    onLate: (delivery, error) => void noteLate(delivery, error),
    keepsNothing: ({ key }) => outlived.has(key),
  })

  /** This process cannot go on: it begins nothing more, and whoever started us stops us. */
  function giveUp(error: unknown): void {
    // Whoever stops us does not wait for more than what can be done.
    if (isStopping) log.error({ err: error }, 'not written down before the end')
    stopping.abort()
    failure.reject(error)
  }

  /** It is among the failures of its delivery, and changes nothing of what became of that. */
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
          .map(({ name, options: { order, settle } }) => ({ handler: name, event, segment, order, settle })),
        ...[...absent.values()]
          .filter((handler) => isFor(handler, event))
          .map(({ name, order, settle }) => ({ handler: name, event, segment, order, settle, isAbsent: true })),
      ])
      const unseen = entries.flatMap(({ event }) => keepersNotTold(event).map(({ name }) => ({ handler: name, event })))
      for (const { handler, event } of unseen)
        for (const delivery of running.keys())
          if (delivery.handler === handler && laneOf(delivery.event) === laneOf(event)) outlived.add(delivery.key)
      await queue.add(deliveries, position, unseen)
      followed = position
      if (deliveries.length === 0) continue
      onForwarded()
      fill()
    }
  }

  /** Of an object that is deleted nothing has to be kept; one that is told of it needs it for that run, which drops it. */
  function keepersNotTold({ event, object }: JournalledEvent): readonly { readonly name: string }[] {
    if (object === undefined || !isDeletion(event)) return []
    return [
      ...handlers.filter((handler) => handler.options.onChange && !handler.matches(event)),
      // For one that keeps nothing there is nothing to drop.
      ...[...absent.values()].filter((handler) => !handler.matches(event)),
    ]
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
        // What was released is the next process's, and the queue may be closed.
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

  /** After runs that are written down. Of several that ran together each may have done it; none is charged. */
  function look(): void {
    const changed = ended.size > 0 ? lookAtGlobals() : []
    const names = new Set([...ended, ...[...running.keys()].map((delivery) => delivery.handler)])
    ended.clear()
    if (changed.length === 0) return
    giveUp(new GlobalsChanged(changed, [...names]))
  }

  /** The journal is what was acknowledged: where the queue's copy of an event cannot be read, its line is taken. */
  async function runIfReadable(delivery: Delivery, handler: LoadedHandler): Promise<void> {
    const { unreadable, ...rest } = delivery
    if (unreadable === undefined) return runner.run(delivery, handler)
    const { id, event: name } = delivery.event
    const event = await findInJournal(dataDir, { id, name, lane: laneOf(delivery.event) })
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
    claiming = claiming.then(() => queue.resume()).catch(giveUp)
    fill()
  }

  async function chargeCrash(): Promise<void> {
    for (let delivery = await queue.recover(); delivery !== undefined; delivery = await queue.recover()) {
      const handler = byName.get(delivery.handler)
      // Its file is gone: it waits with the rest of what that handler is owed.
      if (handler === undefined) await queue.release(delivery)
      else await runner.chargeCrash(delivery, handler)
    }
  }

  /** Others that share the queue may have died. */
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
      // It costs room, and no event: what handlers run for does not depend on it.
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
    // What a tool or another receiver has added, or made ready again.
    queue.watch({ changed: fill, died: takeOver })
    // Hooks are taken for good until a call fails.
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
      queue.hurry()
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
