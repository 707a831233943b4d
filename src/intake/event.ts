import { randomUUIDv7 } from 'node:crypto'
import { hasDocumentedShape, objectOf } from '../events/catalogue.ts'
import { Refusal } from './refusal.ts'
import type { Form, FormValue } from './form.ts'
import { removeSecrets } from './secrets.ts'

/**
 * What a post becomes: one line of the journal, and what a handler receives. Wire names stay as on the wire; what is
 * `undefined` is not on the line.
 */
export interface Event {
  /** UUIDv7; ours, since Bitrix24 sends no delivery id. */
  readonly id: string
  /** The name of the token it came with, where that has one. */
  readonly webhook?: string | undefined
  /** Upper case, such as `ONCRMDEALUPDATE`. */
  readonly event: string
  /** What it is about, such as `deal:662`; absent when it is about nothing that has an id. */
  readonly object?: string | undefined
  /** Of a robot's post: what its object was read from, as it was sent. Module, class, id. */
  readonly document_id?: readonly string[] | undefined
  /** Where `data` is not as documented for this event: its type in a handler promises too much. */
  readonly shape?: 'unexpected' | undefined
  /** Nobody posted it: a backfill found the record changed, and no event of it. */
  readonly source?: 'backfill' | undefined
  /** The one handler that it is for; every handler that matches where it is absent. Only what a backfill found has one. */
  readonly handler?: string | undefined
  /** The subscription's number in the portal; old on-premise portals send none. */
  readonly event_handler_id?: string | undefined
  /** Unix seconds, as text, when the portal queued the event. */
  readonly ts?: string | undefined
  /** As it was sent, less secrets: every leaf is a text. Absent when it was absent. Of a robot's post the URL's query. */
  readonly data?: FormValue | undefined
  /** As it was sent, less secrets: `domain`, `member_id`, … */
  readonly auth?: Form | undefined
  /** The URL's query, where it had one, less secrets. */
  readonly query?: Form | undefined
  /** Fields of the post that have no place of their own, as they were sent, less secrets; absent where there are none. */
  readonly extra?: Form | undefined
  /** The sender's address, seen through the trusted proxies; of a backfill the portal that was asked. */
  readonly remote: string
}

export interface Origin {
  readonly webhook: string | undefined
  readonly query: Form | undefined
  readonly remote: string
  /** Values that must not reach the journal wherever they stand: the tokens we hold. */
  readonly secrets: readonly string[]
}

/**
 * Makes the event of a form whose token was verified, and takes the form for it: secrets are removed in place.
 *
 * @throws {Refusal} `malformed_event` naming the field that is missing or of the wrong shape
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

/** Each has a place of its own in an event; `auth` only where it is one. */
const placed: ReadonlySet<string> = new Set(['event', 'event_handler_id', 'ts', 'data'])

/** The fields that have no place; `undefined` where there are none. */
export function extraOf(form: Form, hasPlace: (key: string) => boolean): Form | undefined {
  let extra: Form | undefined
  for (const key in form) {
    const value = form[key]
    if (value === undefined || hasPlace(key)) continue
    // Without a prototype, as all that comes from the wire: a key may be `__proto__`.
    extra ??= Object.create(null) as Form
    extra[key] = value
  }
  return extra
}

export function isForm(value: FormValue | undefined): value is Form {
  return typeof value === 'object' && !Array.isArray(value)
}

/** For log lines: what came from the wire may be as long as a body. */
export function shorten(text: string): string {
  return text.length > 80 ? `${text.slice(0, 80)}…` : text
}
