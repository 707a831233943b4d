import type { FastifyBaseLogger, FastifyInstance, FastifyRequest } from 'fastify'
import type { Config } from '../config/config.ts'
import type { Event } from '../events/event.ts'
import type { Form } from '../events/form.ts'
import type { Journal } from '../journal/journal.ts'
import { shorten } from '../lib/shorten.ts'
import type { AllowedAddresses } from './allowed-addresses.ts'
import type { Body, BodyReader } from './body.ts'
import { largeBytes } from './body-memory.ts'
import { readClaim } from './claim.ts'
import { type Origin, toEvent } from './event.ts'
import { decodeForm } from './form.ts'
import { Refusal } from './refusal.ts'
import type { RobotPath } from './robot-path.ts'
import type { ShapeLog } from './shape-log.ts'
import type { Tokens } from './token.ts'

export interface RouteDeps {
  readonly config: Pick<Config, 'webhookPath'>
  /** The addresses that may post. If it is absent, any address may. */
  readonly allowed?: AllowedAddresses | undefined
  readonly bodies: BodyReader
  readonly tokens: Tokens
  readonly robotPath: RobotPath
  readonly journal: Pick<Journal, 'append'>
  readonly log: FastifyBaseLogger
  readonly shapes: ShapeLog
  /** @param ms from the decoded post to its answer */
  readonly onAccepted: (event: Event, ms: number) => void
}

const accepted = { status: 'ok', message: 'event accepted' } as const

/** The complete handling of a post. server.ts turns every thrown error into the answer. */
export function addWebhookRoute(app: FastifyInstance, deps: RouteDeps): void {
  const { config, bodies, tokens } = deps
  // The token is checked first, because decoding costs more than posting: a client without a token must not cause that
  // work.
  const hooks = {
    onRequest: onlyFrom(deps),
    preParsing: bodies.gather((bytes) => tokens.check(readClaim(bytes.toString()))),
  }
  const decode = (body: Body | undefined) => {
    // Without a content type Fastify parses nothing.
    if (body === undefined) throw new Refusal('unsupported_media_type')
    // The token of a large body was checked when it arrived.
    if (body.text.length < largeBytes) tokens.check(readClaim(body.text))
    return body.decode()
  }
  const read = (form: Form, origin: Origin) => toEvent(form, { ...origin, webhook: tokens.verify(form).name })
  app.post<PostRoute>(config.webhookPath, hooks, (request) => takePost(request, deps, decode, read))
}

export interface PostRoute {
  Body: Body | undefined
}

/** The event is on disk before the answer is sent. */
export async function takePost(
  request: FastifyRequest<PostRoute>,
  { bodies, tokens, robotPath, journal, log, shapes, onAccepted }: RouteDeps,
  decode: (body: Body | undefined) => Form,
  read: (form: Form, origin: Origin) => Event,
): Promise<typeof accepted> {
  // Not `using`: V8 does not optimise a function that contains it, and every post runs this one.
  bodies.arrived(request.raw)
  const release = request.body?.hold()
  try {
    const form = decode(request.body)
    const started = performance.now()
    const secrets = [...tokens.values(), ...robotPath.values]
    const event = read(form, { query: readQuery(request.raw.url), remote: request.ip, secrets })
    await journal.append(event)
    if (event.shape !== undefined) shapes.count(event.event)
    log.info({ id: event.id, event: shorten(event.event), object: event.object, webhook: event.webhook }, 'accepted')
    onAccepted(event, performance.now() - started)
    return accepted
  } finally {
    release?.()
  }
}

/** This check runs before the body is read. */
export function onlyFrom({ allowed }: Pick<RouteDeps, 'allowed'>) {
  return (request: FastifyRequest, _reply: unknown, done: (refusal?: Refusal) => void) =>
    done(allowed === undefined || allowed.has(request.ip) ? undefined : notAllowed(request))
}

/** If `TRUST_PROXY` lacks a proxy, every sender has the wrong address, and every event is lost. */
function notAllowed(request: FastifyRequest): Refusal {
  const isForwarded = request.headers['x-forwarded-for'] !== undefined && (request.ips?.length ?? 1) === 1
  return new Refusal('source_not_allowed', {
    ...(isForwarded && {
      hint: 'if this address is your proxy, set TRUST_PROXY: its X-Forwarded-For was not believed',
    }),
  })
}

/** A bot's URL has `?CLIENT_ID=…`, and an integrator may add anything, so the query has the same limits as the body. */
export function readQuery(url = ''): Form | undefined {
  const start = url.indexOf('?')
  return start === -1 || start === url.length - 1 ? undefined : decodeForm(url.slice(start + 1))
}
