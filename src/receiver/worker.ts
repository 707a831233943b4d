import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import closeWithGrace from 'close-with-grace'
import { createAdminServer } from './private-listener.ts'
import { startAlerter } from '../alerts/alerter.ts'
import { dispatcherSnapshotOf } from './alert-snapshot.ts'
import type { Config } from '../config/config.ts'
import { createRefusalLog } from '../intake/refusal-log.ts'
import { createLog } from '../lib/log.ts'
import { reloadSignals, takeSignals } from './reload.ts'
import { superviseDispatcher } from './supervisor.ts'

/** What remains of the grace for the exit, in milliseconds. */
const lastMoments = 500

/** So much more a slow machine may take before its end counts as failed, in milliseconds. */
const overtime = 1_000

/** It has no journal, and is not asked to look for what it should hold. */
const refuse = () => Promise.reject(new Error('a worker has no journal'))

/**
 * A process that runs handlers, and takes no posts: a dispatcher without a journal, kept running. Any number may run on
 * one database. Resolves when it has stopped.
 */
export async function startWorker(config: Config): Promise<void> {
  const { shutdownGrace: grace } = config
  const signals = reloadSignals()
  const onReload = takeSignals(signals)
  const { log, close: closeLog } = createLog(config.logLevel, 'worker')
  // Its dispatcher's identity, and the lock that makes it the only one of that identity.
  const folder = mkdtempSync(join(tmpdir(), 'b24-worker-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  const stopped = Promise.withResolvers<void>()
  const supervisor = superviseDispatcher({ grace, stall: config.handlerStall, workerDir: folder, append: refuse, log })
  const admin = createAdminServer({
    journalTrouble: () => undefined,
    connectionsTrouble: () => undefined,
    dispatcherTrouble: () => supervisor.trouble(),
    damagedLines: () => undefined,
    hookTroubles: () => [...supervisor.hookTroubles().values()],
    absentHandlers: () => [...supervisor.absentHandlers().values()],
    warnings: () => supervisor.warnings(),
    deliveries: () => supervisor.state(),
    metrics: async () => (await supervisor.metrics()) ?? '',
    allowedHosts: [config.adminHost, ...config.adminAllowedHosts],
    // It takes no posts, so nobody shows it a secret of theirs.
    refusals: createRefusalLog({ log, secrets: () => [] }),
  })
  try {
    await admin.listen({ port: config.adminPort, host: config.adminHost })
  } catch (error) {
    // Its dispatcher would run on, and keep this process.
    await supervisor.stop(0)
    throw error
  }
  const alerter =
    config.alertUrl &&
    startAlerter({
      snapshot: () => dispatcherSnapshotOf(supervisor),
      log,
    })
  closeWithGrace({ delay: grace + overtime, logger: log, skip: signals }, async ({ signal, err }) => {
    if (err) log.fatal({ err }, 'the worker cannot go on')
    else log.info({ signal }, 'stopping')
    const limit = Math.max(0, grace - lastMoments)
    await Promise.all([supervisor.stop(limit), alerter?.stop(limit)])
    await admin.close()
    log.info('stopped')
    await closeLog()
    stopped.resolve()
  })
  onReload(() => {
    alerter?.reload()
    void supervisor.reload()
  })
  log.info(
    { handlers: config.handlersDir, readyz: `http://${config.adminHost}:${config.adminPort}/readyz` },
    'ready for deliveries',
  )
  await stopped.promise
}
