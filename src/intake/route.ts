import type { FastifyBaseLogger, FastifyInstance, FastifyRequest } from 'fastify'
import type { Config } from '../config/config.ts'
import type { Journal } from '../journal/journal.ts'
import { Refusal } from './refusal.ts'
import type { AllowedAddresses } from './allowed-addresses.ts'
import type { Body, BodyReader } from './body.ts'
import { large } from './body-memory.ts'
import { readClaim } from './claim.ts'
import { type Event, shorten, toEvent } from './event.ts'
import { decodeForm, type Form } from './form.ts'
import type { RobotPath } from './robot.ts'
import type { ShapeLog } from './shape-log.ts'
import type { Tokens } from './token.ts'

export interface RouteParts {
  readonly config: Pick<Config, 'webhookPath'>
  /** Whose posts are taken; anybody's where it is absent. */
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

/** The whole story of a post. Whatever is thrown on the way becomes the answer in server.ts. */
export function addWebhookRoute(app: FastifyInstance, parts: RouteParts): void {
  const { config, bodies, tokens, robotPath } = parts
  // The token first, because decoding costs more than posting: whoever holds none must not make us do it.
  const hooks = {
    onRequest: onlyFrom(parts),
    preParsing: bodies.gather((bytes) => tokens.check(readClaim(bytes.toString()))),
  }
  app.post<{ Body: Body | undefined }>(config.webhookPath, hooks, async (request) => {
    const { body } = request
    // Without a content type Fastify parses nothing.
    if (body === undefined) throw new Refusal('unsupported_media_type')
    // Not `using`: V8 does not optimise a function that has it, and this one is the way of every post.
    bodies.arrived(request.raw)
    const release = body.hold()
    try {
      // A large one was looked at when it had come.
      if (body.text.length < large) tokens.check(readClaim(body.text))
      const form = body.decode()
      const started = performance.now()
      const token = tokens.verify(form)
      const event = toEvent(form, {
        webhook: token.name,
        query: readQuery(request.raw.url),
        remote: request.ip,
        secrets: [...tokens.values(), ...robotPath.values],
      })
      return await accept(event, started, parts)
    } finally {
      release()
    }
  })
}

/** On disk first, then the answer. `started`: by performance.now(), when it was decoded. */
export async function accept(event: Event, started: number, parts: RouteParts): Promise<typeof accepted> {
  const { journal, log, shapes, onAccepted } = parts
  await journal.append(event)
  if (event.shape !== undefined) shapes.count(event.event)
  log.info({ id: event.id, event: shorten(event.event), object: event.object, webhook: event.webhook }, 'accepted')
  onAccepted(event, performance.now() - started)
  return accepted
}

/** Before the body is read. */
export function onlyFrom({ allowed }: Pick<RouteParts, 'allowed'>) {
  return (request: FastifyRequest, _reply: unknown, done: (refusal?: Refusal) => void) =>
    done(allowed === undefined || allowed.has(request.ip) ? undefined : notAllowed(request))
}

/** A proxy that `TRUST_PROXY` forgets makes everybody a stranger, and then every event is lost. */
function notAllowed(request: FastifyRequest): Refusal {
  const isForwarded = request.headers['x-forwarded-for'] !== undefined && (request.ips?.length ?? 1) === 1
  return new Refusal('source_not_allowed', {
    ...(isForwarded && {
      hint: 'if this address is your proxy, set TRUST_PROXY: its X-Forwarded-For was not believed',
    }),
  })
}

/** A bot's URL carries `?CLIENT_ID=…`, and an integrator may add what he likes: it is limited like the body. */
export function readQuery(url = ''): Form | undefined {
  const start = url.indexOf('?')
  return start === -1 || start === url.length - 1 ? undefined : decodeForm(url.slice(start + 1))
}
