import { randomUUIDv7 } from 'node:crypto'
import { hasDocumentedShape, objectOf } from '../events/catalogue.ts'
import type { Event } from '../events/event.ts'
import { type Form, isForm } from '../events/form.ts'
import { Refusal } from './refusal.ts'
import { removeSecrets } from './secrets.ts'

export interface Origin {
  readonly webhook?: string | undefined
  readonly query: Form | undefined
  readonly remote: string
  /** Values that must not reach the journal in any place: the tokens that the receiver holds. */
  readonly secrets: readonly string[]
}

/**
 * Makes an event from a form whose token was verified. Secrets are removed from the form in place, so the caller must
 * not use it again.
 *
 * @throws {Refusal} `malformed_event`, naming the field that is missing or has the wrong shape
 */
export function toEvent(form: Form, { webhook, query, remote, secrets }: Origin): Event {
  removeSecrets(form, query, secrets)
  const { event, event_handler_id, ts, data, auth } = form
  if (typeof event !== 'string' || event === '') throw new Refusal('malformed_event', { field: 'event' })
  if (event_handler_id !== undefined && typeof event_handler_id !== 'string')
    throw new Refusal('malformed_event', { field: 'event_handler_id' })
  if (ts !== undefined && typeof ts !== 'string') throw new Refusal('malformed_event', { field: 'ts' })
  const name = event.toUpperCase()
  return {
    id: randomUUIDv7(),
    webhook,
    event: name,
    object: objectOf(name, data),
    shape: hasDocumentedShape(name, data) ? undefined : 'unexpected',
    event_handler_id,
    ts,
    data,
    auth: isForm(auth) ? auth : undefined,
    query,
    extra: extraOf(form, (key) => placed.has(key) || (key === 'auth' && isForm(auth))),
    remote,
  }
}

/** Fields with their own place in an event. `auth` is also placed, but only if it is an object. */
const placed: ReadonlySet<string> = new Set(['event', 'event_handler_id', 'ts', 'data'])

/** Returns the fields without a place of their own; `undefined` if there are none. */
export function extraOf(form: Form, hasPlace: (key: string) => boolean): Form | undefined {
  let extra: Form | undefined
  for (const key in form) {
    const value = form[key]
    if (value === undefined || hasPlace(key)) continue
    // No prototype, as for all data from the wire: a key may be `__proto__`.
    extra ??= Object.create(null) as Form
    extra[key] = value
  }
  return extra
}
