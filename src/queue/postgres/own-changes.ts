import { type LastChange, lastChangeOf } from '../../bitrix24/last-change.ts'
import { isRead } from '../../bitrix24/reads.ts'
import { writeOf } from '../../bitrix24/writes.ts'
import { candidatesOf, judge, type OwnWrite, type Question } from '../own-change-rules.ts'
import { laneOf } from '../../events/ordering-key.ts'
import {
  aboutArrived,
  type Change,
  laneOfWrite,
  lifetime,
  longestRequest,
  type OwnWrites,
  readChange,
  unknownIfRefused,
  type Writer,
} from '../own-changes.ts'
import type { Database, Row, Session, Transaction } from './database.ts'
import { lockLanes, textOf } from './ordering.ts'

/** Locks are for lanes of handlers; those of what is written have none. */
const written = 'written'

interface Added {
  readonly change: Change
  readonly writer: Writer
  readonly lane: string
  readonly sentAt: number
  readonly mayEcho: boolean
}

/**
 * What own-writes.ts keeps in memory, requests that are not answered and the last runs, is in Postgres too, where all
 * workers see it. Times are those of this machine, since they are compared with those of journals: clocks must agree.
 */
export function openPgOwnWrites({ database, now = Date.now }: { database: Database; now?: () => number }): OwnWrites {
  const inTransaction = <T>(work: (transaction: Transaction) => Promise<T>) =>
    database.persist(() => database.transaction(work))

  const rowsOf = (session: Session, lane: string) =>
    session.query('SELECT * FROM b24_receiver.own_write WHERE lane = $1 AND sent_at > $2 ORDER BY key', [
      lane,
      now() - lifetime,
    ])

  async function isAlone(session: Session, lane: string): Promise<boolean> {
    const [other] = await session.query(
      'SELECT FROM b24_receiver.own_request WHERE lanes @> ARRAY[$1] AND abs(at - $2) < $3 LIMIT 1',
      [lane, now(), lifetime],
    )
    return other === undefined
  }

  async function add(transaction: Transaction, { change, writer, lane, sentAt, mayEcho }: Added): Promise<void> {
    const { event, isNew, first, last, content } = change
    const others = (await rowsOf(transaction, lane)).filter(
      (row) => Number(row['first']) <= last && Number(row['last']) >= first,
    )
    // The record is as one of ours left it in the same second: this one has changed nothing.
    if (content !== null && others.some((row) => row['content'] === content)) return
    const isTold = content !== null && (await isAlone(transaction, lane))
    const isCertain = isNew || (isTold && others.every((row) => row['content'] !== null))
    await transaction.query(
      `INSERT INTO b24_receiver.own_write (lane, handler, hook_user, event, sent_at, first, last, certain, content)
       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
      [
        lane,
        textOf(writer.handler),
        writer.user,
        mayEcho ? event : null,
        sentAt,
        first,
        last,
        isCertain,
        isTold ? content : null,
      ],
    )
  }

  async function ask(
    session: Session,
    about: Omit<Question, 'writes' | 'isComplete'>,
    lane: string,
  ): Promise<Question> {
    const writes = (await rowsOf(session, lane)).map(toOwnWrite)
    return { ...about, writes, isComplete: writes.length === 0 || (await isAlone(session, lane)) }
  }

  return {
    async sending(writer, commands) {
      const lanes = commands.flatMap((one) => laneOfWrite(writer, writeOf({ ...one, result: undefined })) ?? [])
      // What only reads needs no database. Of what is added the object is not known before the answer.
      if (commands.every(({ method }) => isRead(method))) return () => []
      const sentAt = now()
      const [request] = await database.persist(() =>
        database.query('INSERT INTO b24_receiver.own_request (lanes, at) VALUES ($1, $2) RETURNING place', [
          lanes,
          sentAt,
        ]),
      )
      const place = Number(request?.['place'])
      return async (answered) => {
        await inTransaction(async (transaction) => {
          await lockLanes(
            transaction,
            lanes.map((lane) => ({ handler: written, lane })),
          )
          await transaction.query('DELETE FROM b24_receiver.own_request WHERE place = $1 OR at <= $2', [
            place,
            now() - lifetime,
          ])
          await transaction.query('DELETE FROM b24_receiver.own_run WHERE at < $1', [now() - lifetime])
          // What is from the future was sent before the clock was put back.
          await transaction.query('DELETE FROM b24_receiver.own_write WHERE sent_at <= $1 OR sent_at > $2', [
            now() - lifetime,
            now() + longestRequest,
          ])
          const fired = new Set<string>()
          for (const command of answered) {
            const write = writeOf(command)
            if (write?.event === undefined) continue
            const lane = laneOfWrite(writer, write)
            const change = readChange(write.event, command, writer.user)
            if (lane === null || change === undefined) continue
            // Its event may have come before its answer, and run: then none is still to come.
            const [ran] = await transaction.query(
              'SELECT FROM b24_receiver.own_run WHERE handler = $1 AND lane = $2 AND place > $3',
              [textOf(writer.handler), lane, place],
            )
            // Of one hit the portal sends equal events once (rest/lib/event/buffer.php), and a batch is one.
            const isAgain = fired.has(`${write.event} ${write.object}`)
            fired.add(`${write.event} ${write.object}`)
            await add(transaction, { change, writer, lane, sentAt, mayEcho: ran === undefined && !isAgain })
          }
        })
        return objectsOf(answered)
      }
    },

    async judge(arrived, readRecord) {
      const lane = laneOf(arrived.event)
      if (lane === null) return 'run'
      const about = aboutArrived(arrived)
      let lastChange: LastChange | undefined
      const before = await database.persist(() => ask(database, about, lane))
      if (candidatesOf(before).length > 0) lastChange = lastChangeOf(await readRecord().catch(unknownIfRefused))
      return inTransaction(async (transaction) => {
        await lockLanes(transaction, [{ handler: written, lane }])
        // Asked again: what was written meanwhile counts.
        const { verdict, accounted } = judge(await ask(transaction, about, lane), lastChange)
        if (accounted.length > 0)
          await transaction.query(
            'UPDATE b24_receiver.own_write SET accounted = accounted || $1::text WHERE key = ANY($2::bigint[])',
            [about.subscription, accounted.map(({ key }) => key)],
          )
        if (verdict === 'run')
          await transaction.query(
            `INSERT INTO b24_receiver.own_run (handler, lane, at) VALUES ($1, $2, $3)
             ON CONFLICT (handler, lane) DO UPDATE
             SET at = excluded.at, place = nextval('b24_receiver.own_request_place_seq')`,
            [textOf(arrived.handler), lane, now()],
          )
        return verdict
      })
    },

    close: () => undefined,
  }
}

function objectsOf(answered: Parameters<Awaited<ReturnType<OwnWrites['sending']>>>[0]): readonly string[] {
  return [...new Set(answered.flatMap((command) => writeOf(command)?.object ?? []))]
}

function toOwnWrite(row: Row): OwnWrite {
  return {
    key: Number(row['key']),
    handler: String(row['handler']),
    user: String(row['hook_user']),
    event: typeof row['event'] === 'string' ? row['event'] : undefined,
    sentAt: Number(row['sent_at']),
    first: Number(row['first']),
    last: Number(row['last']),
    isCertain: row['certain'] === true,
    accounted: Array.isArray(row['accounted']) ? row['accounted'].map(String) : [],
  }
}
