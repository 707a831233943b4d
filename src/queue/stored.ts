import { isUtf8 } from 'node:buffer'
import { isObject } from '../lib/is-object.ts'
import { timeOfId } from '../journal/event-id.ts'
import type { JournalledEvent } from '../journal/follow.ts'
import type { ObjectSelection } from './deliveries.ts'
import { laneOf } from '../events/ordering-key.ts'
import type { SeenFields } from './queue.ts'

/** What a delivery's own columns say of its event. */
export interface StoredAbout {
  /** The event's. */
  readonly id: string
  /** The event's. */
  readonly name: string
  /** `null` where its handler wants no order. */
  readonly lane: string | null
}

/** An event as it was kept, or why it cannot be read. */
export type Stored = { readonly event: JournalledEvent } | { readonly unreadable: string }

/**
 * Reads the event of a delivery. It counts only if it is what the delivery's other columns say: a damaged byte may leave
 * valid JSON.
 *
 * @param bytes the stored bytes; asked for only if the text may have lost some of them
 */
export function readStoredEvent(text: unknown, about: StoredAbout, bytes?: () => Uint8Array | undefined): Stored {
  if (typeof text !== 'string') return { unreadable: 'no text is kept' }
  // Decoding replaces what is not UTF-8 by U+FFFD, which an event may also hold itself.
  if (text.includes('\ufffd')) {
    const kept = bytes?.()
    if (kept && !isUtf8(kept)) return { unreadable: 'it is not UTF-8' }
  }
  const value = parse(text)
  if (value === undefined) return { unreadable: 'it is not JSON' }
  if (!isEvent(value)) return { unreadable: 'it is JSON, but not an event' }
  return fits(value, about) ? { event: value } : { unreadable: `it is not the event ${about.id} of its delivery` }
}

/** The event, whichever it is; `undefined` where the text is none. */
export function eventIn(text: unknown): JournalledEvent | undefined {
  const value = typeof text === 'string' ? parse(text) : undefined
  return isEvent(value) ? value : undefined
}

/** Whether this is the event of that delivery. */
export function fits(event: JournalledEvent, { id, name, lane }: StoredAbout): boolean {
  return event.id === id && event.event === name && (lane === null || laneOf(event) === lane)
}

/** In the place of an event that cannot be read: what the delivery's own columns say, and no more. */
export function standInFor({ id, name, lane }: StoredAbout, time: number): JournalledEvent {
  const [portal, object] = readLane(lane)
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

/** The portal and the object of a lane, see lane.ts. */
export function readLane(lane: unknown): readonly [portal: string | undefined, object: string | undefined] {
  const parts = typeof lane === 'string' ? parse(lane) : undefined
  if (!Array.isArray(parts)) return [undefined, undefined]
  const text = (value: unknown) => (typeof value === 'string' ? value : undefined)
  return [text(parts[0]), text(parts[1])]
}

/** `undefined` where it cannot be read, or nothing is kept. */
export function readNames(text: unknown): readonly string[] | undefined {
  const names = typeof text === 'string' ? parse(text) : undefined
  return Array.isArray(names) && names.every((name) => typeof name === 'string') ? names : undefined
}

/** What `onChange` kept of an object; `undefined` where it cannot be read. The values are JSON, or a hash with its name. */
export function readSeenFields(text: unknown): SeenFields | undefined {
  const fields = typeof text === 'string' ? parse(text) : undefined
  if (!isObject(fields) || Array.isArray(fields)) return undefined
  const isKept = (value: unknown): value is string =>
    typeof value === 'string' && (/^sha256:[\w+/=]+$/.test(value) || parse(value) !== undefined)
  const entries = Object.entries(fields).filter((entry): entry is [string, string] => isKept(entry[1]))
  return entries.length === Object.keys(fields).length ? Object.fromEntries(entries) : undefined
}

/** Texts that the columns of a delivery about this object hold, one of them at least, unless only its event's id tells. */
export function needlesOf(object: string): { readonly inLane: string; readonly inEvent: string } {
  return { inLane: `,${JSON.stringify(object)}]`, inEvent: JSON.stringify({ object }).slice(1, -1) }
}

/** Whether a row of deliveries is about this object. */
export function isAbout(row: Readonly<Record<string, unknown>>, about: ObjectSelection): boolean {
  const { event_id: id, lane, event } = row
  if (timeOfId(String(id)) > about.before) return false
  if (about.events.includes(String(id))) return true
  if (typeof lane === 'string') return isLaneOf(lane, about)
  const kept = eventIn(event)
  if (kept === undefined) return typeof event === 'string' && event.includes(needlesOf(about.object).inEvent)
  const { member_id: memberId, domain } = kept.auth ?? {}
  return kept.object === about.object && [undefined, memberId, domain].includes(about.member)
}

export function isLaneOf(lane: unknown, { object, member }: Pick<ObjectSelection, 'object' | 'member'>): boolean {
  const [portal, one] = readLane(lane)
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
