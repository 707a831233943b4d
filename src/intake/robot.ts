import { randomUUIDv7 } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import type { Event } from '../events/event.ts'
import { type Form, type FormValue, isForm } from '../events/form.ts'
import { objectOfDocument, robotEvent } from '../events/robot.ts'
import type { Body } from './body.ts'
import { extraOf, type Origin } from './event.ts'
import { decodeForm } from './form.ts'
import { Refusal } from './refusal.ts'
import { onlyFrom, type PostRoute, type RouteDeps, takePost } from './route.ts'
import { removeSecrets } from './secrets.ts'

/**
 * The secret path must not be in a router, which would compare it character by character. So this route takes every
 * post, and server.ts refuses the others.
 */
export const robotRoute = '/*'

/**
 * Adds the route for the robot "Outgoing webhook", which is also an action of workflows. It posts `document_id` and
 * an `auth` without a token. Its parameters are in the URL (bizproc's CBPWebHookActivity in the portal's source).
 * Robots and actions of an application (bizproc.robot.add, bizproc.activity.add) post more fields, such as
 * `properties` and `event_token`, which become `extra`.
 */
export function addRobotRoute(app: FastifyInstance, deps: RouteDeps): void {
  const hooks = { onRequest: onlyFrom(deps), preParsing: deps.bodies.gather() }
  // Fastify makes no body for a post without one. Such a post is a form without a document.
  const decode = (body: Body | undefined) => body?.decode() ?? decodeForm('')
  app.post<PostRoute>(robotRoute, hooks, (request) => takePost(request, deps, decode, toRobotEvent))
}

/** @throws {Refusal} `malformed_event` if there is no document */
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
