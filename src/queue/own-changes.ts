import { createHash } from 'node:crypto'
import { DatabaseSync, type SQLOutputValue } from 'node:sqlite'
import { Bitrix24Error } from '../bitrix24/bitrix24-error.ts'
import type { Answered } from '../bitrix24/client.ts'
import { type LastChange, lastChangeOf } from '../bitrix24/last-change.ts'
import type { Command } from '../bitrix24/parameters.ts'
import { type Write, writeOf } from '../bitrix24/writes.ts'
import { isObject } from '../lib/is-object.ts'
import type { JournalledEvent } from '../journal/follow.ts'
import { candidatesOf, judge, type OwnWrite, type Question, type Verdict } from './own-change-rules.ts'
import { laneOf } from '../events/ordering-key.ts'
import type { Awaitable } from './queue.ts'
import { readNames } from './stored.ts'

/** A run, as far as what it writes is concerned. */
export interface Writer {
  readonly handler: string
  /** Whose portal it writes to. */
  readonly event: JournalledEvent
  /** The hook's. */
  readonly user: string
}

/** What a run is about to begin for. */
export interface Arrived {
  readonly handler: string
  readonly event: JournalledEvent
  readonly coalesced: number
}

/** The writes of handlers through their hooks, for as long as their events may come. */
export interface OwnWrites {
  /**
   * To be called before a request is sent, and what it gives with the answer, which is empty where the portal refused:
   * that keeps what was written, and gives the objects, those too whose writes fire nothing.
   */
  sending(
    writer: Writer,
    commands: readonly Command[],
  ): Awaitable<(answered: readonly Answered[]) => Awaitable<readonly string[]>>
  /**
   * Whether a delivery is only the echo of its handler's own write. Reads the record only where it may be; what that
   * throws is thrown, but where the portal refuses the record it is unknown.
   *
   * To be asked once for a delivery, at its first attempt: a run that failed half-way has written, and must not be taken
   * for done.
   */
  judge(arrived: Arrived, readRecord: () => Promise<unknown>): Promise<Verdict>
  close(): Awaitable<void>
}

/** An event that comes later than this runs: some never come. */
export const lifetime = 10 * 60_000
/** Longer than a request may take, see transport.ts. */
export const longestRequest = 2 * 60_000

/** @param parts.path of `dispatch.db`, which the queue has migrated */
export function openOwnWrites({
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
      INSERT INTO own_write (lane, handler, user, event, sent_at, first, last, certain, content)
      VALUES (:lane, :handler, :user, :event, :sentAt, :first, :last, :certain, :content)`),
    of: db.prepare('SELECT * FROM own_write WHERE lane = ? AND sent_at > ? ORDER BY key'),
    account: db.prepare(`
      UPDATE own_write SET accounted = json_insert(accounted, '$[#]', :subscription)
      WHERE key IN (SELECT value FROM json_each(:keys))`),
    // A request of the process before may be unanswered for ever, see `open`.
    doubt: db.prepare('UPDATE own_write SET event = NULL WHERE certain = 0'),
    // What is from the future was sent before the clock was put back.
    forget: db.prepare('DELETE FROM own_write WHERE sent_at <= ? OR sent_at > ?'),
  }
  /** When an event of a handler and lane last ran, the oldest first; `order` among the requests. */
  const lastRuns = new Map<string, { readonly order: number; readonly at: number }>()
  /**
   * The requests that are not answered, by `order`, and what they may write to. A change of the record may be theirs, so
   * it proves nothing of another.
   */
  const open = new Map<number, { readonly at: number; readonly lanes: ReadonlySet<string | null> }>()
  let order = 0

  sql.doubt.run()

  const isAlone = (lane: string) => ![...open.values()].some(({ lanes }) => lanes.has(lane))
  const rowsOf = (lane: string) => sql.of.all(lane, now() - lifetime)

  function noteRun(handler: string, lane: string): void {
    const key = JSON.stringify([handler, lane])
    lastRuns.delete(key)
    lastRuns.set(key, { order: order++, at: now() })
    for (const [old, { at }] of lastRuns) {
      if (Math.abs(now() - at) < longestRequest) break
      lastRuns.delete(old)
    }
  }

  function add(one: Change, { handler, user }: Writer, lane: string, sentAt: number, mayEcho: boolean): void {
    const { event, isNew, first, last, content } = one
    const others = rowsOf(lane).filter((row) => Number(row['first']) <= last && Number(row['last']) >= first)
    // The record is as one of ours left it in the same second: this one has changed nothing.
    if (content !== null && others.some((row) => row['content'] === content)) return
    const isTold = content !== null && isAlone(lane)
    const isCertain = isNew || (isTold && others.every((row) => row['content'] !== null))
    sql.add.run({
      lane,
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
      const lanes = commands.map((one) => laneOfWrite(writer, writeOf({ ...one, result: undefined })))
      const sent = { at: now(), order: order++, lanes: new Set(lanes) }
      for (const [old, { at }] of open) {
        if (Math.abs(now() - at) < lifetime) break
        open.delete(old)
      }
      if (lanes.some((lane) => lane !== null)) open.set(sent.order, sent)
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
          const lane = laneOfWrite(writer, write)
          const change = event === undefined ? undefined : readChange(event, command, writer.user)
          if (lane === null || change === undefined) continue
          // Its event may have come before its answer, and run: then none is still to come.
          const ran = lastRuns.get(JSON.stringify([writer.handler, lane]))
          const isOvertaken = ran !== undefined && ran.order > sent.order
          // Of one hit the portal sends equal events once (rest/lib/event/buffer.php), and a batch is one.
          const isAgain = fired.has(`${event} ${object}`)
          fired.add(`${event} ${object}`)
          add(change, writer, lane, sent.at, !isOvertaken && !isAgain)
        }
        return [...objects]
      }
    },

    async judge({ handler, event, coalesced }: Arrived, readRecord: () => Promise<unknown>): Promise<Verdict> {
      const lane = laneOf(event)
      if (lane === null) return 'run'
      const ask = (): Question => ({
        ...aboutArrived({ handler, event, coalesced }),
        writes: rowsOf(lane).map((row) => toOwnWrite(row, onUnreadable)),
        isComplete: isAlone(lane),
      })
      let lastChange: LastChange | undefined
      if (candidatesOf(ask()).length > 0) lastChange = lastChangeOf(await readRecord().catch(unknownIfRefused))
      // Asked again: what was written meanwhile counts.
      const question = ask()
      const { verdict, accounted } = judge(question, lastChange)
      const keys = JSON.stringify(accounted.map(({ key }) => key))
      if (accounted.length > 0) sql.account.run({ subscription: question.subscription, keys })
      if (verdict === 'run') noteRun(handler, lane)
      return verdict
    },

    close() {
      if (db.isOpen) db.close()
    },
  } satisfies OwnWrites
}

/** What a question says of the event. */
export function aboutArrived({ handler, event, coalesced }: Arrived): Omit<Question, 'writes' | 'isComplete'> {
  return {
    handler,
    event: event.event.replace(/_\d+$/, ''),
    subscription: `${event.event}#${event.event_handler_id ?? ''}`,
    receivedAt: Date.parse(event.time),
    coalesced,
  }
}

export function laneOfWrite({ event }: Writer, write: Write | undefined): string | null {
  return write === undefined ? null : laneOf({ ...event, object: write.object })
}

/** A handler may work without reading what it writes to; that its hook is dead concerns it all the same. */
export function unknownIfRefused(error: unknown): undefined {
  if (!(error instanceof Bitrix24Error) || error.trouble !== undefined) throw error
}

export interface Change {
  readonly event: string
  readonly isNew: boolean
  readonly first: number
  readonly last: number
  /** What the record was then, where the answer has it. */
  readonly content: string | null
}

/** `undefined` where nothing was changed, and where the portal does not tell when. */
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

/** The same for `UF_CRM_1` and `ufCrm1`: which of them the answer has is a parameter of the call. */
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
    // For whom its event has come is not known then, so no event is taken for it.
    event: row['event'] === null || accounted === undefined ? undefined : String(row['event']),
    sentAt: Number(row['sent_at']),
    first: Number(row['first']),
    last: Number(row['last']),
    isCertain: row['certain'] === 1,
    accounted: accounted ?? [],
  }
}
