import type { Logger } from 'pino'
import { follow, oldest } from '../journal/follow.ts'
import type { Delivery, Queue } from './queue.ts'
import type { LoadedHandler } from './registry.ts'
import { nextTry } from './retry.ts'

export interface DispatcherParts {
  readonly dataDir: string
  readonly handlers: readonly LoadedHandler[]
  readonly queue: Queue
  /** Runs at once. */
  readonly concurrency: number
  /** Milliseconds, as is `handlerTimeout`. */
  readonly retryFor: number
  readonly handlerTimeout: number
  readonly log: Logger
}

export interface Dispatcher {
  /** Rejects when the journal or the queue cannot be used any more. */
  readonly finished: Promise<void>
  /** Takes no more; resolves when the handlers that run have ended. Those that do not are run again some day. */
  stop(): Promise<void>
}

/** The clock may jump, and a timer cannot be set for longer than 24 days. */
const longestSleep = 60_000

/** follow → match → queue → run. */
export function startDispatcher(parts: DispatcherParts): Dispatcher {
  const { dataDir, handlers, queue, concurrency, retryFor, handlerTimeout, log } = parts
  const byName = new Map(handlers.map((handler) => [handler.name, handler]))
  const names = [...byName.keys()]
  const stopping = new AbortController()
  const running = new Set<Promise<void>>()
  const broken = Promise.withResolvers<never>()
  let alarm: NodeJS.Timeout | undefined
  let claiming = Promise.resolve()

  async function followJournal(): Promise<void> {
    const from = (await queue.position()) ?? oldest
    for await (const { events, position } of follow({ dataDir, from, signal: stopping.signal, log })) {
      const deliveries = events.flatMap((event) =>
        handlers.filter((handler) => handler.matches(event.event)).map(({ name }) => ({ handler: name, event })),
      )
      await queue.add(deliveries, position)
      if (deliveries.length > 0) fill()
    }
  }

  /** Starts what may run now. One call at a time asks the queue, however many ended together. */
  function fill(): void {
    claiming = claiming.then(claimAndRun).catch(broken.reject)
  }

  async function claimAndRun(): Promise<void> {
    const free = concurrency - running.size
    if (free <= 0 || stopping.signal.aborted) return
    for (const delivery of await queue.claim(names, free)) {
      const run = runOne(delivery)
        .catch(broken.reject)
        .finally(() => {
          running.delete(run)
          fill()
        })
      running.add(run)
    }
    const due = await queue.nextDue()
    clearTimeout(alarm)
    if (due !== undefined) alarm = setTimeout(fill, Math.min(Math.max(0, due - Date.now()), longestSleep))
  }

  async function runOne(delivery: Delivery): Promise<void> {
    const { event, attempt } = delivery
    const handler = byName.get(delivery.handler)
    if (handler === undefined) throw new Error(`the queue gave a delivery of ${delivery.handler}, which is not loaded`)
    const about = { id: event.id, event: event.event, object: event.object, handler: handler.name, attempt }
    const timeout = AbortSignal.timeout(handlerTimeout)
    const started = performance.now()
    const ms = () => Math.round(performance.now() - started)
    try {
      await handler.handle(event, { log: log.child(about), signal: timeout, attempt })
      // What it did after the time was up counts as not done: it was told to stop.
      timeout.throwIfAborted()
      await queue.done(delivery)
      log.info({ ...about, ms: ms() }, 'handled')
    } catch (error) {
      const now = Date.now()
      const due = nextTry({ error, attempt, createdAt: delivery.createdAt, now, retryFor, random: Math.random() })
      if (due === undefined) {
        await queue.dead(delivery, String(error))
        log.error({ ...about, ms: ms(), err: error }, 'failed for good: this delivery is dead')
      } else {
        await queue.retry(delivery, due, String(error))
        log.warn(
          { ...about, ms: ms(), err: error, retry_at: new Date(due).toISOString() },
          'failed, will be tried again',
        )
      }
    }
  }

  fill()
  const following = followJournal()
  return {
    finished: Promise.race([following, broken.promise]),
    async stop() {
      stopping.abort()
      clearTimeout(alarm)
      await Promise.allSettled([following, claiming])
      await Promise.allSettled(running)
    },
  }
}
