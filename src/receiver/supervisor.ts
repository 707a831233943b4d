import type { ChildProcess } from 'node:child_process'
import { on, once } from 'node:events'
import type { Logger } from 'pino'
import type { DamagedLine, Dead, Throttled } from '../alerts/incidents.ts'
import type { FromDispatcher, ToDispatcher } from '../dispatch/messages.ts'
import type { Event } from '../events/event.ts'

import { type Child, isAlive, startChild } from '../lib/child-process.ts'
import type { QueueState } from '../queue/queue.ts'

export interface SupervisorDeps {
  /** Milliseconds for which running handlers may go on when their dispatcher is replaced. */
  readonly grace: number
  /** Milliseconds after which an event loop that does not turn counts as stuck. */
  readonly stall: number
  /** The data folder of a dispatcher that only runs handlers. */
  readonly workerDir?: string
  /** See lib/forward-mark.ts. */
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
  /** Why no handler runs; `undefined` if handlers run. */
  trouble(): string | undefined
  /** Why each failing incoming webhook does not work, by its label. */
  incomingWebhookTroubles(): ReadonlyMap<string, string>
  /** Why each absent handler is not loaded while the others run, by its name. */
  absentHandlers(): ReadonlyMap<string, string>
  /** Problems that stop no handler. */
  warnings(): readonly string[]
  /** How much is pending, as the dispatcher last reported; `undefined` before its first report. */
  state(): QueueState | undefined
  /** How often a dispatcher ended by itself since the start. */
  ends(): number
  /** The last dead delivery since the start, and their number. */
  dead(): { readonly count: number; readonly last: Dead | undefined }
  /** The last unreadable line of the journal since the start, and their number. */
  damaged(): { readonly count: number; readonly last: DamagedLine | undefined }
  /** The last failure that came after the end of its run since the start, and their number. */
  late(): { readonly count: number; readonly last: Dead | undefined }
  /** The last handler that was throttled since the start, and how often handlers were. */
  throttled(): { readonly count: number; readonly last: Throttled | undefined }
  /** The dispatcher's metrics in Prometheus' text format; `undefined` if it does not send them within a second. */
  metrics(): Promise<string | undefined>
  /** Starts another dispatcher and, when it has loaded every handler, ends the previous one. */
  reload(): Promise<void>
  /** Resolves when the dispatcher is gone, after `grace` milliseconds at most. */
  stop(grace: number): Promise<void>
}

type Dispatcher = Child<FromDispatcher, ToDispatcher>

const starting = 'the dispatcher is starting'

const shortestPause = 500
const longestPause = 30_000

/** Milliseconds for a dispatcher that cannot load its handlers to flush the log lines that say why. */
const lastWords = 1_000

/** Milliseconds that a scrape waits for a dispatcher; Prometheus gives up after ten seconds. */
const scrapePatience = 1_000

/** Milliseconds of the grace for a dispatcher to record unfinished work. At most half of the grace is used for it. */
const lastMoments = 500

/**
 * Keeps one dispatcher process running. The dispatcher can affect the receiver only by its messages and its exit.
 */
export function superviseDispatcher({
  grace,
  stall,
  workerDir,
  forwarderId,
  append,
  backfillSince,
  onBackfilled,
  log,
}: SupervisorDeps): Supervisor {
  let pause = shortestPause
  let timer: NodeJS.Timeout | undefined
  let trouble: string | undefined = starting
  /** By label, as the current dispatcher reported. */
  const incomingWebhookTroubles = new Map<string, string>()
  let absent: ReadonlyMap<string, string> = new Map()
  const warnings = new Map<string, string>()
  let state: QueueState | undefined
  let ends = 0
  let dead: { count: number; last: Dead | undefined } = { count: 0, last: undefined }
  /** By place, to count each line once: a dispatcher that dies before it stores its position reads lines again. */
  const damagedPlaces = new Set<string>()
  let lastDamaged: DamagedLine | undefined
  let late: { count: number; last: Dead | undefined } = { count: 0, last: undefined }
  let throttled: { count: number; last: Throttled | undefined } = { count: 0, last: undefined }
  /** How the last dispatcher ended by itself. The next one charges the runs of the last one with it. */
  let lastEnd: string | undefined
  const blocked = new WeakSet<ChildProcess>()
  let isBackfilled = false
  let isStopping = false
  /** The running dispatchers. There are two while one replaces the other. */
  const children = new Set<Dispatcher>()
  let loading: Dispatcher | undefined
  /** Whether the last dispatcher ended by itself before it had loaded the handlers. */
  let hasEndedLoading = false
  /** A dispatcher that was killed on purpose: the handlers are not to blame that it did not load them. */
  let unwanted: Dispatcher | undefined
  let reloading = Promise.resolve()
  let isReloadDue = false
  let asking: Promise<string | undefined> | undefined
  let current = start()

  function start(isReplacing = false): Dispatcher {
    const args = [
      ...(isReplacing ? ['--replacing'] : []),
      ...(hasEndedLoading ? ['--after-end'] : []),
      ...(isBackfilled || backfillSince === undefined ? [] : [`--backfill-since=${backfillSince.toISOString()}`]),
      ...(workerDir === undefined ? [] : [`--worker=${workerDir}`]),
      ...(lastEnd === undefined ? [] : [`--last-end=${lastEnd}`]),
      ...(forwarderId === undefined ? [] : [`--forwarder-id=${forwarderId}`]),
    ]
    const child: Dispatcher = startChild(new URL('../bin/dispatcher.ts', import.meta.url), args, [
      // A handlers folder needs no package.json, and the warning that node:sqlite is experimental is of no use to users.
      '--disable-warning=ExperimentalWarning',
      '--disable-warning=MODULE_TYPELESS_PACKAGE_JSON',
    ])
    hasEndedLoading = false
    let isLoaded = false
    children.add(child)
    watchLoop(child)
    child.channel.events.on('message', (message) => {
      // These also count from a dispatcher that is being replaced, because it finishes its runs.
      if (message.type === 'dead') dead = { count: dead.count + 1, last: message.dead }
      if (message.type === 'damaged') {
        lastDamaged = message.line
        damagedPlaces.add(`${message.line.segment}:${message.line.offset}`)
      }
      if (message.type === 'late') late = { count: late.count + 1, last: message.late }
      if (message.type === 'throttled') throttled = { count: throttled.count + 1, last: message.throttled }
      if (message.type === 'loaded') isLoaded = true
      if (message.type === 'append') void journal(child, message)
      if (message.type === 'backfilled') {
        isBackfilled = true
        onBackfilled?.()
      }
      if (child !== current) return
      if (message.type === 'trouble') trouble = message.reason
      if (message.type === 'following') trouble = undefined
      if (message.type === 'incoming_webhook') tellIncomingWebhook(message)
      if (message.type === 'warning') {
        if (message.text === undefined) warnings.delete(message.about)
        else warnings.set(message.about, message.text)
      }
      if (message.type === 'absent') absent = new Map(Object.entries(message.reasons))
      if (message.type === 'state') state = message.state
      if (message.type === 'worked') pause = shortestPause
    })
    // The handler may write again, and messages that its output garbled, such as `following`, are lost.
    child.channel.events.once('garbage', () => {
      log.error('a handler wrote to the channel of the dispatcher: killed')
      child.process.kill('SIGKILL')
    })
    // A process that could not be started, for lack of processes or descriptors, has no `exit` event.
    child.process.once('error', (error) => {
      log.error({ err: error }, 'the dispatcher cannot be started')
      if (!isAlive(child)) startAgain(child)
    })
    child.process.once('exit', (code, signal) => {
      if (child === current)
        lastEnd = blocked.has(child.process)
          ? 'its event loop was blocked for longer than HANDLER_STALL'
          : `it ended with ${signal ?? `code ${code}`}`
      if (!isLoaded && child !== unwanted) hasEndedLoading = true
      if (!isStopping && child === current)
        log.error({ exit_code: code, signal }, 'the dispatcher ended; events wait in the journal')
      startAgain(child)
    })
    return child
  }

  async function journal(child: Dispatcher, { request, events }: Extract<FromDispatcher, { type: 'append' }>) {
    const error = await append(events).then(
      () => undefined,
      (error: unknown) => String(error),
    )
    child.channel.send({ type: 'appended', request, ...(error !== undefined && { error }) })
  }

  function tellIncomingWebhook({ label, trouble: why }: Extract<FromDispatcher, { type: 'incoming_webhook' }>): void {
    if (why === undefined) incomingWebhookTroubles.delete(label)
    else incomingWebhookTroubles.set(label, why)
  }

  function startAgain(ended: Dispatcher): void {
    children.delete(ended)
    if (isStopping || ended !== current) return
    ends++
    incomingWebhookTroubles.clear()
    // The dispatcher may end at each start before it can report why.
    if (trouble === undefined || trouble === starting) trouble = 'the dispatcher died and is started again: see the log'
    log.info({ in_ms: pause }, 'starting the dispatcher again')
    timer = setTimeout(() => {
      current = start()
    }, pause)
    pause = Math.min(pause * 2, longestPause)
  }

  /** Kills a dispatcher whose handler is in an endless loop: its own process cannot report that. */
  function watchLoop({ process: child, channel }: Dispatcher): void {
    const interval = Math.min(1_000, stall / 2)
    // Not the time of day, because the clock may be put forward.
    let heard = performance.now()
    channel.events.on('message', () => {
      heard = performance.now()
    })
    // The watch begins with the first message: a process may take longer to start than HANDLER_STALL.
    channel.events.once('message', () => {
      let looked = performance.now()
      const watch = setInterval(() => {
        const now = performance.now()
        // If this event loop was late, messages of the dispatcher may be unread.
        const wasLate = now - looked > 2 * interval
        looked = now
        if (wasLate || now - heard <= stall) return
        log.error(
          { stalled_for_ms: Math.round(now - heard) },
          'a handler blocks the event loop of the dispatcher: killed',
        )
        blocked.add(child)
        child.kill('SIGKILL')
      }, interval)
      child.once('exit', () => clearInterval(watch))
    })
  }

  async function end(child: Dispatcher, limit: number): Promise<void> {
    if (!isAlive(child)) return
    const gone = once(child.process, 'exit')
    child.channel.send({ type: 'stop', grace: Math.max(limit / 2, limit - lastMoments) })
    const killer = setTimeout(() => child.process.kill('SIGKILL'), limit)
    await gone
    clearTimeout(killer)
  }

  async function replace(): Promise<void> {
    isReloadDue = false
    if (isStopping) return
    // A working dispatcher is replaced only by one with all handlers. A failing one may be replaced by one that lacks a
    // handler.
    const fresh = start(trouble === undefined && isAlive(current))
    loading = fresh
    const isLoaded = await hasLoaded(fresh)
    loading = undefined
    if (isStopping || isReloadDue) return end(fresh, 0)
    if (!isLoaded) {
      log.error('the handlers could not be loaded; a dispatcher that runs goes on with those it has')
      return end(fresh, lastWords)
    }
    clearTimeout(timer)
    const old = current
    current = fresh
    incomingWebhookTroubles.clear()
    if (!isAlive(fresh)) startAgain(fresh)
    await end(old, grace)
    log.info('handlers were loaded again')
  }

  return {
    trouble: () => trouble,
    incomingWebhookTroubles: () => incomingWebhookTroubles,
    absentHandlers: () => absent,
    warnings: () => [...warnings.values()],
    state: () => state,
    ends: () => ends,
    dead: () => dead,
    damaged: () => ({ count: damagedPlaces.size, last: lastDamaged }),
    late: () => late,
    throttled: () => throttled,
    metrics() {
      asking ??= askForMetrics(current).finally(() => {
        asking = undefined
      })
      return asking
    },
    reload() {
      // A dispatcher that is still loading may have read a file before it was fixed, or may wait for ever.
      unwanted = loading
      loading?.process.kill('SIGKILL')
      if (!isReloadDue) reloading = reloading.then(replace)
      isReloadDue = true
      return reloading
    },
    async stop(limit) {
      isStopping = true
      clearTimeout(timer)
      await Promise.all([...children].map((child) => end(child, limit)))
    },
  }
}

/** Resolves to whether every handler was loaded. */
function hasLoaded({ process: child, channel }: Dispatcher): Promise<boolean> {
  return new Promise((resolve) => {
    channel.events.on('message', (message) => {
      if (message.type === 'loaded') resolve(true)
      if (message.type === 'trouble') resolve(false)
    })
    child.once('exit', () => resolve(false))
    child.once('error', () => resolve(false))
  })
}

/** Gives up after a timeout: a dispatcher whose event loop is blocked must not block the scrape. */
async function askForMetrics({ channel }: Dispatcher): Promise<string | undefined> {
  if (!channel.isOpen()) return undefined
  try {
    const messages = on(channel.events, 'message', { signal: AbortSignal.timeout(scrapePatience), close: ['close'] })
    channel.send({ type: 'metrics' })
    for await (const [message] of messages as AsyncIterable<[FromDispatcher]>)
      if (message.type === 'metrics') return message.text
  } catch {
    // The timeout passed, or the process is failing, which the receiver reports elsewhere.
  }
  return undefined
}
