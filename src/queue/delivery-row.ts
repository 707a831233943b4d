import type { JournalledEvent } from '../events/event.ts'
import type { Position } from '../journal/position.ts'
import { type DeadSelection, type DeliveryRecord, type FailureRecord, RunNotEnded } from './deliveries.ts'
import type { Delivery, HandlerRecord, NewDelivery, QueueState, Snapshot } from './queue.ts'
import {
  readNames,
  readOrderingKey,
  readSnapshotFields,
  readStoredEvent,
  type Stored,
  type StoredAbout,
  standInFor,
} from './stored.ts'

/** A row of either engine. Postgres returns `bigint` as text; SQLite has numbers instead of booleans. */
export type Row = Readonly<Record<string, unknown>>

export function isTrue(value: unknown): boolean {
  return value === true || value === 1
}

function numberOf(value: unknown): number | undefined {
  return value === null || value === undefined ? undefined : Number(value)
}

function textOrNull(value: unknown): string | null {
  return typeof value === 'string' ? value : null
}

function aboutOf(row: Row): StoredAbout {
  return { id: String(row['event_id']), name: String(row['name']), orderingKey: textOrNull(row['ordering_key']) }
}

/** Reads the event of a row. Returns `undefined` if no event is stored, as for a finished delivery. */
export function storedOf(row: Row, bytes = () => row['bytes']): Stored | undefined {
  const { event = null } = row
  return event === null ? undefined : readStoredEvent(event, aboutOf(row), bytes)
}

function eventOf(row: Row): JournalledEvent | undefined {
  const stored = storedOf(row)
  return stored && 'event' in stored ? stored.event : undefined
}

/** Of the rows of one event, the first event that can be read. */
export function keptEventOf(rows: readonly Row[]): JournalledEvent | undefined {
  return rows.flatMap((row) => eventOf(row) ?? [])[0]
}

/** Of the rows of one event, the bytes of the unreadable one, or else of the first. */
export function keptBytesOf(rows: readonly Row[]): Uint8Array | undefined {
  const { bytes } = rows.find((row) => eventOf(row) === undefined) ?? rows[0] ?? {}
  return bytes instanceof Uint8Array ? bytes : undefined
}

/** The delivery of a row that was claimed, and what is known of its event. */
export function toDelivery(row: Row, stored: Stored | undefined): Delivery {
  return {
    key: Number(row['key']),
    handler: String(row['handler']),
    attempt: Number(row['attempts']),
    coalesced: Number(row['coalesced']),
    spentMs: Number(row['spent_ms'] ?? 0),
    ...(stored && 'event' in stored
      ? stored
      : {
          unreadable: stored?.unreadable ?? 'no text is kept',
          event: standInFor(aboutOf(row), Number(row['created_at'])),
        }),
  }
}

/** A delivery of the same event to the same handler; `undefined` if the event cannot be read. */
export function toRedelivery(row: Row): NewDelivery | undefined {
  const event = eventOf(row)
  if (event === undefined) return undefined
  const order = row['ordering_key'] === null ? 'none' : 'object'
  return { handler: String(row['handler']), event, segment: Number(row['segment']), order, debounce: 0 }
}

export function toRecord(row: Row): DeliveryRecord {
  const stored = storedOf(row)
  return {
    key: Number(row['key']),
    handler: String(row['handler']),
    event: String(row['event_id']),
    name: String(row['name']),
    object: stored && 'event' in stored ? stored.event.object : readOrderingKey(row['ordering_key'])[1],
    run: Number(row['run']),
    state: row['state'] as DeliveryRecord['state'],
    postponed: isTrue(row['postponed']),
    attempts: Number(row['attempts']),
    createdAt: Number(row['created_at']),
    firstRunAt: numberOf(row['first_run_at']),
    due: numberOf(row['due']),
    endedAt: numberOf(row['ended_at']),
    error: textOrNull(row['error']) ?? undefined,
    coalescedInto: numberOf(row['coalesced_into']),
    unreadable: stored && 'unreadable' in stored ? stored.unreadable : undefined,
  }
}

export function isSelected({ handler, events, object }: DeadSelection): (one: DeliveryRecord) => boolean {
  return (one) =>
    (handler === undefined || one.handler === handler) &&
    (events === undefined || events.includes(one.event)) &&
    (object === undefined || one.object === object)
}

export function toFailure(row: Row): FailureRecord {
  return { attempt: Number(row['attempt']), at: Number(row['at']), error: String(row['error']) }
}

export function toHandler(row: Row): HandlerRecord {
  const { ordered } = row
  return {
    name: String(row['name']),
    events: readNames(row['events']),
    order: ordered === 'none' || ordered === 'object' ? ordered : undefined,
    debounce: numberOf(row['debounce']),
    loadedAt: numberOf(row['loaded_at']),
    pending: Number(row['pending']),
    dead: Number(row['dead']),
  }
}

export function toState(row: Row = {}): QueueState {
  const count = (name: string) => Number(row[name])
  return {
    ready: count('ready'),
    running: count('running'),
    waiting: count('waiting'),
    blocked: count('blocked'),
    dead: count('dead'),
    oldestAt: numberOf(row['oldest']),
  }
}

export function toPosition({ segment, offset, first }: Row): Position {
  return { segment: Number(segment), offset: Number(offset), ...(typeof first === 'string' && { first }) }
}

/** An unreadable snapshot does not count as unchanged. */
export function toSnapshot(row: Row, onUnreadable?: () => void): Snapshot {
  const fields = readSnapshotFields(row['fields'])
  if (fields === undefined) onUnreadable?.()
  return { fields: fields ?? {}, isDirty: fields === undefined || isTrue(row['dirty']) }
}

/**
 * Which of the deliveries about an erased object are dropped, and which stay without the texts of their failures.
 *
 * @throws {RunNotEnded} if one is running, unless its run was abandoned
 */
export function planErasure<T extends Row>(rows: readonly T[], isAbandoned: boolean) {
  const running = rows.find(({ state }) => state === 'running')
  if (running && !isAbandoned)
    throw new RunNotEnded({ handler: String(running['handler']), event: String(running['event_id']) })
  const kept = rows.filter(({ state }) => state === 'done' || state === 'coalesced')
  return { kept, dropped: rows.filter((row) => !kept.includes(row)) }
}
