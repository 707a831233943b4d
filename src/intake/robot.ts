import { createHash, randomUUIDv7, timingSafeEqual } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import { objectOfDocument, robotEvent } from '../events/robot.ts'
import { Refusal } from './refusal.ts'
import type { Body } from './body.ts'
import { type Event, extraOf, isForm, type Origin } from './event.ts'
import { decodeForm, type Form, type FormValue } from './form.ts'
import { accept, onlyFrom, type RouteParts, readQuery } from './route.ts'
import { removeSecrets } from './secrets.ts'

/** Where posts of robots are taken, if anywhere. The path is the secret that a robot's post has instead of a token. */
export interface RobotPath {
  readonly isSet: boolean
  /** Compares as tokens are compared, in constant time. `path` is without query and trailing slash. */
  readonly is: (path: string) => boolean
  /** What must not reach the journal. */
  readonly values: readonly string[]
}

export function createRobotPath(path: string | undefined): RobotPath {
  if (path === undefined) return { isSet: false, is: () => false, values: [] }
  const hash = (text: string) => createHash('sha256').update(text).digest()
  const ours = hash(path)
  return {
    isSet: true,
    is: (other) => timingSafeEqual(hash(other), ours),
    values: [path, path.slice(path.lastIndexOf('/') + 1)],
  }
}

/** Its path stands in no router: that would compare it sign by sign. So it takes every post, and server.ts turns the others away. */
export const robotRoute = '/*'

/**
 * The post of the robot "Outgoing webhook", also an action of workflows: `document_id` and an `auth` without a
 * token. Its parameters are in the URL (bizproc's CBPWebHookActivity in the portal's source). Robots and actions of an
 * application (bizproc.robot.add, bizproc.activity.add) post more: `properties`, `event_token` and the like, which become
 * `extra`.
 */
export function addRobotRoute(app: FastifyInstance, parts: RouteParts): void {
  const { bodies, tokens, robotPath } = parts
  const hooks = { onRequest: onlyFrom(parts), preParsing: bodies.gather() }
  app.post<{ Body: Body | undefined }>(robotRoute, hooks, async (request) => {
    const { body } = request
    bodies.arrived(request.raw)
    const release = body?.hold()
    try {
      // Of a post without a body Fastify makes none; that is a form without a document.
      const form = body?.decode() ?? decodeForm('')
      const started = performance.now()
      const event = toRobotEvent(form, {
        query: readQuery(request.raw.url),
        remote: request.ip,
        secrets: [...tokens.values(), ...robotPath.values],
      })
      return await accept(event, started, parts)
    } finally {
      release?.()
    }
  })
}

/** @throws {Refusal} `malformed_event` when there is no document */
export function toRobotEvent(form: Form, { query, remote, secrets }: Omit<Origin, 'webhook'>): Event {
  removeSecrets(form, query, secrets)
  const { document_id, ts, auth } = form
  if (!isDocument(document_id)) throw new Refusal('malformed_event', { field: 'document_id' })
  const hasPlace = (key: string) =>
    key === 'document_id' || (key === 'ts' && typeof ts === 'string') || (key === 'auth' && isForm(auth))
  return {
    id: randomUUIDv7(),
    event: robotEvent,
    object: objectOfDocument(document_id),
    document_id,
    ts: typeof ts === 'string' ? ts : undefined,
    data: query,
    auth: isForm(auth) ? auth : undefined,
    extra: extraOf(form, hasPlace),
    remote,
  }
}

function isDocument(value: FormValue | undefined): value is string[] {
  return Array.isArray(value) && value.every((part) => typeof part === 'string')
}
