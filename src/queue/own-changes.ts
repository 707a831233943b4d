import { createHash } from 'node:crypto'
import { Bitrix24Error } from '../bitrix24/bitrix24-error.ts'
import type { Answered } from '../bitrix24/client.ts'
import { type LastChange, lastChangeOf } from '../bitrix24/last-change.ts'
import type { Command } from '../bitrix24/parameters.ts'
import { isRead } from '../bitrix24/reads.ts'
import { type Write, writeOf } from '../bitrix24/writes.ts'
import type { JournalledEvent } from '../events/event.ts'
import { orderingKeyOf } from '../events/ordering-key.ts'
import { isObject } from '../lib/is-object.ts'
import { isTrue, type Row } from './delivery-row.ts'
import { candidatesOf, type Judgement, judge, type OwnWrite, type Question, type Verdict } from './own-change-rules.ts'
import type { Awaitable, Delivery } from './queue.ts'

/** A run, as far as its writes are concerned. */
export interface Writer {
  readonly handler: string
  /** The event whose portal the run writes to. */
  readonly event: JournalledEvent
  /** The user of the incoming webhook. */
  readonly user: string
}

/** Keeps the writes of handlers through their incoming webhooks, for as long as their events may come. */
export interface OwnChanges {
  /**
   * Call `sending` before a request is sent, and call the returned function with the answer, which is empty if the
   * portal refused. That function keeps the writes and returns all written objects, including those whose writes fire
   * no event.
   */
  sending(
    writer: Writer,
    commands: readonly Command[],
  ): Awaitable<(answered: readonly Answered[]) => Awaitable<readonly string[]>>
  /**
   * Decides whether a delivery is only the handler's own change. Reads the record only if the delivery may be one. An
   * error of the read is thrown. If the portal refuses the record, the last change counts as unknown.
   *
   * Call this once for a delivery, at its first attempt. A run that failed half-way has already written, and its
   * delivery must not count as done.
   */
  judge(
    delivery: Pick<Delivery, 'handler' | 'event' | 'coalesced'>,
    readRecord: () => Promise<unknown>,
  ): Promise<Verdict>
  close(): Awaitable<void>
}

/** Milliseconds. A later event runs the handler, because some events never come. */
export const lifetimeMs = 10 * 60_000
/** Milliseconds, longer than a request may take; see bitrix24/transport.ts. */
export const maxRequestMs = 2 * 60_000

/** What is known about the writes to some objects, which are named by their ordering keys. */
export interface Known {
  /** The oldest first. */
  readonly writes: readonly StoredWrite[]
  /** Objects to which a request without an answer may write, and perhaps others. */
  readonly busy: readonly string[]
  /** The handler's last run about each object: its place in the order of requests and runs. */
  readonly lastRuns: ReadonlyMap<string, number>
}

export interface StoredWrite extends OwnWrite {
  readonly orderingKey: string
  /** A hash of the record after the write, if the answer had the record. */
  readonly content: string | null
}

export type NewWrite = Omit<StoredWrite, 'key' | 'accounted'>

/**
 * What an engine keeps: writes, requests without an answer, and last runs. It forgets a write after `lifetimeMs`, and
 * one from the future, which was sent before the clock was put back.
 */
export interface OwnChangeStore {
  /** Adds a request that is about to be sent, and returns its place. */
  begin(orderingKeys: readonly string[], at: number): Awaitable<number>
  /** Removes the request and adds the planned writes, in one transaction. */
  end(place: number, about: About, plan: (known: Known) => readonly NewWrite[]): Awaitable<void>
  read(about: About): Awaitable<Known>
  /** Decides and stores the decision, in one transaction. */
  decide(about: About, subscription: string, judge: (known: Known) => Judgement): Awaitable<Judgement>
  close(): Awaitable<void>
}

export interface About {
  readonly handler: string
  readonly orderingKeys: readonly string[]
  /** Unix milliseconds. */
  readonly at: number
}

export function createOwnChanges(store: OwnChangeStore, now: () => number): OwnChanges {
  return {
    async sending(writer, commands) {
      // A request that only reads needs no store. The object of an addition is unknown before the answer.
      if (commands.every(({ method }) => isRead(method))) return () => []
      const orderingKeys = commands.flatMap(
        (one) => orderingKeyOfWrite(writer, writeOf({ ...one, result: undefined })) ?? [],
      )
      const sentAt = now()
      const place = await store.begin(orderingKeys, sentAt)
      return async (answered) => {
        const written = answered.flatMap((one) => readWritten(one, writer) ?? [])
        const all = new Set([...orderingKeys, ...written.map(({ orderingKey }) => orderingKey)])
        await store.end(place, { handler: writer.handler, orderingKeys: [...all], at: now() }, (known) =>
          planWrites(written, known, { writer, sentAt, place }),
        )
        return [...new Set(answered.flatMap((one) => writeOf(one)?.object ?? []))]
      }
    },

    async judge({ handler, event, coalesced }, readRecord) {
      const orderingKey = orderingKeyOf(event)
      if (orderingKey === null) return 'run'
      const subscription = `${event.event}#${event.event_handler_id ?? ''}`
      const ask = ({ writes, busy }: Known): Question => ({
        handler,
        event: event.event.replace(/_\d+$/, ''),
        subscription,
        receivedAt: Date.parse(event.time),
        coalesced,
        writes,
        isComplete: !busy.includes(orderingKey),
      })
      const about = () => ({ handler, orderingKeys: [orderingKey], at: now() })
      let lastChange: LastChange | undefined
      if (candidatesOf(ask(await store.read(about()))).length > 0)
        lastChange = lastChangeOf(await readRecord().catch(unknownIfRefused))
      // The store reads the writes again, which includes those made while the record was read.
      const { verdict } = await store.decide(about(), subscription, (known) => judge(ask(known), lastChange))
      return verdict
    },

    close: () => store.close(),
  }
}

/** A write that changed an object, and whose event may come. Times are seconds, by the portal's clock. */
interface Written extends Pick<NewWrite, 'orderingKey' | 'first' | 'last' | 'content'> {
  readonly event: string
  readonly isNew: boolean
}

/** Returns `undefined` if nothing was changed, or if the portal does not say when. */
function readWritten(answered: Answered, writer: Writer): Written | undefined {
  const { result, time } = answered
  const write = writeOf(answered)
  const orderingKey = orderingKeyOfWrite(writer, write)
  if (write?.event === undefined || orderingKey === null || !isObject(time)) return undefined
  const first = Math.floor(Number(time['start']))
  const last = Math.floor(Number(time['finish']))
  if (!(first > 0 && last >= first)) return undefined
  const written = { orderingKey, event: write.event, isNew: write.event.endsWith('ADD') }
  const change = lastChangeOf(result)
  if (change === undefined) return { ...written, first, last, content: null }
  if (change.user !== writer.user || change.at < first) return undefined
  return { ...written, first: change.at, last: change.at, content: contentOf(result) }
}

function planWrites(
  written: readonly Written[],
  { writes, busy, lastRuns }: Known,
  { writer, sentAt, place }: { readonly writer: Writer; readonly sentAt: number; readonly place: number },
): readonly NewWrite[] {
  const planned: NewWrite[] = []
  const fired = new Set<string>()
  for (const { orderingKey, event, isNew, first, last, content } of written) {
    // The event may have come and run before its answer; then no further event will come.
    const isOvertaken = (lastRuns.get(orderingKey) ?? -1) > place
    // Within one hit the portal sends equal events once (rest/lib/event/buffer.php), and a batch is one hit.
    const isAgain = fired.has(`${event} ${orderingKey}`)
    fired.add(`${event} ${orderingKey}`)
    const others = [...writes, ...planned].filter(
      (one) => one.orderingKey === orderingKey && one.first <= last && one.last >= first,
    )
    // One of our writes left the record the same in the same second, so this write changed nothing.
    if (content !== null && others.some((one) => one.content === content)) continue
    const isContentKnown = content !== null && !busy.includes(orderingKey)
    planned.push({
      orderingKey,
      handler: writer.handler,
      user: writer.user,
      event: isOvertaken || isAgain ? undefined : event,
      sentAt,
      first,
      last,
      isCertain: isNew || (isContentKnown && others.every((one) => one.content !== null)),
      content: isContentKnown ? content : null,
    })
  }
  return planned
}

function orderingKeyOfWrite({ event }: Writer, write: Write | undefined): string | null {
  return write === undefined ? null : orderingKeyOf({ ...event, object: write.object })
}

/**
 * A handler may work without reading the record, so a refused read is ignored. A broken incoming webhook still matters
 * to the handler.
 */
function unknownIfRefused(error: unknown): undefined {
  if (!(error instanceof Bitrix24Error) || error.trouble !== undefined) throw error
}

/**
 * Returns the same hash for `UF_CRM_1` and `ufCrm1`, because a parameter of the call decides which name the answer has.
 */
function contentOf(result: unknown): string {
  const text = JSON.stringify(result, (_, value: unknown) =>
    isObject(value) && !Array.isArray(value)
      ? Object.fromEntries(
          Object.entries(value)
            .map(([name, inner]): [string, unknown] => [name.replaceAll('_', '').toLowerCase(), inner])
            .sort(([a], [b]) => (a < b ? -1 : 1)),
        )
      : value,
  )
  return createHash('sha256').update(text).digest('base64')
}

/** @param accounted `undefined` if unreadable */
export function toStoredWrite(row: Row, accounted: readonly string[] | undefined): StoredWrite {
  const { event, content } = row
  return {
    key: Number(row['key']),
    orderingKey: String(row['ordering_key']),
    handler: String(row['handler']),
    user: String(row['user'] ?? row['webhook_user']),
    // Without the subscriptions that have had the event, this write explains no event.
    event: typeof event === 'string' && accounted !== undefined ? event : undefined,
    sentAt: Number(row['sent_at']),
    first: Number(row['first']),
    last: Number(row['last']),
    isCertain: isTrue(row['certain']),
    content: typeof content === 'string' ? content : null,
    accounted: accounted ?? [],
  }
}
