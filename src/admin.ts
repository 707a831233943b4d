import Fastify, { type FastifyInstance } from 'fastify'

/** What `/readyz` asks: why something does not work, or nothing. */
export interface AdminParts {
  readonly journalTrouble: () => string | undefined
  readonly dispatcherTrouble: () => string | undefined
  readonly hookTroubles: () => readonly string[]
}

/**
 * The private listener. `/readyz` is 503 only when posts are refused: a receiver whose handlers do not run still takes
 * every event, so it must not be taken out of service for them.
 */
export function createAdminServer({ journalTrouble, dispatcherTrouble, hookTroubles }: AdminParts): FastifyInstance {
  const app = Fastify({ logger: false })
  app.get('/readyz', async (_request, reply) => {
    const journal = journalTrouble()
    const dispatcher = dispatcherTrouble()
    const hooks = hookTroubles()
    const isDegraded = dispatcher !== undefined || hooks.length > 0
    if (journal !== undefined) reply.code(503)
    return {
      status: journal !== undefined ? 'unavailable' : isDegraded ? 'degraded' : 'ready',
      ...(journal !== undefined && { journal }),
      ...(dispatcher !== undefined && { dispatcher }),
      ...(hooks.length > 0 && { hooks }),
    }
  })
  return app
}
