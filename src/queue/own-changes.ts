import { createHash } from 'node:crypto'
import { DatabaseSync, type SQLOutputValue } from 'node:sqlite'
import { Bitrix24Error } from '../bitrix24/bitrix24-error.ts'
import type { Answered } from '../bitrix24/client.ts'
import { type LastChange, lastChangeOf } from '../bitrix24/last-change.ts'
import type { Command } from '../bitrix24/parameters.ts'
import { type Write, writeOf } from '../bitrix24/writes.ts'
import type { JournalledEvent } from '../events/event.ts'
import { orderingKeyOf } from '../events/ordering-key.ts'

import { isObject } from '../lib/is-object.ts'
import { candidatesOf, judge, type OwnWrite, type Question, type Verdict } from './own-change-rules.ts'
import type { Awaitable } from './queue.ts'
import { readNames } from './stored.ts'

/** A run, as far as its writes are concerned. */
export interface Writer {
  readonly handler: string
  /** The event whose portal the run writes to. */
  readonly event: JournalledEvent
  /** The user of the incoming webhook. */
  readonly user: string
}

/** The event for which a run is about to begin. */
export interface Arrived {
  readonly handler: string
  readonly event: JournalledEvent
  readonly coalesced: number
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
  judge(arrived: Arrived, readRecord: () => Promise<unknown>): Promise<Verdict>
  close(): Awaitable<void>
}

/** Milliseconds. A later event runs the handler, because some events never come. */
export const lifetime = 10 * 60_000
/** Milliseconds, longer than a request may take; see bitrix24/transport.ts. */
export const longestRequest = 2 * 60_000

/** @param options.path of `dispatch.db`, which the queue has migrated */
export function openOwnChanges({
  path,
  now = Date.now,
  onUnreadable = () => undefined,
}: {
  path: string
  now?: () => number
  onUnreadable?: (what: string) => void
}) {
  const db = new DatabaseSync(path)
  db.exec('PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 5000')
  const sql = {
    add: db.prepare(`
      INSERT INTO own_write (ordering_key, handler, user, event, sent_at, first, last, certain, content)
      VALUES (:orderingKey, :handler, :user, :event, :sentAt, :first, :last, :certain, :content)`),
    of: db.prepare('SELECT * FROM own_write WHERE ordering_key = ? AND sent_at > ? ORDER BY key'),
    account: db.prepare(`
      UPDATE own_write SET accounted = json_insert(accounted, '$[#]', :subscription)
      WHERE key IN (SELECT value FROM json_each(:keys))`),
    // A request of the previous process may never be answered; see `open`.
    markDirty: db.prepare('UPDATE own_write SET event = NULL WHERE certain = 0'),
    // A write from the future was sent before the clock was put back.
    forget: db.prepare('DELETE FROM own_write WHERE sent_at <= ? OR sent_at > ?'),
  }
  /**
   * When an event of a handler and ordering key last ran, the oldest first. `order` is its place among the requests.
   */
  const lastRuns = new Map<string, { readonly order: number; readonly at: number }>()
  /**
   * The unanswered requests, by `order`, and the ordering keys that they may write to. A change of the record may come
   * from one of them, so it proves nothing about another write.
   */
  const open = new Map<number, { readonly at: number; readonly orderingKeys: ReadonlySet<string | null> }>()
  let order = 0

  sql.markDirty.run()

  const isAlone = (orderingKey: string) => ![...open.values()].some(({ orderingKeys }) => orderingKeys.has(orderingKey))
  const rowsOf = (orderingKey: string) => sql.of.all(orderingKey, now() - lifetime)

  function noteRun(handler: string, orderingKey: string): void {
    const key = JSON.stringify([handler, orderingKey])
    lastRuns.delete(key)
    lastRuns.set(key, { order: order++, at: now() })
    for (const [old, { at }] of lastRuns) {
      if (Math.abs(now() - at) < longestRequest) break
      lastRuns.delete(old)
    }
  }

  function add(one: Change, { handler, user }: Writer, orderingKey: string, sentAt: number, mayEcho: boolean): void {
    const { event, isNew, first, last, content } = one
    const others = rowsOf(orderingKey).filter((row) => Number(row['first']) <= last && Number(row['last']) >= first)
    // One of our writes left the record the same in the same second, so this write changed nothing.
    if (content !== null && others.some((row) => row['content'] === content)) return
    const isTold = content !== null && isAlone(orderingKey)
    const isCertain = isNew || (isTold && others.every((row) => row['content'] !== null))
    sql.add.run({
      orderingKey,
      handler,
      user,
      event: mayEcho ? event : null,
      sentAt,
      first,
      last,
      certain: Number(isCertain),
      content: isTold ? content : null,
    })
  }

  return {
    sending(writer: Writer, commands: readonly Command[]) {
      const orderingKeys = commands.map((one) => orderingKeyOfWrite(writer, writeOf({ ...one, result: undefined })))
      const sent = { at: now(), order: order++, orderingKeys: new Set(orderingKeys) }
      for (const [old, { at }] of open) {
        if (Math.abs(now() - at) < lifetime) break
        open.delete(old)
      }
      if (orderingKeys.some((orderingKey) => orderingKey !== null)) open.set(sent.order, sent)
      return (answered: readonly Answered[]): readonly string[] => {
        open.delete(sent.order)
        sql.forget.run(now() - lifetime, now() + longestRequest)
        const objects = new Set<string>()
        const fired = new Set<string>()
        for (const command of answered) {
          const write = writeOf(command)
          if (write === undefined) continue
          const { object, event } = write
          objects.add(object)
          const orderingKey = orderingKeyOfWrite(writer, write)
          const change = event === undefined ? undefined : readChange(event, command, writer.user)
          if (orderingKey === null || change === undefined) continue
          // The event may have come and run before its answer; then no further event will come.
          const ran = lastRuns.get(JSON.stringify([writer.handler, orderingKey]))
          const isOvertaken = ran !== undefined && ran.order > sent.order
          // Within one hit the portal sends equal events once (rest/lib/event/buffer.php), and a batch is one hit.
          const isAgain = fired.has(`${event} ${object}`)
          fired.add(`${event} ${object}`)
          add(change, writer, orderingKey, sent.at, !isOvertaken && !isAgain)
        }
        return [...objects]
      }
    },

    async judge({ handler, event, coalesced }: Arrived, readRecord: () => Promise<unknown>): Promise<Verdict> {
      const orderingKey = orderingKeyOf(event)
      if (orderingKey === null) return 'run'
      const ask = (): Question => ({
        ...aboutArrived({ handler, event, coalesced }),
        writes: rowsOf(orderingKey).map((row) => toOwnWrite(row, onUnreadable)),
        isComplete: isAlone(orderingKey),
      })
      let lastChange: LastChange | undefined
      if (candidatesOf(ask()).length > 0) lastChange = lastChangeOf(await readRecord().catch(unknownIfRefused))
      // The second query includes writes made during the read.
      const question = ask()
      const { verdict, accounted } = judge(question, lastChange)
      const keys = JSON.stringify(accounted.map(({ key }) => key))
      if (accounted.length > 0) sql.account.run({ subscription: question.subscription, keys })
      if (verdict === 'run') noteRun(handler, orderingKey)
      return verdict
    },

    close() {
      if (db.isOpen) db.close()
    },
  } satisfies OwnChanges
}

/** The part of a question that describes the event. */
export function aboutArrived({ handler, event, coalesced }: Arrived): Omit<Question, 'writes' | 'isComplete'> {
  return {
    handler,
    event: event.event.replace(/_\d+$/, ''),
    subscription: `${event.event}#${event.event_handler_id ?? ''}`,
    receivedAt: Date.parse(event.time),
    coalesced,
  }
}

export function orderingKeyOfWrite({ event }: Writer, write: Write | undefined): string | null {
  return write === undefined ? null : orderingKeyOf({ ...event, object: write.object })
}

/**
 * A handler may work without reading the record, so a refused read is ignored. A broken incoming webhook still matters
 * to the handler.
 */
export function unknownIfRefused(error: unknown): undefined {
  if (!(error instanceof Bitrix24Error) || error.trouble !== undefined) throw error
}

export interface Change {
  readonly event: string
  readonly isNew: boolean
  readonly first: number
  readonly last: number
  /** A hash of the record at that time, if the answer contains the record. */
  readonly content: string | null
}

/** Returns `undefined` if nothing was changed, or if the portal does not say when. */
export function readChange(event: string, { result, time }: Answered, user: string): Change | undefined {
  if (!isObject(time)) return undefined
  const first = Math.floor(Number(time['start']))
  const last = Math.floor(Number(time['finish']))
  if (!(first > 0 && last >= first)) return undefined
  const isNew = event.endsWith('ADD')
  const told = lastChangeOf(result)
  if (told === undefined) return { event, isNew, first, last, content: null }
  if (told.user !== user || told.at < first) return undefined
  return { event, isNew, first: told.at, last: told.at, content: contentOf(result) }
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

function toOwnWrite(row: Record<string, SQLOutputValue>, onUnreadable: (what: string) => void): OwnWrite {
  const accounted = readNames(row['accounted'])
  if (accounted === undefined)
    onUnreadable(`own_write ${Number(row['key'])} of ${String(row['handler'])}: its echo runs the handler`)
  return {
    key: Number(row['key']),
    handler: String(row['handler']),
    user: String(row['user']),
    // The subscriptions that have had the event are unknown, so this write explains no event.
    event: row['event'] === null || accounted === undefined ? undefined : String(row['event']),
    sentAt: Number(row['sent_at']),
    first: Number(row['first']),
    last: Number(row['last']),
    isCertain: row['certain'] === 1,
    accounted: accounted ?? [],
  }
}
