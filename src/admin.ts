import Fastify, { type FastifyInstance } from 'fastify'
import type { QueueState } from './dispatch/queue.ts'
import { contentType } from './metrics/receiver.ts'

/** What `/readyz` asks: why something does not work, or nothing; and `/metrics`. */
export interface AdminParts {
  readonly journalTrouble: () => string | undefined
  readonly connectionsTrouble: () => string | undefined
  readonly dispatcherTrouble: () => string | undefined
  readonly hookTroubles: () => readonly string[]
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
    const connections = parts.connectionsTrouble()
    const isUnavailable = journal !== undefined || connections !== undefined
    const dispatcher = parts.dispatcherTrouble()
    const hooks = parts.hookTroubles()
    const deliveries = parts.deliveries()
    const isDegraded = dispatcher !== undefined || hooks.length > 0
    if (isUnavailable) reply.code(503)
    return {
      status: isUnavailable ? 'unavailable' : isDegraded ? 'degraded' : 'ready',
      ...(journal !== undefined && { journal }),
      ...(connections !== undefined && { connections }),
      ...(dispatcher !== undefined && { dispatcher }),
      ...(hooks.length > 0 && { hooks }),
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
