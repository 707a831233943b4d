import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { openMembers } from '../bitrix24/members.ts'
import { createPortals } from '../bitrix24/portals.ts'
import { loadTransport } from '../bitrix24/transport.ts'
import { type Config, readConfig } from '../config/config.ts'
import { exitAtStart } from '../config/explain-start.ts'
import { watchAbsent } from '../dispatch/absent-watch.ts'
import { backfillOnStart } from '../dispatch/backfill-on-start.ts'
import { startDispatcher } from '../dispatch/dispatcher.ts'
import { load } from '../dispatch/load.ts'
import type { FromDispatcher, ToDispatcher } from '../dispatch/messages.ts'
import { createReport } from '../dispatch/report.ts'
import { chargeStrays } from '../dispatch/run-scope.ts'
import { GlobalsChanged, lockGlobals, watchGlobals } from '../dispatch/shared-globals.ts'
import { startPosition, Waiting } from '../dispatch/start-position.ts'
import { HandlersError } from '../handler/handler-files.ts'
import { resolvePackageAlias } from '../handler/package-alias.ts'
import { DataDirInUse, type Lock, lockDataDir } from '../journal/lock.ts'
import { makeJournalDir } from '../journal/segments.ts'
import { openParent, parentOption } from '../lib/child-process.ts'
import { realClock } from '../lib/clock.ts'
import { setForwarderId } from '../lib/forward-mark.ts'
import { createLog } from '../lib/log.ts'
import { sendAlive } from '../lib/stall-watchdog.ts'
import { readTimes } from '../lib/times.ts'
import { findKnownHandlers, openEngine } from '../queue/open-engine.ts'
import { explainQueueFile } from '../queue/sqlite/integrity.ts'
import { queuePath } from '../queue/sqlite/queue.ts'

resolvePackageAlias()

/** Milliseconds between two attempts to lock while another dispatcher ends. */
const lockIntervalMs = 100

/** Names of errors whose message says both what is wrong and what to do, so that no stack is logged. */
const named = new Set(['Waiting', 'SchemaError', 'QueueFileError', 'IdentityError', 'LockError'])

/** `worker` is the data folder of a process that only runs handlers. */
const { values: args } = parseArgs({
  options: {
    worker: { type: 'string' },
    'backfill-since': { type: 'string' },
    'last-end': { type: 'string' },
    'forwarder-id': { type: 'string' },
    replacing: { type: 'boolean' },
    'after-end': { type: 'boolean' },
    [parentOption]: { type: 'string' },
    times: { type: 'string' },
  },
})
const isWorker = args.worker !== undefined
if (args['forwarder-id'] !== undefined) setForwarderId(args['forwarder-id'])
const config = readSettings()
/** The channel to the receiver that started this process; `undefined` if it was started alone. */
const parent = args[parentOption] ? openParent<ToDispatcher, FromDispatcher>({ mayBlock: true }) : undefined
const { log, close: closeLog } = createLog(config.logLevel, 'dispatcher')
const backfillSince = args['backfill-since']
const backfilling = new AbortController()
const report = createReport({ config, parent, log })
let isStopping = false
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
  reportFailure(config.databaseUrl === undefined ? explainQueueFile(error, queuePath(config.dataDir)) : error)
  // The other handlers get the grace to finish: the error is not theirs.
  return end(1, config.shutdownGrace)
}

async function run(): Promise<void> {
  lockGlobals()
  const deps = { config, log, onTrouble: report.engine }
  const { handlers, late, leftOut } = await load({
    config,
    isReplacing: args.replacing === true,
    isAfterEnd: args['after-end'] === true,
    findKnownHandlers: () => findKnownHandlers(deps),
    report,
    log,
  })
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
  const from = isWorker ? undefined : await startPosition(engine, config, log)
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
    changedGlobals: watchGlobals(),
    log,
    onOutcome: report.outcome,
    onDamage: ({ at: { segment, offset }, events }) =>
      report.send({ type: 'damaged', line: { segment, offset, events } }),
    onRetained: report.retained,
    onThrottled: report.throttled,
    onLate: report.late,
    lastEnd: args['last-end'],
    // If other processes run the handlers, adding deliveries is all the work of this process.
    onForwarded: () => void (runs || report.send({ type: 'worked' })),
  })
  const endReporting = report.pending(queue)
  const endWatching = watch(dispatcher.adopt)
  stopDispatcher = async (grace) => {
    endReporting()
    endWatching()
    backfilling.abort()
    await dispatcher.stop(grace)
    portals.stop()
    await engine.close()
  }
  resumeDispatcher = dispatcher.resume
  report.following()
  if (backfillSince !== undefined && config.backfillOnStart !== undefined && parent) {
    const { dataDir, backfillOnStart: targets } = config
    const deps = {
      dataDir,
      targets,
      since: new Date(backfillSince),
      append: report.append,
      signal: backfilling.signal,
      log,
    }
    void backfillOnStart({ ...deps, accesses: portals.all() }).then((isDone) => {
      if (isDone) report.send({ type: 'backfilled' })
    })
  }
  // Loading takes a tenth of a second, which should not count as time of a run. If it fails, the handler's call fails, too.
  if (config.incomingWebhooks.length > 0) loadTransport().catch(() => undefined)
  await dispatcher.failed
}

async function waitForLock(): Promise<Lock | undefined> {
  const started = performance.now()
  for (let isLogged = false; !isStopping; isLogged = true) {
    try {
      return lockDataDir(config.dataDir, 'dispatcher')
    } catch (error) {
      if (!(error instanceof DataDirInUse)) throw error
      if (!isLogged) log.info({ reason: error.message }, 'waiting for the dispatcher before this one to end')
      // A dispatcher that is being replaced ends within the grace. This one did not.
      if (performance.now() - started > config.shutdownGrace) report.send({ type: 'trouble', reason: error.message })
      await sleep(lockIntervalMs)
    }
  }
  return undefined
}

function reportFailure(error: unknown): void {
  let reason = `the dispatcher cannot go on: ${String(error)}`
  if (error instanceof HandlersError) {
    report.load({ broken: error.problems.map(({ file, at, error: err }) => ({ file, place: at, error: String(err) })) })
    for (const { file, at, error: err } of error.problems) log.error({ file, at, err }, 'a handler cannot be loaded')
    reason = error.message
  } else if (error instanceof GlobalsChanged) {
    log.error({ handlers: error.handlers, err: error }, 'a handler changed built-ins; its process is replaced')
    reason = error.message
  } else if (error instanceof Error && named.has(error.name)) {
    report.load({ trouble: error.message })
    log.error(error.message)
    reason = error.message
  } else log.fatal({ err: error }, 'the dispatcher cannot go on')
  report.send({ type: 'trouble', reason })
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
  sendAlive(parent, config.handlerStall)
}

/**
 * Ends this process. If it is called several times, the shortest grace decides. Never
 * resolves, so the caller cannot continue.
 */
async function end(code: number, grace: number): Promise<never> {
  isStopping = true
  // The list is cleared: the files being loaded did not cause this end.
  report.noLongerLoading()
  try {
    await stopDispatcher(grace)
  } catch (error) {
    log.error({ err: error }, 'the dispatcher did not end well')
  }
  await closeLog()
  process.exit(code)
}

function readSettings(): Config {
  try {
    return readConfig({ ...process.env, ...(isWorker && { DATA_DIR: args.worker }) }, 'dispatcher')
  } catch (error) {
    exitAtStart(error)
  }
}
