import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { openMembers } from '../bitrix24/members.ts'
import { createPortals } from '../bitrix24/portals.ts'
import { loadTransport } from '../bitrix24/transport.ts'
import { type Config, readConfig } from '../config/config.ts'
import { explainStart } from '../config/explain-start.ts'
import { lateReason } from '../dispatch/absent.ts'
import { watchAbsent } from '../dispatch/absent-watch.ts'
import { backfillOnStart } from '../dispatch/backfill-on-start.ts'
import { GlobalsChanged, startDispatcher } from '../dispatch/dispatcher.ts'
import { type BrokenFile, type LoadReport, readLoadReport } from '../dispatch/load-report.ts'
import type { FromDispatcher, ToDispatcher } from '../dispatch/messages.ts'
import { createReport } from '../dispatch/report.ts'
import { chargeStrays } from '../dispatch/run-scope.ts'
import { lockGlobals, watchGlobals } from '../dispatch/shared-globals.ts'
import { HandlersError, loadHandlers, nameOf } from '../handler/loader.ts'
import { resolvePackageAlias } from '../handler/package-alias.ts'
import { positionOfLast, positionOfTime } from '../journal/follow.ts'
import { DataDirInUse, type Lock, lockDataDir } from '../journal/lock.ts'
import { oldest, type Position } from '../journal/position.ts'
import { makeJournalDir } from '../journal/segments.ts'
import { openParent, parentOption } from '../lib/child-process.ts'
import { realClock } from '../lib/clock.ts'
import { setForwarderId } from '../lib/forward-mark.ts'
import { createLog } from '../lib/log.ts'
import { printableLines } from '../lib/printable.ts'
import { readTimes } from '../lib/times.ts'
import type { Engine, EngineDeps } from '../queue/engine.ts'
import { findKnownHandlers, openEngine } from '../queue/open-engine.ts'
import { explainQueueFile } from '../queue/sqlite/integrity.ts'
import { queuePath } from '../queue/sqlite/queue.ts'

resolvePackageAlias()

/** Milliseconds between two attempts to lock while another dispatcher ends. */
const patience = 100

/** The dispatcher does not follow the journal, because it would lose events. The message says what to fix. */
class Waiting extends Error {
  override readonly name = 'Waiting'
}

/** Names of errors whose message says both what is wrong and what to do, so that no stack is logged. */
const named = new Set(['SchemaError', 'QueueFileError', 'IdentityError', 'LockError'])

/** `worker` is the data folder of a process that only runs handlers. */
const { values: args } = parseArgs({
  options: {
    worker: { type: 'string' },
    'backfill-since': { type: 'string' },
    'last-end': { type: 'string' },
    'forwarder-id': { type: 'string' },
    /** Another dispatcher works, and keeps working if this one cannot load every file. */
    replacing: { type: 'boolean' },
    /** The previous dispatcher ended by itself while it loaded the handlers. */
    'after-end': { type: 'boolean' },
    [parentOption]: { type: 'string' },
    times: { type: 'string' },
  },
})
const isWorker = args.worker !== undefined
if (args['forwarder-id'] !== undefined) setForwarderId(args['forwarder-id'])
const config = readSettings()
/** The channel to the receiver that started this process; `undefined` if it was started alone. */
const parent = args[parentOption] ? openParent<ToDispatcher, FromDispatcher>() : undefined
const { log, close: closeLog } = createLog(config.logLevel, 'dispatcher')
/** Set by a receiver that has just started. */
const backfillSince = readBackfillSince()
const backfilling = new AbortController()
const report = createReport({ config, parent, log })
let isStopping = false
let isLoading = false
let stopDispatcher: (grace: number) => Promise<void> = () => Promise.resolve()
let resumeDispatcher: () => void = () => undefined

chargeStrays((error) => void fail(error))
listen()
try {
  await run()
} catch (error) {
  await fail(error)
}

async function fail(error: unknown): Promise<never> {
  tellWhy(config.databaseUrl === undefined ? explainQueueFile(error, queuePath(config.dataDir)) : error)
  // The other handlers get the grace to finish: the error is not theirs.
  return end(1, config.shutdownGrace)
}

async function run(): Promise<void> {
  lockGlobals()
  const deps = { config, log, onTrouble: report.engine }
  const { handlers, late, leftOut } = await load(deps)
  const known = handlers.length + late.length === 0 ? await findKnownHandlers(deps) : []
  if (known.length > 0)
    throw new Waiting(
      `${config.handlersDir} is empty, but ${known.join(', ')} ran before: is a mount missing? If they were removed on purpose, run "b24-receiver handlers forget" for each`,
    )
  report.handlers(handlers)

  await makeJournalDir(config.dataDir)
  const lock = await waitForLock()
  if (lock === undefined) return
  if (lock.wasDamaged) log.warn('dispatcher.lock was damaged, and was emptied')
  // Released only at exit: a handler that ignores its signal may run until then.
  process.on('exit', () => lock.release())
  const engine = await openEngine(deps)
  const { queue } = engine
  const from = isWorker ? undefined : await startPosition(engine)
  const timeout = config.handlerLoadTimeout
  const { absent, unknown, watch } = await watchAbsent({ queue, handlers, late, leftOut, timeout, report, log })
  if (unknown.length > 0) throw new Waiting(unknown.join('; '))
  if (isStopping) return
  const runs = isWorker || config.runHandlers || config.databaseUrl === undefined
  const portals = createPortals({
    ...config,
    ...engine,
    ...readTimes().probes,
    clock: realClock,
    onChange: (incomingWebhook, trouble) => {
      report.incomingWebhook(incomingWebhook, trouble)
      if (!trouble) resumeDispatcher()
    },
    onLack: (lacks, refusal) => {
      report.lack(lacks, refusal)
      if (refusal === undefined) resumeDispatcher()
    },
    members: openMembers(config.dataDir, (err) =>
      log.warn({ err }, 'which portal is where cannot be kept in portals.json'),
    ),
  })
  const dispatcher = await startDispatcher({
    ...config,
    ...engine,
    from,
    handlers,
    absent,
    portals,
    concurrency: runs ? config.concurrency : 0,
    lookAtGlobals: watchGlobals(),
    log,
    onOutcome: report.outcome,
    onDamage: ({ at: { segment, offset }, events }) =>
      report.tell({ type: 'damaged', line: { segment, offset, events } }),
    onRetained: report.retained,
    onThrottled: report.throttled,
    onLate: report.late,
    lastEnd: args['last-end'],
    // If other processes run the handlers, adding deliveries is all the work of this process.
    onForwarded: () => void (runs || report.tell({ type: 'worked' })),
  })
  const endTelling = report.pending(queue)
  const endLooking = watch(dispatcher.adopt)
  stopDispatcher = async (grace) => {
    endTelling()
    endLooking()
    backfilling.abort()
    await dispatcher.stop(grace)
    portals.stop()
    await engine.close()
  }
  resumeDispatcher = dispatcher.resume
  report.following()
  if (backfillSince !== undefined && config.backfillOnStart !== undefined && parent) {
    const { dataDir, backfillOnStart: targets } = config
    const deps = { dataDir, targets, since: backfillSince, append: report.append, signal: backfilling.signal, log }
    void backfillOnStart({ ...deps, accesses: portals.all() }).then((isDone) => {
      if (isDone) report.tell({ type: 'backfilled' })
    })
  }
  // Loading takes a tenth of a second, which should not count as time of a run. If it fails, the handler's call fails, too.
  if (config.incomingWebhooks.length > 0) loadTransport().catch(() => undefined)
  await dispatcher.failed
}

/**
 * @throws {HandlersError} also for a file that is late or no longer a handler, if this dispatcher replaces one that works
 */
async function load(deps: EngineDeps) {
  const { handlersDir: dir, handlerLoadTimeout: timeout } = config
  const broken = args['after-end'] ? blame() : []
  const found = await loadHandlers(dir, {
    timeout,
    onLoading(files) {
      isLoading = files.length > 0
      report.load({ broken, loading: files })
    },
  })
  for (const { file, reason, isDoubtful } of found.leftOut)
    log[isDoubtful ? 'warn' : 'info']({ file, reason }, 'a file is left out: it is no handler')
  const problems = found.late.map(({ file }) => ({ file, at: file, error: new Error(`it ${lateReason(timeout)}`) }))
  const doubtful = found.leftOut.filter(({ isDoubtful }) => isDoubtful)
  const known = args.replacing && doubtful.length > 0 ? await findKnownHandlers(deps) : []
  for (const { file, reason } of doubtful)
    if (known.includes(nameOf(file))) problems.push({ file, at: file, error: new Error(reason) })
  if (problems.length > 0 && args.replacing) throw new HandlersError(dir, problems)
  return found
}

/** Reports which files were being loaded when the previous process ended. That process could not report them. */
function blame(): BrokenFile[] {
  const files = readLastReport()?.loading ?? []
  if (files.length === 0) return []
  const error =
    'the dispatcher ended while it was loaded: does it call process.exit(), or run for ever, at its top level?'
  for (const file of files) log.error({ file }, 'the dispatcher ended while it loaded this file')
  if (!args.replacing) report.tell({ type: 'trouble', reason: `${files.join(' or ')}: ${error}` })
  return files.map((file) => ({ file, place: file, error }))
}

/** The report is for tools only, so handlers run even if it cannot be read. */
function readLastReport(): LoadReport | undefined {
  try {
    return readLoadReport(config.dataDir)
  } catch {
    return undefined
  }
}

async function waitForLock(): Promise<Lock | undefined> {
  const started = performance.now()
  for (let isTold = false; !isStopping; isTold = true) {
    try {
      return lockDataDir(config.dataDir, 'dispatcher')
    } catch (error) {
      if (!(error instanceof DataDirInUse)) throw error
      if (!isTold) log.info({ reason: error.message }, 'waiting for the dispatcher before this one to end')
      // A dispatcher that is being replaced ends within the grace. This one did not.
      if (performance.now() - started > config.shutdownGrace) report.tell({ type: 'trouble', reason: error.message })
      await sleep(patience)
    }
  }
  return undefined
}

/**
 * If the position is lost or belongs to another journal, the operator must choose
 * one: a guess could lose or repeat events.
 */
async function startPosition(engine: Engine): Promise<Position> {
  const start = await engine.startPosition()
  if ('from' in start) return start.from
  if (config.dispatchFrom === undefined)
    throw new Waiting(
      `${start.lost}. Start with DISPATCH_FROM=oldest (all handlers run again for every event there is), DISPATCH_FROM=now (what was pending is dropped) or DISPATCH_FROM=2026-11-23T08:00:00Z`,
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

function tellWhy(error: unknown): void {
  if (error instanceof HandlersError) {
    report.load({ broken: error.problems.map(({ file, at, error: err }) => ({ file, place: at, error: String(err) })) })
    for (const { file, at, error: err } of error.problems) log.error({ file, at, err }, 'a handler cannot be loaded')
    report.tell({ type: 'trouble', reason: error.message })
  } else if (error instanceof GlobalsChanged) {
    log.error({ handlers: error.handlers, err: error }, 'a handler changed built-ins; its process is replaced')
    report.tell({ type: 'trouble', reason: error.message })
  } else if (error instanceof Waiting || (error instanceof Error && named.has(error.name))) {
    report.load({ trouble: error.message })
    log.error(error.message)
    report.tell({ type: 'trouble', reason: error.message })
  } else {
    log.fatal({ err: error }, 'the dispatcher cannot go on')
    report.tell({ type: 'trouble', reason: `the dispatcher cannot go on: ${String(error)}` })
  }
}

function listen(): void {
  const stop = () => void end(0, config.shutdownGrace)
  process.on('SIGTERM', stop)
  // Signals of the terminal reach this process and the receiver. The receiver decides what they mean.
  for (const signal of ['SIGINT', 'SIGHUP'] as const) process.on(signal, parent ? () => undefined : stop)
  if (parent === undefined) return
  parent.events.on('message', (message) => {
    if (message.type === 'stop') void end(0, message.grace)
    else if (message.type === 'appended') report.appended(message)
    else void report.metrics()
  })
  parent.events.on('close', stop)
  const alive = () => report.tell({ type: 'alive' })
  alive()
  setInterval(alive, Math.min(1_000, config.handlerStall / 4))
  // The worker thread gets the receiver's process id, because the receiver may already be gone.
  new Worker(new URL('./parent-watch.ts', import.meta.url), { workerData: Number(args[parentOption]) }).unref()
}

/**
 * Ends this process. If it is called several times, the shortest grace decides. Never
 * resolves, so the caller cannot continue.
 */
async function end(code: number, grace: number): Promise<never> {
  isStopping = true
  // The list is cleared: the files being loaded did not cause this end.
  if (isLoading) report.load({ loading: [] })
  try {
    await stopDispatcher(grace)
  } catch (error) {
    log.error({ err: error }, 'the dispatcher did not end well')
  }
  await closeLog()
  process.exit(code)
}

function readBackfillSince(): Date | undefined {
  return args['backfill-since'] === undefined ? undefined : new Date(args['backfill-since'])
}

function readSettings(): Config {
  try {
    return readConfig({ ...process.env, ...(isWorker && { DATA_DIR: args.worker }) }, 'dispatcher')
  } catch (error) {
    const { text, exitCode } = explainStart(error)
    process.stderr.write(`${printableLines(text)}\n`)
    process.exit(exitCode)
  }
}
