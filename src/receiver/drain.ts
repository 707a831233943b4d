import type { FastifyInstance } from 'fastify'
import type { Alerter } from '../alerts/alerter.ts'
import type { PublishedAddresses } from '../intake/published-addresses.ts'
import type { Journal } from '../journal/journal.ts'
import type { Supervisor } from './supervisor.ts'

export interface DrainParts {
  /** The public listener. */
  readonly app: FastifyInstance
  readonly admin: FastifyInstance
  readonly journal: Pick<Journal, 'close'>
  readonly supervisor: Supervisor | undefined
  readonly published: PublishedAddresses | undefined
  readonly alerter: Alerter | undefined
}

/**
 * Takes no more posts, answers those that are here, and ends the rest in the order in which it is needed.
 *
 * @param limit milliseconds after which whoever is still sending or running is cut off
 */
export async function drain(parts: DrainParts, limit: number): Promise<void> {
  const { app, admin, journal, supervisor, published, alerter } = parts
  // A connection that was kept alive by an answer given meanwhile would hold us.
  const sweep = setInterval(() => app.server.closeIdleConnections(), 50)
  // Whoever is still sending then was never acknowledged.
  const cut = setTimeout(() => app.server.closeAllConnections(), limit)
  await Promise.all([app.close(), supervisor?.stop(limit), published?.close(), alerter?.stop(limit)])
  clearInterval(sweep)
  clearTimeout(cut)
  await journal.close()
  // Last: until then it says how we are.
  await admin.close()
}
