import { entryOf } from '../events/catalogue.ts'
import { fieldsOf, isOneOf, type Shape } from '../events/shape.ts'
import type { EventName } from '../events/typed.ts'
import { httpBuildQuery, type PhpArray, type PhpValue } from '../lib/php-query.ts'

/** The portal that owns the webhook. It becomes `auth`. */
export interface Portal {
  /** Such as `example.bitrix24.com`. */
  readonly domain: string
  readonly memberId: string
  /** The application token of the outgoing webhook. */
  readonly token: string
  /** The portal's REST address, and that of the authorization server, if they are not the usual ones. */
  readonly clientEndpoint?: string
  readonly serverEndpoint?: string
}

export interface WebhookEvent {
  readonly event: EventName | (string & {})
  /** In the order in which it is sent. The default is the catalogue's data about the object of this `id`. */
  readonly data?: PhpValue
  readonly id?: string | number
  /** Fields that override the catalogue's in that `data`. */
  readonly fields?: PhpArray
  /** The subscription's number. `null`: the field is missing, as from old on-premise portals. */
  readonly handlerId?: number | null
  /** When the portal queued the event, in Unix seconds. */
  readonly ts: number
  readonly portal: Portal
}

/**
 * Returns the body of an outgoing webhook's post, byte for byte. `auth` is last, and has the five keys that a webhook gets
 * (https://apidocs.bitrix24.com/api-reference/events/index.html).
 */
export function webhookBody(webhookEvent: WebhookEvent): string {
  const { event, data, id = 1, fields = {}, handlerId = 312, ts, portal } = webhookEvent
  return httpBuildQuery({
    event,
    event_handler_id: handlerId,
    data: data === undefined ? setFields(documentedData(event, String(id)), fields) : data,
    ts,
    auth: { ...addressOf(portal), application_token: portal.token },
  })
}

/** Returns the keys of `auth` about the portal itself. */
export function addressOf({
  domain,
  memberId,
  clientEndpoint = `https://${domain}/rest/`,
  serverEndpoint = 'https://oauth.bitrix.info/rest/',
}: Omit<Portal, 'token'>) {
  return { domain, client_endpoint: clientEndpoint, server_endpoint: serverEndpoint, member_id: memberId }
}

/** Returns `data` of the documented shape, with every key in the catalogue. A text that is not an id is `1`. */
function documentedData(event: string, id: string): PhpValue {
  const name = event.toUpperCase()
  const entry = entryOf(name)
  if (entry === undefined) return null
  const values = new Map<string, string>()
  for (const parts of entry.object?.ids ?? []) {
    const last = parts.at(-1)
    if (last !== undefined) values.set(last.join('.'), id)
  }
  const type = /_(\d+)$/.exec(name)?.[1]
  if (type !== undefined) values.set('FIELDS.ENTITY_TYPE_ID', type)
  return fill(entry.shape, [], values)
}

function fill(shape: Shape, path: readonly string[], values: ReadonlyMap<string, string>): PhpValue {
  if (shape === 'nothing') return null
  if (typeof shape === 'string') return values.get(path.join('.')) ?? '1'
  // Both sides of a task are filled, as in an update.
  if (isOneOf(shape)) return fill(shape.at(-1) ?? 'nothing', path, values)
  const { '[]': item, '*': other, ...named } = shape
  if (item !== undefined) return [fill(item, [...path, '0'], values)]
  const fields = fieldsOf(named).map(({ key, shape }): [string, PhpValue] => [key, fill(shape, [...path, key], values)])
  // The keys are ids, as with bots and commands.
  if (fields.length === 0 && other !== undefined) return { '567': fill(other, [...path, '567'], values) }
  return Object.fromEntries(fields)
}

/** @throws {TypeError} if the data has no such field */
function setFields(data: PhpValue, fields: PhpArray, path: readonly string[] = ['data']): PhpValue {
  if (Object.keys(fields).length === 0) return data
  // The catalogue has no data for an undocumented event.
  if (data === null) return fields
  if (!isArray(data)) throw new TypeError(`${path.join('.')} is a text or a list in this event, and has no fields`)
  const set = Object.entries(fields).map(([key, value]): [string, PhpValue] => [
    key,
    isArray(value) ? setFields(data[key] ?? null, value, [...path, key]) : value,
  ])
  return { ...data, ...Object.fromEntries(set) }
}

function isArray(value: PhpValue): value is PhpArray {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
