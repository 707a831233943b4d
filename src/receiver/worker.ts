import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { type Alerter, startAlerter } from '../alerts/alerter.ts'
import { type Config, readSettings } from '../config/config.ts'
import { createRefusalLog } from '../intake/refusal-log.ts'
import { createLog } from '../lib/log.ts'
import { dispatcherSampleOf } from './alert-sample.ts'
import { stopOnSignal } from './drain.ts'
import { createAdminServer } from './private-listener.ts'
import { reloadSignals, takeSignals } from './reload.ts'
import { superviseDispatcher } from './supervisor.ts'

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
  const supervisor = superviseDispatcher({
    graceMs: grace,
    stallMs: config.handlerStall,
    workerDir: folder,
    append: refuse,
    log,
  })
  const admin = createAdminServer({
    journalTrouble: () => undefined,
    connectionsTrouble: () => undefined,
    dispatcher: () => supervisor.status(),
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
  const alerter = startAlerter({ ...config, sample: () => dispatcherSampleOf(supervisor.status()), log })
  stopOnSignal({
    name: 'worker',
    graceMs: grace,
    skip: signals,
    log,
    closeLog: () => closeLog().then(stopped.resolve),
    async close(limitMs) {
      alerter?.stop()
      await supervisor.stop(limitMs)
      await admin.close()
    },
  })
  onReload(() => {
    reloadAlerter(alerter, log)
    supervisor.reload()
  })
  log.info(
    { handlers: config.handlersDir, readyz: `http://${config.adminHost}:${config.adminPort}/readyz` },
    'ready for deliveries',
  )
  await stopped.promise
}

/** ALERT_URL_FILE may have changed. */
function reloadAlerter(alerter: Alerter | undefined, log: Logger): void {
  try {
    alerter?.reload(readSettings(process.env, 'alertUrl').alertUrl)
  } catch (error) {
    log.error({ err: error }, 'the settings are wrong: alerts go where they went')
  }
}
