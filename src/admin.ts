import Fastify, { type FastifyInstance } from 'fastify'
import type { QueueState } from './dispatch/queue.ts'
import { contentType } from './metrics/receiver.ts'
import type { Supervisor } from './supervisor.ts'

/** What `/readyz` asks: why something does not work, or nothing; and `/metrics`. */
export interface AdminParts {
  readonly journalTrouble: () => string | undefined
  readonly dispatcherTrouble: () => string | undefined
  readonly hookTroubles: () => readonly string[]
  readonly damagedLines: () => ReturnType<Supervisor['damaged']> | undefined
  /** Why handlers are not loaded while the others run. */
  readonly absentHandlers: () => readonly string[]
  /** What is wrong and stops no handler. */
  readonly warnings: () => readonly string[]
  readonly deliveries: () => QueueState | undefined
  /** In Prometheus' text format. */
  readonly metrics: () => Promise<string>
}

/**
 * The private listener. `/readyz` is 503 only when posts are refused: a receiver whose handlers do not run still takes
 * every event, so it must not be taken out of service for them.
 */
export function createAdminServer(parts: AdminParts): FastifyInstance {
  // It closes last: whoever has said nothing by then would hold the process.
  const app = Fastify({ logger: false, forceCloseConnections: true })
  app.get('/readyz', async (_request, reply) => {
    const journal = parts.journalTrouble()
    const dispatcher = parts.dispatcherTrouble()
    const hooks = parts.hookTroubles()
    const handlers = parts.absentHandlers()
    const warnings = parts.warnings()
    const deliveries = parts.deliveries()
    const damaged = parts.damagedLines()
    const damage = damaged && tellDamage(damaged)
    const isDegraded =
      dispatcher !== undefined || hooks.length + handlers.length + warnings.length > 0 || damage !== undefined
    if (journal !== undefined) reply.code(503)
    return {
      status: journal !== undefined ? 'unavailable' : isDegraded ? 'degraded' : 'ready',
      ...(journal !== undefined && { journal }),
      ...(dispatcher !== undefined && { dispatcher }),
      ...(hooks.length > 0 && { hooks }),
      ...(handlers.length > 0 && { handlers }),
      ...(damage !== undefined && { damage }),
      ...(warnings.length > 0 && { warnings }),
      ...(deliveries && { backlog: backlogOf(deliveries) }),
    }
  })
  app.get('/metrics', async (_request, reply) => reply.type(contentType).send(await parts.metrics()))
  return app
}

/** What is owed, of it what waits for its next try, and what was given up. */
function backlogOf({ ready, running, waiting, blocked, dead, oldestAt }: QueueState) {
  const oldest = oldestAt === undefined ? undefined : new Date(oldestAt).toISOString()
  return { owed: ready + running + waiting + blocked, waiting, dead, oldest }
}

/** `undefined` while every line of the journal could be read. */
export function tellDamage({ count, last }: ReturnType<Supervisor['damaged']>): string | undefined {
  if (last === undefined) return undefined
  const { segment, offset, events } = last
  const lines = count === 1 ? 'a line' : `${count} lines`
  const ids = events.length === 0 ? 'its event cannot be named' : `event ${events.join(', ')}`
  return `${lines} of the journal cannot be read, no handler gets what stood there; the last: segment ${segment}, byte ${offset} (${ids}). Run "b24-receiver verify"`
}
