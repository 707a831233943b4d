import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import closeWithGrace from 'close-with-grace'
import { startAlerter } from '../alerts/alerter.ts'
import type { Config } from '../config/config.ts'
import { createRefusalLog } from '../intake/refusal-log.ts'
import { createLog } from '../lib/log.ts'
import { dispatcherSampleOf } from './alert-sample.ts'
import { createAdminServer } from './private-listener.ts'
import { reloadSignals, takeSignals } from './reload.ts'
import { superviseDispatcher } from './supervisor.ts'

/** Milliseconds of the grace that are reserved for the exit. */
const lastMoments = 500

/** Milliseconds that a slow machine may take beyond the grace before the stop counts as failed. */
const overtime = 1_000

/** A worker has no journal, and its dispatcher never backfills. */
const refuse = () => Promise.reject(new Error('a worker has no journal'))

/**
 * Runs handlers without taking posts, by keeping a dispatcher without a journal running. Any number of workers may share
 * one database. Resolves when the worker has stopped.
 */
export async function startWorker(config: Config): Promise<void> {
  const { shutdownGrace: grace } = config
  const signals = reloadSignals()
  const onReload = takeSignals(signals)
  const { log, close: closeLog } = createLog(config.logLevel, 'worker')
  // The folder has the dispatcher's identity, and the lock that makes that identity unique.
  const folder = mkdtempSync(join(tmpdir(), 'b24-worker-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  const stopped = Promise.withResolvers<void>()
  const supervisor = superviseDispatcher({ grace, stall: config.handlerStall, workerDir: folder, append: refuse, log })
  const admin = createAdminServer({
    journalTrouble: () => undefined,
    connectionsTrouble: () => undefined,
    dispatcherTrouble: () => supervisor.trouble(),
    damagedLines: () => undefined,
    incomingWebhookTroubles: () => [...supervisor.incomingWebhookTroubles().values()],
    absentHandlers: () => [...supervisor.absentHandlers().values()],
    warnings: () => supervisor.warnings(),
    deliveries: () => supervisor.state(),
    metrics: async () => (await supervisor.metrics()) ?? '',
    allowedHosts: [config.adminHost, ...config.adminAllowedHosts],
    // A worker takes no posts, so no refused request contains a token.
    refusals: createRefusalLog({ log, secrets: () => [] }),
  })
  try {
    await admin.listen({ port: config.adminPort, host: config.adminHost })
  } catch (error) {
    // The dispatcher would go on running and keep this process alive.
    await supervisor.stop(0)
    throw error
  }
  const alerter =
    config.alertUrl &&
    startAlerter({
      sample: () => dispatcherSampleOf(supervisor),
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
