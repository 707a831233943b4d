import { existsSync, watch } from 'node:fs'
import { access, constants, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import closeWithGrace from 'close-with-grace'
import type { Logger } from 'pino'
import { createAdminServer } from './admin.ts'
import { type Alerter, startAlerter } from './alerts/alerter.ts'
import type { Snapshot } from './alerts/snapshot.ts'
import { type Config, readConfig } from './config.ts'
import { settleIdentity } from './dispatch/identity.ts'
import { settleFirstStart } from './dispatch/sqlite-queue.ts'
import { addImportRoute } from './import.ts'
import { createAllowedAddresses } from './intake/allowed-addresses.ts'
import { openPublishedAddresses } from './intake/published-addresses.ts'
import { createRefusalLog, type RefusalLog } from './intake/refusal-log.ts'
import { createServer } from './intake/server.ts'
import { createShapeLog } from './intake/shape-log.ts'
import { createTokens, type Tokens } from './intake/token.ts'
import { lastEvent } from './journal/follow.ts'
import { type Journal, openJournal } from './journal/journal.ts'
import { lockDataDir } from './journal/lock.ts'
import { codeOf, isJournalEmpty, journalDir, stableName } from './journal/segments.ts'
import { createLog } from './log.ts'
import { createReceiverMetrics } from './metrics/receiver.ts'
import { explainStart, StartError } from './start-error.ts'
import { type Supervisor, superviseDispatcher } from './supervisor.ts'
import { dropPendingSweep, openPendingSweep, type PendingSweep } from './sweep/pending-sweep.ts'

/** Bitrix24 opens a connection per event, a thousand of them after a bulk edit. */
const backlog = 4096

/** What remains of the grace for fsync and exit after the last connection was cut, in milliseconds. */
const lastMoments = 500

/** Editors save a file in several steps. */
const settled = 200

try {
  await start(readConfig(process.env))
} catch (error) {
  const { text, exitCode } = explainStart(error)
  process.stderr.write(`${text}\n`)
  process.exit(exitCode)
}

async function start(config: Config): Promise<void> {
  const { dataDir, allowedIps, shutdownGrace: grace } = config
  await ensureWritable(dataDir)
  // Where somebody sits at the terminal, its hang-up means stop; elsewhere SIGHUP means reload.
  const isTerminal = process.stdin.isTTY || process.stdout.isTTY
  // `b24-receiver reload` cannot know whether we sit at a terminal; it may send its signal as soon as we hold the lock.
  const onReload = takeSignals(isTerminal ? ['SIGUSR2'] : ['SIGUSR2', 'SIGHUP'])
  const lock = lockDataDir(dataDir, 'receiver')
  const startedAt = Date.now()
  const { log, close: closeLog } = createLog(config.logLevel, 'receiver')
  const published = allowedIps === 'auto' ? await openPublishedAddresses({ dataDir, log }) : undefined
  const allowed = allowedIps === undefined || allowedIps === 'auto' ? published : createAllowedAddresses(allowedIps)
  const lastAt = Date.parse((await lastEvent(dataDir))?.time ?? '') || undefined
  const shapes = createShapeLog(log)
  const refusals = createRefusalLog(log)
  let supervisor: Supervisor | undefined
  const metrics = createReceiverMetrics({
    shapes,
    refusals,
    journalTrouble: () => journal.trouble(),
    ...(config.dispatcher && { supervisor: () => supervisor }),
  })
  const journal = await openJournal({ ...config, log, onSync: metrics.synced })
  if (lastAt !== undefined) metrics.lastEventWas(new Date(lastAt))
  const isNew = await isJournalEmpty(dataDir)
  if (config.databaseUrl === undefined) settleFirstStart(dataDir, isNew)
  else settleIdentity(dataDir, isNew)
  const missed = await findMissed({ config, lastAt, log })
  const tokens = createTokens(config.tokens)
  const app = createServer({
    config,
    allowed,
    tokens,
    journal,
    log,
    shapes,
    refusals,
    timeouts: { farewell: grace / 2 },
    onAccepted: metrics.accepted,
  })
  const admin = createAdminServer({
    journalTrouble: journal.trouble,
    dispatcherTrouble: () => (config.dispatcher ? supervisor?.trouble() : undefined),
    hookTroubles: () => supervisor?.hookTroubles() ?? [],
    deliveries: () => supervisor?.state(),
    metrics: metrics.exposition,
  })
  addImportRoute(admin, { tokens, journal })
  await app.listen({ port: config.port, host: config.host, backlog })
  await admin.listen({ port: config.adminPort, host: config.adminHost })
  if (config.dispatcher)
    supervisor = superviseDispatcher({
      grace,
      stall: config.handlerStall,
      append: async (events) => void (await Promise.all(events.map((event) => journal.append(event)))),
      sweepSince: missed?.since,
      onSwept: () => void missed?.done().catch((error: unknown) => log.warn({ err: error }, 'a sweep is not noted')),
      log,
    })
  const alerter =
    config.alertUrl &&
    startAlerter({
      snapshot: () => snapshotOf({ journal, lastEventAt: lastAt ?? startedAt, refusals, supervisor }),
      log,
    })

  const skip: ('SIGHUP' | 'SIGUSR2')[] = isTerminal ? ['SIGUSR2'] : ['SIGUSR2', 'SIGHUP']
  closeWithGrace({ delay: grace + lastMoments, logger: log, skip }, async ({ signal, err }) => {
    if (err) log.fatal({ err }, 'the receiver cannot go on')
    else log.info({ signal }, 'stopping')
    const limit = Math.max(0, grace - lastMoments)
    // A connection that was kept alive by an answer given meanwhile would hold us.
    const sweep = setInterval(() => app.server.closeIdleConnections(), 50)
    // Whoever is still sending then was never acknowledged.
    const cut = setTimeout(() => app.server.closeAllConnections(), limit)
    await Promise.all([app.close(), supervisor?.stop(limit), published?.close(), alerter?.stop(limit)])
    clearInterval(sweep)
    clearTimeout(cut)
    await journal.close()
    await admin.close()
    lock.release()
    log.info('stopped')
    await closeLog()
  })
  onReload(() => void reload({ tokens, supervisor, alerter, log }))

  log.info(
    {
      tokens: config.tokens.map((token) => token.name ?? 'unnamed'),
      allowedIps,
      journal: stableName(dataDir),
      robots: config.robotPath === undefined ? 'none taken: ROBOT_PATH is not set' : 'taken at ROBOT_PATH',
      handlers: config.dispatcher ? config.handlersDir : 'none run: DISPATCHER=off',
      readyz: `http://${config.adminHost}:${config.adminPort}/readyz`,
    },
    `ready for events: POST ${config.webhookPath} on ${config.host}:${config.port}`,
  )
  if (supervisor && process.argv.includes('--watch')) watchHandlers(config.handlersDir, supervisor)
}

/** A signal that comes before there is anything to reload must not end us: it is done when there is. */
function takeSignals(signals: readonly NodeJS.Signals[]): (reload: () => void) => void {
  let isDue = false
  let act = () => {
    isDue = true
  }
  for (const signal of signals) process.on(signal, () => act())
  return (reload) => {
    act = reload
    if (isDue) reload()
  }
}

/** What SWEEP_ON_START is to look for. A disk that takes no note of it takes no event either, and says so by itself. */
async function findMissed({
  config: { dataDir, sweepOnStart },
  lastAt,
  log,
}: {
  config: Config
  lastAt: number | undefined
  log: Logger
}): Promise<PendingSweep | undefined> {
  try {
    if (sweepOnStart !== undefined)
      return await openPendingSweep(dataDir, lastAt === undefined ? lastAt : new Date(lastAt))
    await dropPendingSweep(dataDir)
  } catch (error) {
    log.error({ err: error }, 'nothing is swept')
  }
  return undefined
}

/** Secrets that come as files are read again; the handlers are loaded anew. */
async function reload({
  tokens,
  supervisor,
  alerter,
  log,
}: {
  tokens: Tokens
  supervisor: Supervisor | undefined
  alerter: Alerter | undefined
  log: Logger
}) {
  try {
    const config = readConfig(process.env)
    tokens.replace(config.tokens)
    log.info({ tokens: config.tokens.map((token) => token.name ?? 'unnamed') }, 'reloading')
  } catch (error) {
    log.error({ err: error }, 'the settings are wrong: the tokens stay as they were')
  }
  alerter?.reload()
  await supervisor?.reload()
}

/** What alerts are made of. `lastEventAt`: of an earlier process. */
function snapshotOf({
  journal,
  lastEventAt,
  refusals: { counts },
  supervisor,
}: {
  journal: Journal
  lastEventAt: number
  refusals: RefusalLog
  supervisor: Supervisor | undefined
}): Snapshot {
  return {
    journal: {
      lastEventAt: journal.lastEventAt() ?? lastEventAt,
      trouble: journal.trouble(),
      refused: counts.get('journal_unavailable') ?? 0,
    },
    wrongTokens: counts.get('invalid_application_token') ?? 0,
    ...(supervisor && {
      dispatcher: { ends: supervisor.ends(), trouble: supervisor.trouble() },
      hooks: supervisor.hookTroubles(),
      dead: { queued: supervisor.state()?.dead ?? 0, ...supervisor.dead() },
    }),
  }
}

function watchHandlers(dir: string, supervisor: Supervisor): void {
  let timer: NodeJS.Timeout | undefined
  watch(dir, () => {
    clearTimeout(timer)
    timer = setTimeout(() => void supervisor.reload(), settled)
  })
}

async function ensureWritable(dir: string): Promise<void> {
  let path = dir
  try {
    await mkdir(dir, { recursive: true })
    // What an earlier run left there may belong to another user.
    for (path of [
      dir,
      journalDir(dir),
      ...['receiver.lock', 'dispatcher.lock', 'dispatch.db', 'identity.json'].map((name) => join(dir, name)),
    ])
      if (existsSync(path)) await access(path, constants.W_OK)
  } catch (error) {
    const user = process.getuid?.()
    if (codeOf(error) === 'EROFS')
      throw new StartError(`${path} is on a read-only file system: set DATA_DIR`, { cause: error })
    if (codeOf(error) === 'EACCES')
      throw new StartError(`User ${user} may not write to ${path}. Run: chown -R ${user} ${dir}`, { cause: error })
    throw new StartError(`DATA_DIR ${path} cannot be used: ${String(error)}`, { cause: error })
  }
}
