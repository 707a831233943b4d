import Fastify, { type FastifyInstance } from 'fastify'
import type { QueueState } from '../queue/queue.ts'
import { shorten } from '../intake/event.ts'
import type { RefusalLog } from '../intake/refusal-log.ts'
import { contentType } from './metrics.ts'
import { printable } from '../lib/printable.ts'
import { createPrivateHosts } from './private-hosts.ts'
import { PrivateRefusal, Refusal, refusalBody } from '../intake/refusal.ts'
import type { Supervisor } from './supervisor.ts'

/** What `/readyz` asks: why something does not work, or nothing; and `/metrics`. */
export interface AdminParts {
  readonly journalTrouble: () => string | undefined
  readonly connectionsTrouble: () => string | undefined
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
  /** Names that it answers to, beside localhost. */
  readonly allowedHosts: readonly string[]
  readonly refusals: RefusalLog
  /** Milliseconds that whoever was refused may go on to send, to read his answer in peace. */
  readonly lingerMs?: number
}

/**
 * The private listener. `/readyz` is 503 only when posts are refused: a receiver whose handlers do not run still takes
 * every event, so it must not be taken out of service for them.
 */
export function createAdminServer(parts: AdminParts): FastifyInstance {
  // It closes last: whoever has said nothing by then would hold the process.
  const app = Fastify({ logger: false, forceCloseConnections: true })
  const { refusals, lingerMs = 5_000 } = parts
  const isOurs = createPrivateHosts(parts.allowedHosts)
  app.addHook('onRequest', (request, _reply, done) => {
    const { host } = request.headers
    if (isOurs(host)) return done()
    const name = printable(shorten(host ?? ''))
    const message = `the private listener does not answer to the name "${name}": call it by an IP address, or add the name to ADMIN_ALLOWED_HOSTS`
    done(new PrivateRefusal('host_not_allowed', { message }, { host }))
  })
  app.setErrorHandler((error, request, reply) => {
    if (!(error instanceof Refusal)) return reply.send(error)
    refusals.tell(error, { remote: request.ip })
    // What else comes of the body is dropped, for a while: a connection that is reset may take the answer with it.
    setTimeout(() => {
      if (!request.raw.complete) request.raw.socket.destroy()
    }, lingerMs).unref()
    return reply
      .code(error.status)
      .send({ ...refusalBody(error.code), ...(error instanceof PrivateRefusal && error.answer) })
  })
  app.get('/readyz', async (_request, reply) => {
    const journal = parts.journalTrouble()
    const connections = parts.connectionsTrouble()
    const isUnavailable = journal !== undefined || connections !== undefined
    const dispatcher = parts.dispatcherTrouble()
    const hooks = parts.hookTroubles()
    const handlers = parts.absentHandlers()
    const warnings = parts.warnings()
    const deliveries = parts.deliveries()
    const damaged = parts.damagedLines()
    const damage = damaged && tellDamage(damaged)
    const isDegraded =
      dispatcher !== undefined || hooks.length + handlers.length + warnings.length > 0 || damage !== undefined
    if (isUnavailable) reply.code(503)
    return {
      status: isUnavailable ? 'unavailable' : isDegraded ? 'degraded' : 'ready',
      ...(journal !== undefined && { journal }),
      ...(connections !== undefined && { connections }),
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
