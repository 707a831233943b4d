import './no-debugger.ts'
import type { FastifyInstance } from 'fastify'
import { startAlerter } from '../alerts/alerter.ts'
import { findMissed } from '../backfill/pending-backfill.ts'
import { type Config, readConfig } from '../config/config.ts'
import { exitAtStart } from '../config/explain-start.ts'
import { unknownSettings } from '../config/names.ts'
import { weakTokens } from '../config/values.ts'
import { createAllowedAddresses } from '../intake/allowed-addresses.ts'
import { type ConnectionLimit, limitConnections } from '../intake/connections.ts'
import { addImportRoute } from '../intake/import-route.ts'
import { listenOnInherited, takeInheritedSocket } from '../intake/inherited-socket.ts'
import { openPublishedAddresses } from '../intake/published-addresses.ts'
import { createRefusalLog } from '../intake/refusal-log.ts'
import { createRobotPath } from '../intake/robot-path.ts'
import { createServer } from '../intake/server.ts'
import { createShapeLog } from '../intake/shape-log.ts'
import { createTokens } from '../intake/token.ts'
import { lastEvent } from '../journal/follow.ts'
import { openJournal } from '../journal/journal.ts'
import { lockDataDir } from '../journal/lock.ts'
import { isJournalEmpty, stableName } from '../journal/segments.ts'
import { forwarderId } from '../lib/forward-mark.ts'
import { createLog } from '../lib/log.ts'
import { modeForOthers } from '../lib/private-files.ts'
import { readTimes } from '../lib/times.ts'
import { initFirstIdentity } from '../queue/identity.ts'
import { followedSegment, initFirstStart } from '../queue/sqlite/queue.ts'
import { sampleOf } from '../receiver/alert-sample.ts'
import { ensureWritable } from '../receiver/data-dir.ts'
import { drain, stopOnSignal } from '../receiver/drain.ts'
import { finishErasure } from '../receiver/finish-erasure.ts'
import { createReceiverMetrics } from '../receiver/metrics.ts'
import { createAdminServer } from '../receiver/private-listener.ts'
import { createReload, reloadSignals, takeSignals, warnOfLackingIncomingWebhooks } from '../receiver/reload.ts'
import { type Supervisor, superviseDispatcher } from '../receiver/supervisor.ts'
import { watchHandlers } from '../receiver/watch-handlers.ts'

/** Connections that may wait to be accepted. Bitrix24 opens one per event, a thousand of them after a bulk edit. */
const backlog = 4096

try {
  await start(readConfig(process.env))
} catch (error) {
  exitAtStart(error)
}

async function start(config: Config): Promise<void> {
  const { dataDir, allowedIps, shutdownGrace: grace } = config
  const inherited = takeInheritedSocket(process.env, process.pid)
  await ensureWritable(dataDir)
  const signals = reloadSignals()
  // `b24-receiver reload` may send a signal as soon as this process has the lock.
  const onReload = takeSignals(signals)
  const lock = lockDataDir(dataDir, 'receiver')
  const startedAt = Date.now()
  const { log, close: closeLog } = createLog(config.logLevel, 'receiver')
  if (lock.wasDamaged) log.warn('receiver.lock was damaged, and was emptied')
  const mode = modeForOthers(dataDir)
  if (mode !== undefined)
    log.warn(
      { folder: dataDir, mode, advice: `chmod 700 ${dataDir}, or chmod 2750 to let a group read` },
      'users of this machine other than the receiver may enter DATA_DIR',
    )
  const published =
    allowedIps === 'auto' ? await openPublishedAddresses({ dataDir, log, ...readTimes().lists }) : undefined
  const allowed = allowedIps === undefined || allowedIps === 'auto' ? published : createAllowedAddresses(allowedIps)
  const lastAt = Date.parse((await lastEvent(dataDir))?.time ?? '') || undefined
  const shapes = createShapeLog(log)
  const tokens = createTokens(config.tokens)
  const secrets = () => [...tokens.values(), ...createRobotPath(config.robotPath).values]
  const refusals = createRefusalLog({ log, secrets })
  let supervisor: Supervisor | undefined
  let connections: ConnectionLimit | undefined
  const metrics = createReceiverMetrics({
    shapes,
    refusals,
    journalTrouble: () => journal.trouble(),
    droppedConnections: () => connections?.dropped() ?? 0,
    webhooks: () => tokens.names(),
    ...(config.dispatcher && { supervisor: () => supervisor }),
  })
  const usedNumber = config.databaseUrl === undefined ? followedSegment(dataDir) : 0
  const journal = await openJournal({ ...config, usedNumber, log, onSync: metrics.synced })
  if (lastAt !== undefined) metrics.lastEventWas(new Date(lastAt))
  const isNew = await isJournalEmpty(dataDir)
  if (isNew && usedNumber > 0)
    log.error({ segment: usedNumber }, 'the journal is empty, and was followed before: what was not followed is lost')
  if (config.databaseUrl === undefined) initFirstStart(dataDir, isNew)
  else initFirstIdentity(dataDir, isNew)
  const missed = await findMissed({ ...config, lastAt, log })
  const app = createServer({
    config,
    allowed,
    tokens,
    journal,
    log,
    shapes,
    refusals,
    timeouts: { gracefulClose: grace / 2 },
    isInherited: inherited !== undefined,
    onAccepted: metrics.accepted,
  })
  connections = limitConnections(app.server, { log })
  const admin = createAdminServer({
    journalTrouble: journal.trouble,
    connectionsTrouble: connections.trouble,
    dispatcher: () => supervisor?.status(),
    metrics: metrics.exposition,
    allowedHosts: [config.adminHost, ...config.adminAllowedHosts],
    refusals,
  })
  addImportRoute(admin, { tokens, secrets, journal, bodyLimit: config.bodyLimit })
  // The last step that can fail before the first post is taken: a post that a failing start cuts off is lost.
  await admin.listen({ port: config.adminPort, host: config.adminHost })
  const socket = inherited === undefined ? undefined : await listenOnInherited(app, inherited, backlog)
  if (socket === undefined) await app.listen({ port: config.port, host: config.host, backlog })
  else if (socket.port !== config.port)
    log.warn(
      { port: config.port, socket: socket.port },
      'PORT is not that of the socket that the service manager handed over: set it, so that doctor and send find the receiver',
    )
  if (config.dispatcher)
    supervisor = superviseDispatcher({
      graceMs: grace,
      stallMs: config.handlerStall,
      forwarderId: forwarderId(),
      append: async (events) => void (await Promise.all(events.map((event) => journal.append(event)))),
      backfillSince: missed?.since,
      onBackfilled: () =>
        void missed?.done().catch((error: unknown) => log.warn({ err: error }, 'a backfill is not noted')),
      log,
    })
  void finishErasure(dataDir, log)
  const sample = () => sampleOf({ journal, lastEventAt: lastAt ?? startedAt, refusals, supervisor })
  const alerter = startAlerter({ ...config, sample, log })

  const close = async (limitMs: number) => {
    await drain({ app, admin, journal, supervisor, published, alerter }, limitMs)
    lock.release()
  }
  stopOnSignal({ name: 'receiver', graceMs: grace, skip: signals, log, closeLog, close })
  const reload = createReload({ config, tokens, supervisor, alerter, log })
  onReload(() => void reload())
  warnOfLackingIncomingWebhooks(config, log)

  log.info(
    {
      tokens: config.tokens.map((token) => token.name ?? 'unnamed'),
      allowedIps,
      journal: stableName(dataDir),
      robots: config.robotPath === undefined ? 'none taken: ROBOT_PATH is not set' : 'taken at ROBOT_PATH',
      handlers: config.dispatcher ? config.handlersDir : 'none run: DISPATCHER=off',
      readyz: `http://${config.adminHost}:${portOf(admin)}/readyz`,
    },
    `ready for events: POST ${config.webhookPath} on ${socket?.address ?? config.host}:${socket?.port ?? portOf(app)}`,
  )
  for (const warning of [...unknownSettings(process.env), ...weakTokens(config.tokens)]) log.warn(warning)
  if (supervisor && process.argv.includes('--watch')) watchHandlers({ dir: config.handlersDir, supervisor, log })
}

/** Returns the actual port: for port 0 the system chooses a free one. */
function portOf(app: FastifyInstance): number | undefined {
  const address = app.server.address()
  return typeof address === 'string' ? undefined : address?.port
}
