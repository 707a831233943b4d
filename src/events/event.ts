import type { Form, FormValue } from './form.ts'

/**
 * The result of a post: one line of the journal, and the value that a handler receives. Names from the wire stay
 * unchanged. A field that is `undefined` is not in the line.
 */
export interface Event {
  /** A UUIDv7 that the receiver makes, because Bitrix24 sends no delivery id. */
  readonly id: string
  /** The name of the token it came with, if that has one. */
  readonly webhook?: string | undefined
  /** Upper case, such as `ONCRMDEALUPDATE`. */
  readonly event: string
  /** What the event is about, such as `deal:662`; absent if that has no id. */
  readonly object?: string | undefined
  /** For a robot's post: the source of `object`, as it was sent. Module, class, id. */
  readonly document_id?: readonly string[] | undefined
  /** Set if `data` is not as documented for this event: its type in a handler then promises too much. */
  readonly shape?: 'unexpected' | undefined
  /** Set if the event was not posted: a backfill found a changed record without an event. */
  readonly source?: 'backfill' | undefined
  /**
   * The one handler that it is for. If it is absent, the event is for every handler that matches. Only a backfill
   * sets it.
   */
  readonly handler?: string | undefined
  /** The subscription's number in the portal. Old on-premise portals send none. */
  readonly event_handler_id?: string | undefined
  /** Unix seconds, as text, at which the portal queued the event. */
  readonly ts?: string | undefined
  /**
   * As it was sent, without secrets: every leaf is a text. Absent if it was absent. For a robot's post it is the
   * URL's query.
   */
  readonly data?: FormValue | undefined
  /** As it was sent, without secrets: `domain`, `member_id`, … */
  readonly auth?: Form | undefined
  /** The URL's query without secrets, if there was one. */
  readonly query?: Form | undefined
  /** The post's other fields, as they were sent, without secrets; absent if there are none. */
  readonly extra?: Form | undefined
  /** The sender's address, as seen through the trusted proxies. For a backfill it is the portal that was read. */
  readonly remote: string
}

/** A line of the journal: the event, and the fields that pino adds. */
export interface JournalledEvent extends Event {
  readonly level: number
  /** Its personal content was erased, so no handler may run for it. */
  readonly erased?: true
  /** When the journal accepted it, ISO 8601. */
  readonly time: string
  readonly msg: string
}
