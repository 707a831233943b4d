import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { realClock } from '../lib/clock.ts'
import { openMembers } from '../bitrix24/members.ts'
import { createPortals } from '../bitrix24/portals.ts'
import { loadTransport } from '../bitrix24/transport.ts'
import { type Config, readConfig } from '../config/config.ts'
import { oldest, type Position, positionOfLast, positionOfTime } from '../journal/follow.ts'
import { DataDirInUse, type Lock, lockDataDir } from '../journal/lock.ts'
import { makeJournalDir } from '../journal/segments.ts'
import { createLog } from '../lib/log.ts'
import { printableLines } from '../lib/printable.ts'
import { openParent, parentOption } from '../lib/child-process.ts'
import { explainStart } from '../lib/start-error.ts'
import { lateReason } from '../dispatch/absent.ts'
import { watchAbsent } from '../dispatch/absent-watch.ts'
import { backfillOnStart } from '../dispatch/backfill-on-start.ts'
import { GlobalsChanged, startDispatcher } from '../dispatch/dispatcher.ts'
import { type Engine, type EngineParts, findKnownHandlers, openEngine } from '../queue/engine.ts'
import { setForwarderId } from '../lib/forward-mark.ts'
import { type BrokenFile, type LoadReport, readLoadReport } from '../dispatch/load-report.ts'
import type { FromDispatcher, ToDispatcher } from '../dispatch/messages.ts'
import { resolveOurName } from '../handler/package-alias.ts'
import { explainQueueFile } from '../queue/sqlite/integrity.ts'
import { HandlersError, loadHandlers, nameOf } from '../handler/loader.ts'
import { createReport } from '../dispatch/report.ts'
import { chargeStrays } from '../dispatch/run-scope.ts'
import { lockGlobals, watchGlobals } from '../dispatch/shared-globals.ts'
import { queuePath } from '../queue/sqlite/queue.ts'

resolveOurName()

/** How often one that waits for another dispatcher's end looks again. */
const patience = 100

/** It does not follow, because that would pass events over; the message says what to mend. */
class Waiting extends Error {
  override readonly name = 'Waiting'
}

/** Errors whose message says all: what is wrong, and what to do. */
const named = new Set(['SchemaError', 'QueueFileError', 'IdentityError', 'LockError'])

/** Of a process that only runs handlers: the folder, its own, that it takes instead of a receiver's. */
const { values: words } = parseArgs({
  options: {
    worker: { type: 'string' },
    'backfill-since': { type: 'string' },
    'last-end': { type: 'string' },
    'forwarder-id': { type: 'string' },
    /** Another runs well, which goes on if this one cannot load every file. */
    replacing: { type: 'boolean' },
    /** The one before ended by itself while it loaded the handlers. */
    'after-end': { type: 'boolean' },
    [parentOption]: { type: 'string' },
  },
})
const isWorker = words.worker !== undefined
if (words['forwarder-id'] !== undefined) setForwarderId(words['forwarder-id'])
const config = readSettings()
/** To the receiver that started it; without one it is alone. */
const parent = words[parentOption] ? openParent<ToDispatcher, FromDispatcher>() : undefined
const { log, close: closeLog } = createLog(config.logLevel, 'dispatcher')
/** Given by a receiver that has just started. */
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
  // The other handlers may end; they did nothing wrong.
  return end(1, config.shutdownGrace)
}

async function run(): Promise<void> {
  lockGlobals()
  const parts = { config, log, onTrouble: report.engine }
  const { handlers, late, leftOut } = await load(parts)
  const known = handlers.length + late.length === 0 ? await findKnownHandlers(parts) : []
  if (known.length > 0)
    throw new Waiting(
      `${config.handlersDir} is empty, but ${known.join(', ')} ran before: is a mount missing? If they were removed on purpose, run "b24-receiver handlers forget" for each`,
    )
  report.handlers(handlers)

  await makeJournalDir(config.dataDir)
  const lock = await waitForLock()
  if (lock === undefined) return
  if (lock.wasDamaged) log.warn('dispatcher.lock was damaged, and was emptied')
  // Not before: a handler that ignored its signal may run to the very end.
  process.on('exit', () => lock.release())
  const engine = await openEngine(parts)
  const { queue } = engine
  const from = isWorker ? undefined : await startPosition(engine)
  const timeout = config.handlerLoadTimeout
  const { absent, unknown, watch } = await watchAbsent({ queue, handlers, late, leftOut, timeout, report, log })
  if (unknown.length > 0) throw new Waiting(unknown.join('; '))
  if (isStopping) return
  const runs = isWorker || config.worker || config.databaseUrl === undefined
  const portals = createPortals({
    ...config,
    ...engine,
    clock: realClock,
    onChange: (hook, trouble) => {
      report.hook(hook, trouble)
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
    lastEnd: words['last-end'],
    // Where others run them, that is all there is to do.
    onForwarded: () => void (runs || report.tell({ type: 'worked' })),
  })
  const endTelling = report.owed(queue)
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
    const parts = { dataDir, targets, since: backfillSince, append: report.append, signal: backfilling.signal, log }
    void backfillOnStart({ ...parts, accesses: portals.all() }).then((isDone) => {
      if (isDone) report.tell({ type: 'backfilled' })
    })
  }
  // A tenth of a second, which is better spent now than within the time of a run. If it fails, so does the call.
  if (config.hooks.length > 0) loadTransport().catch(() => undefined)
  await dispatcher.failed
}

/** @throws {HandlersError} also for a file that is late or no handler any more, where the handlers of another dispatcher run */
async function load(parts: EngineParts) {
  const { handlersDir: dir, handlerLoadTimeout: timeout } = config
  const broken = words['after-end'] ? blame() : []
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
  const known = words.replacing && doubtful.length > 0 ? await findKnownHandlers(parts) : []
  for (const { file, reason } of doubtful)
    if (known.includes(nameOf(file))) problems.push({ file, at: file, error: new Error(reason) })
  if (problems.length > 0 && words.replacing) throw new HandlersError(dir, problems)
  return found
}

/** Tells which files were being loaded when the process before this one ended. Nothing in that process could. */
function blame(): BrokenFile[] {
  const files = readLastReport()?.loading ?? []
  if (files.length === 0) return []
  const error =
    'the dispatcher ended while it was loaded: does it call process.exit(), or run for ever, at its top level?'
  for (const file of files) log.error({ file }, 'the dispatcher ended while it loaded this file')
  if (!words.replacing) report.tell({ type: 'trouble', reason: `${files.join(' or ')}: ${error}` })
  return files.map((file) => ({ file, place: file, error }))
}

/** It is for tools, and its loss is none of the handlers'. */
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
      // One that is being replaced is gone within the grace; this one is not.
      if (performance.now() - started > config.shutdownGrace) report.tell({ type: 'trouble', reason: error.message })
      await sleep(patience)
    }
  }
  return undefined
}

/** A position that is lost, or belongs to another journal, is not guessed. */
async function startPosition(engine: Engine): Promise<Position> {
  const start = await engine.startPosition()
  if ('from' in start) return start.from
  if (config.dispatchFrom === undefined)
    throw new Waiting(
      `${start.lost}. Start with DISPATCH_FROM=oldest (all handlers run again for every event there is), DISPATCH_FROM=now (what was owed is dropped) or DISPATCH_FROM=2026-11-23T08:00:00Z`,
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
  // Signals of the terminal reach both of us; the receiver decides what they mean.
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
  // It is told who the receiver is: that may be gone already.
  new Worker(new URL('./parent-watch.ts', import.meta.url), { workerData: Number(words[parentOption]) }).unref()
}

/** Ends this process; of several that ask, the most impatient decides. Never resolves: nothing may run on. */
async function end(code: number, grace: number): Promise<never> {
  isStopping = true
  // This end is none of a handler's doing.
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
  return words['backfill-since'] === undefined ? undefined : new Date(words['backfill-since'])
}

function readSettings(): Config {
  try {
    return readConfig({ ...process.env, ...(isWorker && { DATA_DIR: words.worker }) }, 'dispatcher')
  } catch (error) {
    const { text, exitCode } = explainStart(error)
    process.stderr.write(`${printableLines(text)}\n`)
    process.exit(exitCode)
  }
}
