import { isUtf8 } from 'node:buffer'
import type { JournalledEvent } from '../events/event.ts'
import { orderingKeyOf } from '../events/ordering-key.ts'
import { timeOfId } from '../journal/event-id.ts'
import { isObject } from '../lib/is-object.ts'
import type { ObjectSelection } from './deliveries.ts'
import type { SnapshotFields } from './queue.ts'

/** The data about an event in the delivery's own columns. */
export interface StoredAbout {
  /** The event's id. */
  readonly id: string
  /** The event's name. */
  readonly name: string
  /** `null` if its handler wants no order. */
  readonly orderingKey: string | null
}

/** A stored event, or the reason why it cannot be read. */
export type Stored = { readonly event: JournalledEvent } | { readonly unreadable: string }

/**
 * Reads the event of a delivery. The event counts only if it matches the delivery's other columns, because a damaged
 * byte may leave valid JSON.
 *
 * @param bytes the stored bytes; asked for only if the text may have lost some of them
 */
export function readStoredEvent(text: unknown, about: StoredAbout, bytes?: () => unknown): Stored {
  if (typeof text !== 'string') return { unreadable: 'no text is kept' }
  // Decoding replaces bytes that are not UTF-8 by U+FFFD, which a valid event may contain too.
  if (text.includes('\ufffd')) {
    const kept = bytes?.()
    if (kept instanceof Uint8Array && !isUtf8(kept)) return { unreadable: 'it is not UTF-8' }
  }
  const value = parse(text)
  if (value === undefined) return { unreadable: 'it is not JSON' }
  if (!isEvent(value)) return { unreadable: 'it is JSON, but not an event' }
  return fits(value, about) ? { event: value } : { unreadable: `it is not the event ${about.id} of its delivery` }
}

/** Returns any event; `undefined` if the text is not an event. */
export function eventIn(text: unknown): JournalledEvent | undefined {
  const value = typeof text === 'string' ? parse(text) : undefined
  return isEvent(value) ? value : undefined
}

/** Whether this is the event of that delivery. */
export function fits(event: JournalledEvent, { id, name, orderingKey }: StoredAbout): boolean {
  const isName = event.event === name || textOf(event.event) === name
  return event.id === id && isName && (orderingKey === null || orderingKeyOf(event) === orderingKey)
}

/** A text in Postgres can contain neither a NUL nor half of a surrogate pair. */
export function textOf(text: string): string {
  return text.toWellFormed().replaceAll('\0', '\uFFFD')
}

/** A substitute for an unreadable event, with only the data from the delivery's other columns. */
export function standInFor({ id, name, orderingKey }: StoredAbout, time: number): JournalledEvent {
  const [portal, object] = readOrderingKey(orderingKey)
  return {
    level: 30,
    time: new Date(time).toISOString(),
    id,
    event: name,
    ...(object !== undefined && { object }),
    ...(portal !== undefined && { auth: { member_id: portal } }),
    remote: '',
    msg: name,
  }
}

/** The portal and the object of an ordering key, see events/ordering-key.ts. */
export function readOrderingKey(
  orderingKey: unknown,
): readonly [portal: string | undefined, object: string | undefined] {
  const parts = typeof orderingKey === 'string' ? parse(orderingKey) : undefined
  if (!Array.isArray(parts)) return [undefined, undefined]
  const text = (value: unknown) => (typeof value === 'string' ? value : undefined)
  return [text(parts[0]), text(parts[1])]
}

/** Returns `undefined` if the text is missing or unreadable. */
export function readNames(text: unknown): readonly string[] | undefined {
  const names = typeof text === 'string' ? parse(text) : undefined
  return Array.isArray(names) && names.every((name) => typeof name === 'string') ? names : undefined
}

/**
 * Reads the fields of a snapshot; `undefined` if they cannot be read. A value is JSON, or a hash with the name of its
 * algorithm.
 */
export function readSnapshotFields(text: unknown): SnapshotFields | undefined {
  const fields = typeof text === 'string' ? parse(text) : undefined
  if (!isObject(fields) || Array.isArray(fields)) return undefined
  const isKept = (value: unknown): value is string =>
    typeof value === 'string' && (/^sha256:[\w+/=]+$/.test(value) || parse(value) !== undefined)
  const entries = Object.entries(fields).filter((entry): entry is [string, string] => isKept(entry[1]))
  return entries.length === Object.keys(fields).length ? Object.fromEntries(entries) : undefined
}

/**
 * Texts to search for in a delivery's columns. A delivery about this object has at least one of them, unless only its
 * event's id shows the object.
 */
export function needlesOf(object: string): { readonly inOrderingKey: string; readonly inEvent: string } {
  return { inOrderingKey: `,${JSON.stringify(object)}]`, inEvent: JSON.stringify({ object }).slice(1, -1) }
}

/** Whether a row of deliveries is about this object. */
export function isAbout(row: Readonly<Record<string, unknown>>, about: ObjectSelection): boolean {
  const { event_id: id, ordering_key: orderingKey, event } = row
  if (timeOfId(String(id)) > about.before) return false
  if (about.events.includes(String(id))) return true
  if (typeof orderingKey === 'string') return isOrderingKeyOf(orderingKey, about)
  const kept = eventIn(event)
  if (kept === undefined) return typeof event === 'string' && event.includes(needlesOf(about.object).inEvent)
  const { member_id: memberId, domain } = kept.auth ?? {}
  return kept.object === about.object && [undefined, memberId, domain].includes(about.member)
}

export function isOrderingKeyOf(
  orderingKey: unknown,
  { object, member }: Pick<ObjectSelection, 'object' | 'member'>,
): boolean {
  const [portal, one] = readOrderingKey(orderingKey)
  return one === object && (member === undefined || portal === member)
}

function isEvent(value: unknown): value is JournalledEvent {
  if (!isObject(value)) return false
  return ['id', 'event', 'time'].every((name) => typeof value[name] === 'string')
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
