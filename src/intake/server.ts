import type { Duplex } from 'node:stream'
import formbody from '@fastify/formbody'
import Fastify, {
  type FastifyBaseLogger,
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
} from 'fastify'
import type { Config } from '../config/config.ts'
import { forwarderId, forwardMark } from '../lib/forward-mark.ts'
import { createBodyReader } from './body.ts'
import { addGracefulClose } from './graceful-close.ts'
import { parseAgain } from './raw-url.ts'
import { Refusal, type RefusalCode, refusalBody, refusals as table, toRefusal } from './refusal.ts'
import { createRefusalLog, type RefusalLog } from './refusal-log.ts'
import { addRobotRoute, robotRoute } from './robot.ts'
import { createRobotPath } from './robot-path.ts'
import { addWebhookRoute, type RouteDeps } from './route.ts'
import { createShapeLog, type ShapeLog } from './shape-log.ts'

export interface ServerDeps extends Omit<RouteDeps, 'bodies' | 'shapes' | 'robotPath' | 'onAccepted'> {
  readonly config: Pick<Config, 'webhookPath' | 'robotPath' | 'bodyLimit' | 'trustProxy'>
  readonly log: FastifyBaseLogger
  readonly timeouts?: Partial<typeof defaultTimeoutsMs>
  /** Whether the server will listen on a socket that stays open after it closes. */
  readonly isInherited?: boolean
  /** A caller passes this to read its counts. */
  readonly shapes?: ShapeLog
  readonly refusals?: RefusalLog
  readonly onAccepted?: RouteDeps['onAccepted']
}

/** Milliseconds. Bitrix24 sends a few hundred bytes at once, so a slower client is not Bitrix24. */
const defaultTimeoutsMs = {
  headers: 10_000,
  request: 30_000,
  // Longer than a proxy's own timeout (nginx: 60 s), so that the proxy closes first and no post meets a closing
  // connection.
  keepAlive: 75_000,
  check: 5_000,
  gracefulClose: 4_000,
}

/** Seconds. Requests in progress are usually answered within one second. */
const retryAfterSeconds = 1

/** The public listener: the handler URL, the path for robots and `/healthz`. The caller starts listening. */
export function createServer(deps: ServerDeps): FastifyInstance {
  const { config, log, tokens, timeouts, shapes = createShapeLog(log) } = deps
  const robotPath = createRobotPath(config.robotPath)
  const secrets = () => [...tokens.values(), ...robotPath.values]
  const { refusals = createRefusalLog({ log, secrets }) } = deps
  const { onAccepted = () => undefined, isInherited = false } = deps
  const limits = { ...defaultTimeoutsMs, ...timeouts }
  const app = Fastify({
    logger: false, // its request log halves the rate, and would print URLs
    trustProxy: config.trustProxy.length > 0 ? [...config.trustProxy] : false,
    requestTimeout: limits.request,
    keepAliveTimeout: limits.keepAlive,
    http: { requireHostHeader: false, headersTimeout: limits.headers, connectionsCheckingInterval: limits.check },
    routerOptions: { ignoreTrailingSlash: true },
    // A post that arrives on an open connection during the shutdown is an ordinary event.
    return503OnClosing: false,
    // Such a URL cannot be decoded, so it is not a known path.
    frameworkErrors: (_error, request, reply: FastifyReply) => answer(new Refusal('not_found'), request, reply),
    clientErrorHandler: (error, socket) => {
      if (error.code === 'HPE_INVALID_URL' && parseAgain(app.server, socket, error.rawPacket)) return
      const refusal = new Refusal(error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 'request_timeout' : 'malformed_request', {
        reason: error.code,
      })
      if (error.code === 'ECONNRESET' || !socket.writable) return void socket.destroy()
      refuseSocket(refusal, socket)
    },
  })
  // A body that ends early is reported twice: by its request and by its connection.
  const refused = new WeakSet<Duplex>()

  function refuseSocket(refusal: Refusal, socket: Duplex): void {
    if (!refused.has(socket)) refusals.write(refusal, { remote: remoteOf(socket) })
    refused.add(socket)
    // `end()` alone is not enough: a client that never closes would keep the connection open forever.
    socket.end(rawAnswer(refusal.code), () => socket.destroy())
  }

  // Node would answer these two cases by itself, without a code and without a log line.
  app.server.on('checkExpectation', (request, response) => app.server.emit('request', request, response))
  app.server.on('connect', (_request, socket) =>
    refuseSocket(new Refusal('method_not_allowed', { method: 'CONNECT' }), socket),
  )

  // Without this, Node closes the connection of a client that closes its sending side after the post, before the answer
  // is sent. Node's documentation does not mention the property; a test fails if Node stops reading it.
  Object.assign(app.server, { httpAllowHalfOpen: true })

  app.removeAllContentTypeParsers()
  const bodies = createBodyReader(config)
  app.register(formbody, { bodyLimit: config.bodyLimit, parser: bodies.parse })

  app.addHook('onRequest', (request, _reply, done) => done(refusalOfHead(request)))
  app.setErrorHandler((error: FastifyError, request, reply) => {
    const refusal = toRefusal(error) ?? refusalOf(error)
    if (refusal !== undefined) return answer(refusal, request, reply)
    refusals.count('internal')
    log.error({ err: error }, 'a mistake of ours, answered with 500')
    reply.code(500).send(refusalBody('internal'))
  })

  addGracefulClose(app, limits.gracefulClose, isInherited)
  const route = { ...deps, bodies, robotPath, shapes, onAccepted }
  addWebhookRoute(app, route)
  if (robotPath.isSet) addRobotRoute(app, route)

  /** This check runs before the body is read. */
  function refusalOfHead(request: FastifyRequest): Refusal | undefined {
    if (request.is404 || request.routeOptions.url === robotRoute) {
      const path = pathOf(request)
      const isRobot = robotPath.is(path)
      if (request.is404 || !isRobot) {
        // A client that knows the secret path may learn that it works.
        const isOurs = isRobot || path === config.webhookPath
        return new Refusal(isOurs ? 'method_not_allowed' : 'not_found', { method: request.method })
      }
    }
    if (request.headers[forwardMark] === forwarderId()) return new Refusal('forwarding_loop')
    const encoding = request.headers['content-encoding']
    if (encoding === undefined || encoding.toLowerCase() === 'identity') return undefined
    return new Refusal('unsupported_media_type', { content_encoding: encoding })
  }

  /** If robots have a secret path, any long part of another path may be that secret with a typing mistake. */
  function pathForLog(request: FastifyRequest): string {
    const path = pathOf(request)
    return robotPath.isSet ? path.replace(/[^/]{9,}/g, '…') : path
  }

  function answer(refusal: Refusal, request: FastifyRequest, reply: FastifyReply): void {
    const { code, status } = refusal
    if (code === 'malformed_request' && refused.has(request.raw.socket)) return
    if (code === 'malformed_request') refused.add(request.raw.socket)
    refusals.write(refusal, { remote: request.ip, ...(code === 'not_found' && { path: pathForLog(request) }) })
    // People open the handler URL in a browser to check that it works.
    const message = code === 'method_not_allowed' && 'POST only; the address works'
    // The header tells the forwarder which receiver answered.
    if (code === 'forwarding_loop') reply.header(forwardMark, forwarderId())
    if (code === 'method_not_allowed') reply.header('allow', 'POST')
    // The rest of such a body is not read.
    if (code === 'overloaded' || code === 'body_too_large') reply.header('connection', 'close')
    if (code === 'overloaded') reply.header('retry-after', retryAfterSeconds)
    reply.code(status).send({ ...refusalBody(code), ...(message && { message }) })
  }

  return app
}

/** Maps Fastify's own errors by their codes (https://fastify.dev/docs/latest/Reference/Errors/). */
function refusalOf(error: FastifyError): Refusal | undefined {
  switch (error.code) {
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new Refusal('unsupported_media_type')
    case 'ECONNRESET':
      return new Refusal('malformed_request', { reason: error.code })
    default:
      return undefined
  }
}

/** Returns the requested path without query and trailing slash. */
function pathOf(request: FastifyRequest): string {
  return (request.raw.url ?? '').replace(/\/?(\?.*)?$/s, '')
}

/** X-Forwarded-For is only read for a complete request. Otherwise, behind a proxy, this is the proxy's address. */
function remoteOf(socket: Duplex): string | undefined {
  return 'remoteAddress' in socket && typeof socket.remoteAddress === 'string' ? socket.remoteAddress : undefined
}

/** The answer to bytes that never became a request. */
function rawAnswer(code: RefusalCode): string {
  const body = JSON.stringify(refusalBody(code))
  return [
    `HTTP/1.1 ${table[code].status} ${code}`,
    'Content-Type: application/json; charset=utf-8',
    `Content-Length: ${body.length}`,
    ...(code === 'method_not_allowed' ? ['Allow: POST'] : []),
    'Connection: close',
    '',
    body,
  ].join('\r\n')
}
