import closeWithGrace from 'close-with-grace'
import type { FastifyInstance } from 'fastify'
import type { Logger } from 'pino'
import type { Alerter } from '../alerts/alerter.ts'
import type { PublishedAddresses } from '../intake/published-addresses.ts'
import type { Journal } from '../journal/journal.ts'
import type { Supervisor } from './supervisor.ts'

export interface DrainDeps {
  readonly app: FastifyInstance
  readonly admin: FastifyInstance
  readonly journal: Pick<Journal, 'close'>
  readonly supervisor: Supervisor | undefined
  readonly published: PublishedAddresses | undefined
  readonly alerter: Alerter | undefined
}

/**
 * Takes no more posts, answers those that have arrived, and closes every part after the parts that need it.
 *
 * @param limit milliseconds after which open connections and running handlers are cut off
 */
export async function drain(deps: DrainDeps, limit: number): Promise<void> {
  const { app, admin, journal, supervisor, published, alerter } = deps
  // An answer sent meanwhile may leave its connection in keep-alive, which would delay the close.
  const closeIdle = setInterval(() => app.server.closeIdleConnections(), 50)
  // A post that is still being sent then was never acknowledged.
  const cut = setTimeout(() => app.server.closeAllConnections(), limit)
  alerter?.stop()
  await Promise.all([app.close(), supervisor?.stop(limit), published?.close()])
  clearInterval(closeIdle)
  clearTimeout(cut)
  await journal.close()
  // Last, so that `/readyz` answers until the end.
  await admin.close()
}

export interface StopDeps {
  readonly name: 'receiver' | 'worker'
  readonly graceMs: number
  readonly skip: closeWithGrace.Signals[]
  readonly log: Logger
  readonly closeLog: () => Promise<void>
  /** @param limitMs milliseconds after which open connections and running handlers are cut off */
  readonly close: (limitMs: number) => Promise<void>
}

/** Milliseconds of the grace that are reserved for fsync and exit after the last connection was cut. */
const exitMs = 500

/** Milliseconds beyond the grace before the stop of a slow machine counts as failed. Docker kills a second later. */
const slackMs = 1_000

/** Closes everything when a signal means stop, or after an error that nothing has caught. */
export function stopOnSignal({ name, graceMs, skip, log, closeLog, close }: StopDeps): void {
  closeWithGrace({ delay: graceMs + slackMs, logger: log, skip }, async ({ signal, err }) => {
    if (err) log.fatal({ err }, `the ${name} cannot go on`)
    else log.info({ signal }, 'stopping')
    await close(Math.max(0, graceMs - exitMs))
    log.info('stopped')
    await closeLog()
  })
}
