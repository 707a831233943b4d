import type { Server } from 'node:net'
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'

/** Milliseconds. Who asked `/healthz?watch` within it will ask again soon. The Caddyfile asks twice a second. */
const rhythm = 3_000

/** Milliseconds. A proxy that has just been told may have chosen us a moment before. */
const lastChoice = 250

/**
 * Adds `/healthz`, and lets `app.close()` lose no connection. When a listener closes, the kernel resets every connection
 * that it had made and we had not taken yet, and Bitrix24 sends nothing twice. So a proxy that watches is answered 503
 * first, and sends no more; and whoever is in the kernel's queue is taken before the listener closes.
 *
 * @param limit milliseconds that all of it may take
 * @param isInherited whether the listener stays open without us: what we do not take waits in it for the next process
 */
export function addFarewell(app: FastifyInstance, limit: number, isInherited: boolean): void {
  let watchedAt = Number.NEGATIVE_INFINITY
  let isClosing = false
  const told = Promise.withResolvers<void>()

  app.get<{ Querystring: Record<string, unknown> }>('/healthz', async (request, reply) => {
    const isWatcher = 'watch' in request.query
    if (isWatcher) watchedAt = performance.now()
    if (!isClosing) return { status: 'ok' }
    if (isWatcher) told.resolve()
    return reply.code(503).send({ status: 'stopping' })
  })

  app.addHook('preClose', async () => {
    isClosing = true
    if (isInherited) return
    const now = performance.now()
    if (now - watchedAt < rhythm) {
      await Promise.race([told.promise, sleep(Math.min(rhythm, limit - lastChoice), undefined, { ref: false })])
      await sleep(lastChoice)
    }
    await emptyBacklog(app.server, now + limit)
  })
}

/** libuv takes one connection in a turn of the event loop: a turn that brought none found the kernel's queue empty. */
async function emptyBacklog(server: Server, end: number): Promise<void> {
  let taken = 0
  const count = () => void taken++
  server.on('connection', count)
  // The rest of this turn, which may be past its look at the sockets.
  await turn()
  for (let before = -1; before !== taken && performance.now() < end; ) {
    before = taken
    await turn()
  }
  server.off('connection', count)
}
