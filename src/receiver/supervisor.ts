import type { ChildProcess } from 'node:child_process'
import { on, once } from 'node:events'
import type { Logger } from 'pino'
import type { DamagedLine, Dead, FromDispatcher, Throttled, ToDispatcher } from '../dispatch/messages.ts'
import type { QueueState } from '../queue/queue.ts'
import type { Event } from '../intake/event.ts'
import { type Child, isAlive, startChild } from '../lib/child-process.ts'

export interface SupervisorParts {
  /** Milliseconds that running handlers get when their dispatcher is replaced. */
  readonly grace: number
  /** Milliseconds after which an event loop that does not turn is taken for stuck. */
  readonly stall: number
  /** Of a dispatcher that only runs handlers, the folder that it has instead of a receiver's. */
  readonly workerDir?: string
  /** See forward-mark.ts. */
  readonly forwarderId?: string
  /** Events that a dispatcher found missing; resolves when they are on disk. */
  readonly append: (events: readonly Event[]) => Promise<void>
  /** From when on the first dispatcher looks for what was missed; `undefined`: it does not. */
  readonly backfillSince?: Date | undefined
  /** What was missed since then is on disk. */
  readonly onBackfilled?: () => void
  readonly log: Logger
}

export interface Supervisor {
  /** Why no handler runs; `undefined` when all is well. */
  trouble(): string | undefined
  /** Of each hook that does not work, by its label, why. */
  hookTroubles(): ReadonlyMap<string, string>
  /** Of each handler that is not loaded while the others run, by its name, why. */
  absentHandlers(): ReadonlyMap<string, string>
  /** What is wrong and stops no handler. */
  warnings(): readonly string[]
  /** How much is owed, as the dispatcher last said; `undefined` until it has. */
  state(): QueueState | undefined
  /** How often a dispatcher ended by itself since the start. */
  ends(): number
  /** The last delivery that was given up since the start, and how many were. */
  dead(): { readonly count: number; readonly last: Dead | undefined }
  /** The last line of the journal that could not be read since the start, and how many could not. */
  damaged(): { readonly count: number; readonly last: DamagedLine | undefined }
  /** The last failure that came after the end of its run since the start, and how many did. */
  late(): { readonly count: number; readonly last: Dead | undefined }
  /** The last handler that was throttled since the start, and how often one was. */
  throttled(): { readonly count: number; readonly last: Throttled | undefined }
  /** Those that the dispatcher has, in Prometheus' text format; `undefined` when it does not tell them within a second. */
  metrics(): Promise<string | undefined>
  /** Starts another dispatcher and, when it has loaded every handler, ends the one before. */
  reload(): Promise<void>
  /** Resolves when it is gone, after `grace` milliseconds at most. */
  stop(grace: number): Promise<void>
}

type Dispatcher = Child<FromDispatcher, ToDispatcher>

const starting = 'the dispatcher is starting'

const shortestPause = 500
const longestPause = 30_000

/** Milliseconds for one that cannot load its handlers to say why, in lines of its log that are on their way. */
const lastWords = 1_000

/** Milliseconds that a scrape waits for a dispatcher; Prometheus gives up after ten seconds. */
const scrapePatience = 1_000

/** Of a grace, what a dispatcher has to write down what it did not finish, in milliseconds: at most half of it. */
const lastMoments = 500

/**
 * Keeps one dispatcher process running. What it does, or fails to do, never reaches the receiver but by its messages and
 * its exit.
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
}: SupervisorParts): Supervisor {
  let pause = shortestPause
  let timer: NodeJS.Timeout | undefined
  let trouble: string | undefined = starting
  /** By hook, as the current dispatcher has found it. */
  const hookTroubles = new Map<string, string>()
  let absent: ReadonlyMap<string, string> = new Map()
  const warnings = new Map<string, string>()
  let state: QueueState | undefined
  let ends = 0
  let dead: { count: number; last: Dead | undefined } = { count: 0, last: undefined }
  /** By its place: a dispatcher that died before it kept the position reads on from the one before. */
  const damagedPlaces = new Set<string>()
  let lastDamaged: DamagedLine | undefined
  let late: { count: number; last: Dead | undefined } = { count: 0, last: undefined }
  let throttled: { count: number; last: Throttled | undefined } = { count: 0, last: undefined }
  /** How the last one ended by itself, for the one that charges what it ran. */
  let lastEnd: string | undefined
  const blocked = new WeakSet<ChildProcess>()
  let isBackfilled = false
  let isStopping = false
  /** Those that run: while one takes the place of another there are two. */
  const children = new Set<Dispatcher>()
  let loading: Dispatcher | undefined
  /** Whether the last one that was started ended by itself before it had loaded the handlers. */
  let hasEndedLoading = false
  /** It was told to end: that it did not load the handlers is no fault of theirs. */
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
      // A handlers folder needs no package.json, and node:sqlite is no experiment to us.
      '--disable-warning=ExperimentalWarning',
      '--disable-warning=MODULE_TYPELESS_PACKAGE_JSON',
    ])
    hasEndedLoading = false
    let isLoaded = false
    children.add(child)
    watchLoop(child)
    child.channel.events.on('message', (message) => {
      // Also one that is being replaced: it ends what it runs.
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
      if (message.type === 'hook') tellHook(message)
      if (message.type === 'warning') {
        if (message.text === undefined) warnings.delete(message.about)
        else warnings.set(message.about, message.text)
      }
      if (message.type === 'absent') absent = new Map(Object.entries(message.reasons))
      if (message.type === 'state') state = message.state
      if (message.type === 'worked') pause = shortestPause
    })
    // Who wrote to it may do so again, and what it hides, such as that all is well, is lost.
    child.channel.events.once('garbage', () => {
      log.error('a handler wrote to the channel of the dispatcher: killed')
      child.process.kill('SIGKILL')
    })
    // One that could not be started, for want of processes or descriptors, has no exit.
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

  function tellHook({ label, trouble: why }: Extract<FromDispatcher, { type: 'hook' }>): void {
    if (why === undefined) hookTroubles.delete(label)
    else hookTroubles.set(label, why)
  }

  function startAgain(ended: Dispatcher): void {
    children.delete(ended)
    if (isStopping || ended !== current) return
    ends++
    hookTroubles.clear()
    // It may end before it can say why, at each start.
    if (trouble === undefined || trouble === starting) trouble = 'the dispatcher died and is started again: see the log'
    log.info({ in_ms: pause }, 'starting the dispatcher again')
    timer = setTimeout(() => {
      current = start()
    }, pause)
    pause = Math.min(pause * 2, longestPause)
  }

  /** A handler in an endless loop: nobody in that process can say so. */
  function watchLoop({ process: child, channel }: Dispatcher): void {
    const interval = Math.min(1_000, stall / 2)
    // Not the time of day, which may be put forward.
    let heard = performance.now()
    channel.events.on('message', () => {
      heard = performance.now()
    })
    // From its first sign on: a process may need longer to start than a handler may block it.
    channel.events.once('message', () => {
      let looked = performance.now()
      const watch = setInterval(() => {
        const now = performance.now()
        // When our own loop was late, what it says may still lie unread.
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
    // What runs well goes on; what does not may as well be replaced by one that lacks a handler.
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
    hookTroubles.clear()
    if (!isAlive(fresh)) startAgain(fresh)
    await end(old, grace)
    log.info('handlers were loaded anew')
  }

  return {
    trouble: () => trouble,
    hookTroubles: () => hookTroubles,
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
      // What still loads may have read a file before it was mended, or wait for something for ever.
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

/** One whose event loop does not turn must not hold the one who asks. */
async function askForMetrics({ channel }: Dispatcher): Promise<string | undefined> {
  if (!channel.isOpen()) return undefined
  try {
    const messages = on(channel.events, 'message', { signal: AbortSignal.timeout(scrapePatience), close: ['close'] })
    channel.send({ type: 'metrics' })
    for await (const [message] of messages as AsyncIterable<[FromDispatcher]>)
      if (message.type === 'metrics') return message.text
  } catch {
    // The time is up, or the process is failing, which is told elsewhere.
  }
  return undefined
}
