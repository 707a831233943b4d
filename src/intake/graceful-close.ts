import type { Server } from 'node:net'
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'

/**
 * Milliseconds. A client that requested `/healthz?watch` within this time will request it again soon. The Caddyfile
 * does so twice a second.
 */
const watchIntervalMs = 3_000

/** Milliseconds. A proxy that has just received the 503 may have chosen this process a moment before. */
const proxyDelayMs = 250

/**
 * Adds `/healthz`, and makes `app.close()` lose no connection. When a listener closes, the kernel resets every
 * connection that it has established and the process has not accepted yet, and Bitrix24 sends nothing twice. So a
 * proxy that watches gets a 503 first and sends no more posts. Then the process accepts every connection in the
 * kernel's queue, and only then closes the listener.
 *
 * @param limit milliseconds for the whole close
 * @param isInherited whether the listener stays open without this process: connections that it does not accept wait
 *   there for the next process
 */
export function addGracefulClose(app: FastifyInstance, limit: number, isInherited: boolean): void {
  let watchedAt = Number.NEGATIVE_INFINITY
  let isClosing = false
  const notified = Promise.withResolvers<void>()

  app.get<{ Querystring: Record<string, unknown> }>('/healthz', async (request, reply) => {
    const isWatcher = 'watch' in request.query
    if (isWatcher) watchedAt = performance.now()
    if (!isClosing) return { status: 'ok' }
    if (isWatcher) notified.resolve()
    return reply.code(503).send({ status: 'stopping' })
  })

  app.addHook('preClose', async () => {
    isClosing = true
    if (isInherited) return
    const now = performance.now()
    if (now - watchedAt < watchIntervalMs) {
      await Promise.race([
        notified.promise,
        sleep(Math.min(watchIntervalMs, limit - proxyDelayMs), undefined, { ref: false }),
      ])
      await sleep(proxyDelayMs)
    }
    await emptyBacklog(app.server, now + limit)
  })
}

/**
 * libuv accepts one connection in a turn of the event loop, so a turn without a connection found the kernel's queue
 * empty.
 */
async function emptyBacklog(server: Server, end: number): Promise<void> {
  let taken = 0
  const count = () => void taken++
  server.on('connection', count)
  // The rest of the current turn, which may already be past the poll of the sockets.
  await turn()
  for (let before = -1; before !== taken && performance.now() < end; ) {
    before = taken
    await turn()
  }
  server.off('connection', count)
}
