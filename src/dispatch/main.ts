import { mkdir } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { startAlerter } from '../alerts/alerter.ts'
import type { Snapshot } from '../alerts/snapshot.ts'
import type { Bitrix24Error } from '../bitrix24/bitrix24-error.ts'
import { realClock } from '../bitrix24/clock.ts'
import type { Hook } from '../bitrix24/hook.ts'
import { createPortals } from '../bitrix24/portals.ts'
import { loadSdk } from '../bitrix24/transport.ts'
import { type Config, readConfig } from '../config.ts'
import type { Event } from '../intake/event.ts'
import { oldest, type Position, positionOfLast, positionOfTime } from '../journal/follow.ts'
import { DataDirInUse, lockDataDir } from '../journal/lock.ts'
import { journalDir, listSegments } from '../journal/segments.ts'
import { createLog } from '../log.ts'
import { createDispatcherMetrics } from '../metrics/dispatcher.ts'
import { hasParent, openParent } from '../start-child.ts'
import { explainStart } from '../start-error.ts'
import { startDispatcher } from './dispatcher.ts'
import { type Engine, findKnownHandlers, openEngine } from './engine.ts'
import { type LoadReport, writeLoadReport } from './load-report.ts'
import type { FromDispatcher, ToDispatcher } from './messages.ts'
import { resolveOurName } from './our-name.ts'
import type { Queue } from './queue.ts'
import { HandlersError, type LoadedHandler, loadHandlers, unknownEvents } from './registry.ts'
import type { Outcome } from './runner.ts'
import { sweepOnStart } from './sweep-on-start.ts'

resolveOurName()

/** How often one that waits for another dispatcher's end looks again. */
const patience = 100

/** Milliseconds between two looks at how much is owed. */
const stateInterval = 2_000

/** It does not follow, because that would pass events over; the message says what to mend. */
class Waiting extends Error {
  override readonly name = 'Waiting'
}

/** Of a process that only runs handlers: the folder, its own, that it takes instead of a receiver's. */
const { values: words } = parseArgs({
  options: { worker: { type: 'string' }, 'sweep-since': { type: 'string' }, [hasParent]: { type: 'boolean' } },
})
const isWorker = words.worker !== undefined
const config = readSettings()
/** To the receiver that started it; without one it is alone. */
const parent = words[hasParent] ? openParent<ToDispatcher, FromDispatcher>() : undefined
/** What one that is alone has told nobody but its alerter. */
const heard: { readonly hooks: Map<string, string>; dead: NonNullable<Snapshot['dead']> } = {
  hooks: new Map(),
  dead: { queued: 0, count: 0, last: undefined },
}
const { log, close: closeLog } = createLog(config.logLevel, 'dispatcher')
/** Given by a receiver that has just started. */
const sweepSince = readSweepSince()
const sweeping = new AbortController()
const appending = new Map<number, PromiseWithResolvers<void>>()
let nextRequest = 1
const metrics = createDispatcherMetrics(config)
let isStopping = false
/** Why the engine of deliveries cannot be used. */
let trouble: string | undefined
let isFollowing = false
let stopDispatcher: (grace: number) => Promise<void> = () => Promise.resolve()
let resumeDispatcher: () => void = () => undefined

listen()
if (parent === undefined && config.alertUrl !== undefined) tellAlerter()
try {
  await run()
} catch (error) {
  tellWhy(error)
  // The other handlers may end; they did nothing wrong.
  await end(1, config.shutdownGrace)
}

async function run(): Promise<void> {
  const handlers = await loadHandlers(config.handlersDir)
  const parts = { config, log, onTrouble: tellTrouble }
  const known = handlers.length === 0 ? await findKnownHandlers(parts) : []
  if (known.length > 0)
    throw new Waiting(
      `${config.handlersDir} is empty, but ${known.join(', ')} ran before: is a mount missing? If they were removed on purpose, run "b24-receiver handlers forget" for each`,
    )
  tellHandlers(handlers)
  tell({ type: 'loaded' })

  await mkdir(journalDir(config.dataDir), { recursive: true })
  const lock = await waitForLock()
  if (lock === undefined) return
  // Not before: a handler that ignored its signal may run to the very end.
  process.on('exit', () => lock.release())
  const engine = await openEngine(parts)
  const { queue } = engine
  const from = isWorker ? undefined : await startPosition(engine)
  await queue.remember(
    handlers.map(({ name, events, options: { order, settle, onChange } }) => ({
      name,
      events,
      order,
      settle,
      onChange: onChange !== undefined,
    })),
  )
  reportLoad({ loaded: handlers.map(({ name }) => name) })
  for (const [handler, owed] of await queue.handlers())
    if (owed > 0 && !handlers.some(({ name }) => name === handler))
      log.warn({ handler, owed }, 'the file of this handler is gone; what it is owed stays')

  if (isStopping) return
  const runs = isWorker || config.worker || config.databaseUrl === undefined
  const portals = createPortals({ ...config, ...engine, clock: realClock, onChange: tellHook })
  const dispatcher = await startDispatcher({
    ...config,
    ...engine,
    from,
    handlers,
    portals,
    concurrency: runs ? config.concurrency : 0,
    log,
    onOutcome: tellOutcome,
    // Where others run them, that is all there is to do.
    onForwarded: () => void (runs || tell({ type: 'worked' })),
  })
  const endTelling = tellState(queue)
  stopDispatcher = async (grace) => {
    endTelling()
    sweeping.abort()
    await dispatcher.stop(grace)
    portals.stop()
    await engine.close()
  }
  resumeDispatcher = dispatcher.resume
  isFollowing = true
  tell(trouble === undefined ? { type: 'following' } : { type: 'trouble', reason: trouble })
  if (sweepSince !== undefined && config.sweepOnStart !== undefined && parent) {
    const { dataDir, sweepOnStart: targets } = config
    const parts = { dataDir, targets, since: sweepSince, append, signal: sweeping.signal, log }
    void sweepOnStart({ ...parts, accesses: portals.all() }).then((isDone) => {
      if (isDone) tell({ type: 'swept' })
    })
  }
  // Half a second, which is better spent now than within the time of a run. If it fails, so does the call.
  if (config.hooks.length > 0) loadSdk().catch(() => undefined)
  await dispatcher.failed
}

async function waitForLock(): Promise<{ release(): void } | undefined> {
  const started = performance.now()
  for (let isTold = false; !isStopping; isTold = true) {
    try {
      return lockDataDir(config.dataDir, 'dispatcher')
    } catch (error) {
      if (!(error instanceof DataDirInUse)) throw error
      if (!isTold) log.info({ reason: error.message }, 'waiting for the dispatcher before this one to end')
      // One that is being replaced is gone within the grace; this one is not.
      if (performance.now() - started > config.shutdownGrace) tell({ type: 'trouble', reason: error.message })
      await sleep(patience)
    }
  }
  return undefined
}

/** A position that is lost, or belongs to another journal, is not guessed. */
async function startPosition(engine: Engine): Promise<Position> {
  const position = await engine.startPosition((await listSegments(config.dataDir)).at(-1)?.number ?? 0)
  if (position !== undefined) return position
  if (config.dispatchFrom === undefined)
    throw new Waiting(
      `${engine.lost}. Start with DISPATCH_FROM=oldest (all handlers run again for every event there is), DISPATCH_FROM=now (what was owed is dropped) or DISPATCH_FROM=2026-11-23T08:00:00Z`,
    )
  const from =
    config.dispatchFrom === 'oldest'
      ? oldest
      : config.dispatchFrom === 'now'
        ? await positionOfLast(config.dataDir, 0)
        : await positionOfTime(config.dataDir, new Date(config.dispatchFrom), log)
  log.warn({ ...from, dispatch_from: config.dispatchFrom }, 'following from where DISPATCH_FROM says')
  await engine.queue.add([], from)
  return from
}

/** For `b24-receiver reload` and `handlers`, which have nothing else to ask; the log says the same. */
function reportLoad(report: Partial<LoadReport>): void {
  try {
    writeLoadReport(config.dataDir, report)
  } catch (error) {
    log.warn({ err: error }, 'whether the handlers were loaded cannot be written down')
  }
}

function tellHandlers(handlers: readonly LoadedHandler[]): void {
  for (const { name, events } of handlers) log.info({ handler: name, events }, 'handler loaded')
  for (const handler of handlers)
    for (const unknown of unknownEvents(handler))
      log.warn({ handler: handler.name, ...unknown }, 'the documentation does not know this event: is it spelt right?')
  if (handlers.length === 0) log.warn({ dir: config.handlersDir }, 'no handlers: events are journalled only')
}

function tellHook(hook: Hook, trouble: Bitrix24Error | undefined): void {
  const { label } = hook
  metrics.hookIs(hook, trouble === undefined)
  if (trouble) log.error({ hook: label, reason: trouble.message }, 'a hook does not work; what needs it waits')
  else log.info({ hook: label }, 'a hook works again; what waited for it goes on')
  tell({ type: 'hook', label, ...(trouble && { trouble: trouble.message }) })
  if (!trouble) resumeDispatcher()
}

/** Tells the receiver, again and again, how much is owed. */
function tellState(queue: Queue): () => void {
  let told = ''
  const look = async () => {
    const state = await queue.state()
    const text = JSON.stringify(state)
    if (text !== told) tell({ type: 'state', state })
    told = text
  }
  // A queue that cannot be asked says so by its other calls.
  const now = () => void look().catch(() => undefined)
  now()
  const timer = setInterval(now, stateInterval)
  return () => clearInterval(timer)
}

/** What needs the engine waits; it is not this process that is ill. */
function tellTrouble(reason: string | undefined): void {
  trouble = reason
  if (reason !== undefined) tell({ type: 'trouble', reason })
  else if (isFollowing) tell({ type: 'following' })
}

function tellOutcome(ended: Outcome): void {
  const { handler, event, outcome, reason = '' } = ended
  metrics.ended(ended)
  tell({ type: 'worked' })
  if (outcome !== 'dead') return
  tell({ type: 'dead', dead: { handler, id: event.id, event: event.event, object: event.object, reason } })
}

/** Lets the receiver journal them: nobody else writes there. */
function append(events: readonly Event[]): Promise<void> {
  const request = nextRequest++
  const answer = Promise.withResolvers<void>()
  appending.set(request, answer)
  tell({ type: 'append', request, events })
  return answer.promise
}

function settleAppend({ request, error }: Extract<ToDispatcher, { type: 'appended' }>): void {
  const answer = appending.get(request)
  appending.delete(request)
  if (error === undefined) answer?.resolve()
  else answer?.reject(new Error(error))
}

async function tellMetrics(): Promise<void> {
  try {
    tell({ type: 'metrics', text: await metrics.exposition() })
  } catch (error) {
    log.error({ err: error }, 'the metrics cannot be told')
  }
}

function tellWhy(error: unknown): void {
  if (error instanceof HandlersError) {
    reportLoad({ broken: error.problems.map(({ file, error: err }) => ({ file, error: String(err) })) })
    for (const { file, at, error: err } of error.problems) log.error({ file, at, err }, 'a handler cannot be loaded')
    tell({ type: 'trouble', reason: error.message })
  } else if (error instanceof Waiting || (error instanceof Error && error.name === 'SchemaError')) {
    reportLoad({ trouble: error.message })
    log.error(error.message)
    tell({ type: 'trouble', reason: error.message })
  } else log.fatal({ err: error }, 'the dispatcher cannot go on')
}

function listen(): void {
  const stop = () => void end(0, config.shutdownGrace)
  process.on('SIGTERM', stop)
  // Signals of the terminal reach both of us; the receiver decides what they mean.
  for (const signal of ['SIGINT', 'SIGHUP'] as const) process.on(signal, parent ? () => undefined : stop)
  if (parent === undefined) return
  parent.events.on('message', (message) => {
    if (message.type === 'stop') void end(0, message.grace)
    else if (message.type === 'appended') settleAppend(message)
    else void tellMetrics()
  })
  parent.events.on('close', stop)
  const alive = () => tell({ type: 'alive' })
  alive()
  setInterval(alive, Math.min(1_000, config.handlerStall / 4))
  // It is told who the receiver is: by the time it runs, that may be gone.
  new Worker(new URL('parent-watch.ts', import.meta.url), { workerData: process.ppid }).unref()
}

/** Ends this process; of several that ask, the most impatient decides. Never resolves: nothing may run on. */
async function end(code: number, grace: number): Promise<never> {
  isStopping = true
  try {
    await stopDispatcher(grace)
  } catch (error) {
    log.error({ err: error }, 'the dispatcher did not end well')
  }
  await closeLog()
  process.exit(code)
}

/** The receiver knows the rest, but not what a dispatcher of its own would tell it. */
function tellAlerter(): void {
  startAlerter({ snapshot: () => ({ hooks: Object.fromEntries(heard.hooks), dead: heard.dead }), log })
}

function hear(message: FromDispatcher): void {
  const { dead, hooks } = heard
  if (message.type === 'dead') heard.dead = { ...dead, count: dead.count + 1, last: message.dead }
  if (message.type === 'state') heard.dead = { ...dead, queued: message.state.dead }
  if (message.type === 'hook' && message.trouble !== undefined) hooks.set(message.label, message.trouble)
  if (message.type === 'hook' && message.trouble === undefined) hooks.delete(message.label)
}

function tell(message: FromDispatcher): void {
  if (parent) parent.send(message)
  else hear(message)
}

function readSweepSince(): Date | undefined {
  return words['sweep-since'] === undefined ? undefined : new Date(words['sweep-since'])
}

function readSettings(): Config {
  try {
    return readConfig({ ...process.env, ...(isWorker && { DATA_DIR: words.worker }) }, 'dispatcher')
  } catch (error) {
    const { text, exitCode } = explainStart(error)
    process.stderr.write(`${text}\n`)
    process.exit(exitCode)
  }
}
