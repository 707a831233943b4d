import { on } from 'node:events'
import type { Logger } from 'pino'
import type { FromDispatcher, ToDispatcher } from '../dispatch/messages.ts'
import type { DispatcherStatus } from '../dispatch/status.ts'
import type { Event } from '../events/event.ts'
import { type Child, startChild } from '../lib/child-process.ts'
import { watchForStall } from '../lib/stall-watchdog.ts'
import { initialSupervision, type SupervisionAction, type SupervisionEvent, supervise } from './supervision.ts'

export interface SupervisorDeps {
  /** Milliseconds for which running handlers may go on when their dispatcher is replaced. */
  readonly graceMs: number
  /** Milliseconds after which an event loop that does not turn counts as stuck. */
  readonly stallMs: number
  /** The data folder of a dispatcher that only runs handlers. */
  readonly workerDir?: string
  readonly forwarderId?: string
  /** Journals events that a dispatcher found missing. Resolves when they are on disk. */
  readonly append: (events: readonly Event[]) => Promise<void>
  /** The time from which the first dispatcher backfills. `undefined`: it does not backfill. */
  readonly backfillSince?: Date | undefined
  /** Called when the events since then are on disk. */
  readonly onBackfilled?: () => void
  readonly log: Logger
}

export interface Supervisor {
  /** Returns what the dispatcher has reported, and how often one ended by itself since the start. */
  status(): DispatcherStatus & { readonly ends: number }
  /** The dispatcher's metrics in Prometheus' text format; `undefined` if it does not send them within a second. */
  metrics(): Promise<string | undefined>
  /** Starts another dispatcher and, when it has loaded every handler, ends the previous one. */
  reload(): void
  /** Resolves when the dispatcher is gone, after `graceMs` at most. */
  stop(graceMs: number): Promise<void>
}

type Dispatcher = Child<FromDispatcher, ToDispatcher>

/** Milliseconds that a scrape waits for a dispatcher; Prometheus gives up after ten seconds. */
const metricsTimeoutMs = 1_000

/** Milliseconds of the grace for a dispatcher to record unfinished work. At most half of the grace is used for it. */
const recordMs = 500

/** Keeps one dispatcher process running. The dispatcher can affect the receiver only by its messages and its exit. */
export function superviseDispatcher(deps: SupervisorDeps): Supervisor {
  const { graceMs, stallMs, workerDir, forwarderId, append, backfillSince, onBackfilled, log } = deps
  const dispatchers = new Map<number, Dispatcher>()
  /** By place, to count each line once: a dispatcher that dies before it stores its position reads lines again. */
  const damaged = new Set<string>()
  const ownArgs = [
    ...(workerDir === undefined ? [] : [`--worker=${workerDir}`]),
    ...(forwarderId === undefined ? [] : [`--forwarder-id=${forwarderId}`]),
  ]
  let backfillArgs = backfillSince === undefined ? [] : [`--backfill-since=${backfillSince.toISOString()}`]
  let supervision = initialSupervision
  let timer: NodeJS.Timeout | undefined
  let asking: Promise<string | undefined> | undefined

  function handle(event: SupervisionEvent): void {
    const { after, actions } = supervise(supervision, event, graceMs)
    supervision = after
    for (const action of actions) perform(action)
  }

  function perform(action: SupervisionAction): void {
    if (action.type === 'log') log[action.level](action.fields, action.text)
    if (action.type === 'start') start(action.id, action.args)
    if (action.type === 'kill') dispatchers.get(action.id)?.kill()
    if (action.type === 'end') void end(dispatchers.get(action.id), action.graceMs)
    if (action.type !== 'schedule_start') return
    clearTimeout(timer)
    if (action.delayMs !== undefined) timer = setTimeout(() => handle({ type: 'start_due' }), action.delayMs)
  }

  function start(id: number, args: readonly string[]): void {
    const script = new URL('../bin/dispatcher.ts', import.meta.url)
    const child: Dispatcher = startChild({ script, args: [...args, ...ownArgs, ...backfillArgs] })
    dispatchers.set(id, child)
    child.channel.events.on('message', (message) => {
      if (message.type === 'append') void journal(child, message)
      if (message.type === 'backfilled') {
        backfillArgs = []
        onBackfilled?.()
      }
      if (message.type !== 'damaged' || isNew(message)) handle({ type: 'message', id, message })
    })
    // The handler may write again, and messages that its output garbled, such as `following`, are lost.
    child.channel.events.once('garbage', () => {
      log.error('a handler wrote to the channel of the dispatcher: killed')
      child.kill()
    })
    const onStall = (silentMs: number) => {
      log.error({ stalled_for_ms: silentMs }, 'a handler blocks the event loop of the dispatcher: killed')
      handle({ type: 'stalled', id })
      child.kill()
    }
    watchForStall(child, { stallMs, onStall })
    void child.exited.then((exit) => {
      dispatchers.delete(id)
      handle({ type: 'exited', id, exit })
    })
  }

  function isNew({ line }: Extract<FromDispatcher, { type: 'damaged' }>): boolean {
    const before = damaged.size
    return damaged.add(`${line.segment}:${line.offset}`).size > before
  }

  async function journal({ channel }: Dispatcher, message: Extract<FromDispatcher, { type: 'append' }>) {
    const { request, events } = message
    try {
      await append(events)
      channel.send({ type: 'appended', request })
    } catch (error) {
      channel.send({ type: 'appended', request, error: String(error) })
    }
  }

  handle({ type: 'start_due' })
  return {
    status: () => ({ ...supervision.status, ends: supervision.ends }),
    metrics() {
      asking ??= askForMetrics(dispatchers.get(supervision.current)).finally(() => {
        asking = undefined
      })
      return asking
    },
    reload: () => handle({ type: 'reload' }),
    async stop(graceMs) {
      const running = [...dispatchers.values()]
      handle({ type: 'stop', graceMs })
      await Promise.all(running.map(({ exited }) => exited))
    },
  }
}

function end(child: Dispatcher | undefined, graceMs: number): Promise<void> | undefined {
  const grace = Math.max(graceMs / 2, graceMs - recordMs)
  return child?.end(graceMs, () => child.channel.send({ type: 'stop', grace }))
}

/** Gives up after a timeout: a dispatcher whose event loop is blocked must not block the scrape. */
async function askForMetrics(dispatcher: Dispatcher | undefined): Promise<string | undefined> {
  if (!dispatcher?.channel.isOpen()) return undefined
  const { events, send } = dispatcher.channel
  try {
    const messages = on(events, 'message', { signal: AbortSignal.timeout(metricsTimeoutMs), close: ['close'] })
    send({ type: 'metrics' })
    for await (const [message] of messages as AsyncIterable<[FromDispatcher]>)
      if (message.type === 'metrics') return message.text
  } catch {
    // The timeout passed, or the process is failing, which the receiver reports elsewhere.
  }
  return undefined
}
