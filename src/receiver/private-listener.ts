import Fastify, { type FastifyInstance } from 'fastify'
import type { DispatcherStatus } from '../dispatch/status.ts'
import { PrivateRefusal, Refusal, refusalBody } from '../intake/refusal.ts'
import type { RefusalLog } from '../intake/refusal-log.ts'
import { printable } from '../lib/printable.ts'
import { shorten } from '../lib/shorten.ts'
import type { QueueState } from '../queue/queue.ts'
import { contentType } from './metrics.ts'
import { createPrivateHosts } from './private-hosts.ts'

/** The sources for `/readyz`, which say why something does not work, and for `/metrics`. */
export interface AdminDeps {
  readonly journalTrouble: () => string | undefined
  readonly connectionsTrouble: () => string | undefined
  /** `undefined` if this process starts no dispatcher. */
  readonly dispatcher: () => DispatcherStatus | undefined
  readonly metrics: () => Promise<string>
  /** Names that the listener answers to, in addition to localhost. */
  readonly allowedHosts: readonly string[]
  readonly refusals: RefusalLog
  /** Milliseconds for which a refused client may keep sending, so that it can read its answer. */
  readonly lingerMs?: number
}

/**
 * Creates the private listener. `/readyz` returns 503 only when posts are refused. A receiver whose handlers do not run
 * still takes every event, so a load balancer must not take it out of service.
 */
export function createAdminServer(deps: AdminDeps): FastifyInstance {
  // The listener closes last: an idle connection would keep the process alive.
  const app = Fastify({ logger: false, forceCloseConnections: true })
  const { refusals, lingerMs = 5_000 } = deps
  const isOurs = createPrivateHosts(deps.allowedHosts)
  app.addHook('onRequest', (request, _reply, done) => {
    const { host } = request.headers
    if (isOurs(host)) return done()
    const name = printable(shorten(host ?? ''))
    const message = `the private listener does not answer to the name "${name}": call it by an IP address, or add the name to ADMIN_ALLOWED_HOSTS`
    done(new PrivateRefusal('host_not_allowed', { message }, { host }))
  })
  app.setErrorHandler((error, request, reply) => {
    if (!(error instanceof Refusal)) return reply.send(error)
    refusals.write(error, { remote: request.ip })
    // The rest of the body is dropped for a while: a reset of the connection could discard the answer.
    setTimeout(() => {
      if (!request.raw.complete) request.raw.socket.destroy()
    }, lingerMs).unref()
    return reply
      .code(error.status)
      .send({ ...refusalBody(error.code), ...(error instanceof PrivateRefusal && error.answer) })
  })
  app.get('/readyz', async (_request, reply) => {
    const journal = deps.journalTrouble()
    const connections = deps.connectionsTrouble()
    const status = deps.dispatcher()
    const degraded = {
      dispatcher: status?.trouble,
      incoming_webhooks: textsOf(status?.incomingWebhooks),
      handlers: textsOf(status?.absent),
      damage: status && damageText(status.damaged),
      warnings: textsOf(status?.warnings),
    }
    const isUnavailable = journal !== undefined || connections !== undefined
    const isDegraded = Object.values(degraded).some((trouble) => trouble !== undefined)
    if (isUnavailable) reply.code(503)
    return {
      status: isUnavailable ? 'unavailable' : isDegraded ? 'degraded' : 'ready',
      journal,
      connections,
      ...degraded,
      backlog: status?.queue && backlogOf(status.queue),
    }
  })
  app.get('/metrics', async (_request, reply) => reply.type(contentType).send(await deps.metrics()))
  return app
}

/** JSON leaves out what is `undefined`. */
function textsOf(texts: Readonly<Record<string, string>> = {}): readonly string[] | undefined {
  const list = Object.values(texts)
  return list.length > 0 ? list : undefined
}

/** `pending` includes `waiting`, the deliveries that wait for a retry. */
function backlogOf({ ready, running, waiting, blocked, dead, oldestAt }: QueueState) {
  const oldest = oldestAt === undefined ? undefined : new Date(oldestAt).toISOString()
  return { pending: ready + running + waiting + blocked, waiting, dead, oldest }
}

/** Returns `undefined` if every line of the journal could be read. */
export function damageText({ count, last }: DispatcherStatus['damaged']): string | undefined {
  if (last === undefined) return undefined
  const { segment, offset, events } = last
  const lines = count === 1 ? 'a line' : `${count} lines`
  const ids = events.length === 0 ? 'its event cannot be named' : `event ${events.join(', ')}`
  return `${lines} of the journal cannot be read, no handler gets what stood there; the last: segment ${segment}, byte ${offset} (${ids}). Run "b24-receiver verify"`
}
