import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import type { Config } from '../config.ts'
import type { Journal } from '../journal/journal.ts'
import { Refusal } from '../refusal.ts'
import { type Event, shorten, toEvent } from './event.ts'
import { decodeForm, type Form } from './form.ts'
import type { ShapeLog } from './shape-log.ts'
import type { Tokens } from './token.ts'

export interface RouteParts {
  readonly config: Pick<Config, 'webhookPath'>
  readonly tokens: Tokens
  readonly journal: Pick<Journal, 'append'>
  readonly log: FastifyBaseLogger
  readonly shapes: ShapeLog
  /** @param ms from the decoded post to its answer */
  readonly onAccepted: (event: Event, ms: number) => void
}

const accepted = { status: 'ok', message: 'event accepted' } as const

/** The whole story of a post. Whatever is thrown on the way becomes the answer in server.ts. */
export function addWebhookRoute(app: FastifyInstance, parts: RouteParts): void {
  const { config, tokens, journal, log, shapes, onAccepted } = parts
  app.post<{ Body: Form | undefined }>(config.webhookPath, async (request) => {
    const started = performance.now()
    // Without a content type Fastify parses nothing.
    if (request.body === undefined) throw new Refusal('unsupported_media_type')
    const token = tokens.verify(request.body)
    const event = toEvent(request.body, {
      webhook: token.name,
      query: readQuery(request.raw.url),
      remote: request.ip,
      secrets: tokens.values(),
    })
    await journal.append(event)
    if (event.shape !== undefined) shapes.count(event.event)
    log.info({ id: event.id, event: shorten(event.event), object: event.object, webhook: event.webhook }, 'accepted')
    onAccepted(event, performance.now() - started)
    return accepted
  })
}

/** A bot's URL carries `?CLIENT_ID=…`, and an integrator may add what he likes: it is limited like the body. */
function readQuery(url = ''): Form | undefined {
  const start = url.indexOf('?')
  return start === -1 || start === url.length - 1 ? undefined : decodeForm(url.slice(start + 1))
}
