import { type LastChange, lastChangeOf } from '../../bitrix24/last-change.ts'
import { isRead } from '../../bitrix24/reads.ts'
import { writeOf } from '../../bitrix24/writes.ts'
import { orderingKeyOf } from '../../events/ordering-key.ts'
import { candidatesOf, judge, type OwnWrite, type Question } from '../own-change-rules.ts'
import {
  aboutArrived,
  type Change,
  lifetime,
  longestRequest,
  type OwnChanges,
  orderingKeyOfWrite,
  readChange,
  unknownIfRefused,
  type Writer,
} from '../own-changes.ts'
import { lockOrderingKeys, textOf } from './ordering.ts'
import type { Database, Row, Session, Transaction } from './session.ts'

/**
 * Locks are named after a handler and an ordering key. A written object belongs to no handler, so its lock uses this
 * name.
 */
const written = 'written'

interface Added {
  readonly change: Change
  readonly writer: Writer
  readonly orderingKey: string
  readonly sentAt: number
  readonly mayEcho: boolean
}

/**
 * Keeps in Postgres, for all workers, what ../own-changes.ts keeps in memory: unanswered requests and the last runs.
 * Times are those of this machine, because they are compared with times of journals. So the clocks of all machines must
 * agree.
 */
export function openPgOwnChanges({ database, now = Date.now }: { database: Database; now?: () => number }): OwnChanges {
  const inTransaction = <T>(work: (transaction: Transaction) => Promise<T>) =>
    database.persist(() => database.transaction(work))

  const rowsOf = (session: Session, orderingKey: string) =>
    session.query('SELECT * FROM b24_receiver.own_write WHERE ordering_key = $1 AND sent_at > $2 ORDER BY key', [
      orderingKey,
      now() - lifetime,
    ])

  async function isAlone(session: Session, orderingKey: string): Promise<boolean> {
    const [other] = await session.query(
      'SELECT FROM b24_receiver.own_request WHERE ordering_keys @> ARRAY[$1] AND abs(at - $2) < $3 LIMIT 1',
      [orderingKey, now(), lifetime],
    )
    return other === undefined
  }

  async function add(transaction: Transaction, { change, writer, orderingKey, sentAt, mayEcho }: Added): Promise<void> {
    const { event, isNew, first, last, content } = change
    const others = (await rowsOf(transaction, orderingKey)).filter(
      (row) => Number(row['first']) <= last && Number(row['last']) >= first,
    )
    // One of our writes left the record the same in the same second, so this write changed nothing.
    if (content !== null && others.some((row) => row['content'] === content)) return
    const isTold = content !== null && (await isAlone(transaction, orderingKey))
    const isCertain = isNew || (isTold && others.every((row) => row['content'] !== null))
    await transaction.query(
      `INSERT INTO b24_receiver.own_write (ordering_key, handler, webhook_user, event, sent_at, first, last, certain, content)
       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
      [
        orderingKey,
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
    orderingKey: string,
  ): Promise<Question> {
    const writes = (await rowsOf(session, orderingKey)).map(toOwnWrite)
    return { ...about, writes, isComplete: writes.length === 0 || (await isAlone(session, orderingKey)) }
  }

  return {
    async sending(writer, commands) {
      const orderingKeys = commands.flatMap(
        (one) => orderingKeyOfWrite(writer, writeOf({ ...one, result: undefined })) ?? [],
      )
      // A request that only reads needs no database. The object of an addition is unknown before the answer.
      if (commands.every(({ method }) => isRead(method))) return () => []
      const sentAt = now()
      const [request] = await database.persist(() =>
        database.query('INSERT INTO b24_receiver.own_request (ordering_keys, at) VALUES ($1, $2) RETURNING place', [
          orderingKeys,
          sentAt,
        ]),
      )
      const place = Number(request?.['place'])
      return async (answered) => {
        await inTransaction(async (transaction) => {
          await lockOrderingKeys(
            transaction,
            orderingKeys.map((orderingKey) => ({ handler: written, orderingKey })),
          )
          await transaction.query('DELETE FROM b24_receiver.own_request WHERE place = $1 OR at <= $2', [
            place,
            now() - lifetime,
          ])
          await transaction.query('DELETE FROM b24_receiver.own_run WHERE at < $1', [now() - lifetime])
          // A write from the future was sent before the clock was put back.
          await transaction.query('DELETE FROM b24_receiver.own_write WHERE sent_at <= $1 OR sent_at > $2', [
            now() - lifetime,
            now() + longestRequest,
          ])
          const fired = new Set<string>()
          for (const command of answered) {
            const write = writeOf(command)
            if (write?.event === undefined) continue
            const orderingKey = orderingKeyOfWrite(writer, write)
            const change = readChange(write.event, command, writer.user)
            if (orderingKey === null || change === undefined) continue
            // The event may have come and run before its answer; then no further event will come.
            const [ran] = await transaction.query(
              'SELECT FROM b24_receiver.own_run WHERE handler = $1 AND ordering_key = $2 AND place > $3',
              [textOf(writer.handler), orderingKey, place],
            )
            // Within one hit the portal sends equal events once (rest/lib/event/buffer.php), and a batch is one hit.
            const isAgain = fired.has(`${write.event} ${write.object}`)
            fired.add(`${write.event} ${write.object}`)
            await add(transaction, { change, writer, orderingKey, sentAt, mayEcho: ran === undefined && !isAgain })
          }
        })
        return objectsOf(answered)
      }
    },

    async judge(arrived, readRecord) {
      const orderingKey = orderingKeyOf(arrived.event)
      if (orderingKey === null) return 'run'
      const about = aboutArrived(arrived)
      let lastChange: LastChange | undefined
      const before = await database.persist(() => ask(database, about, orderingKey))
      if (candidatesOf(before).length > 0) lastChange = lastChangeOf(await readRecord().catch(unknownIfRefused))
      return inTransaction(async (transaction) => {
        await lockOrderingKeys(transaction, [{ handler: written, orderingKey }])
        // The second query includes writes made during the read.
        const { verdict, accounted } = judge(await ask(transaction, about, orderingKey), lastChange)
        if (accounted.length > 0)
          await transaction.query(
            'UPDATE b24_receiver.own_write SET accounted = accounted || $1::text WHERE key = ANY($2::bigint[])',
            [about.subscription, accounted.map(({ key }) => key)],
          )
        if (verdict === 'run')
          await transaction.query(
            `INSERT INTO b24_receiver.own_run (handler, ordering_key, at) VALUES ($1, $2, $3)
             ON CONFLICT (handler, ordering_key) DO UPDATE
             SET at = excluded.at, place = nextval('b24_receiver.own_request_place_seq')`,
            [textOf(arrived.handler), orderingKey, now()],
          )
        return verdict
      })
    },

    close: () => undefined,
  }
}

function objectsOf(answered: Parameters<Awaited<ReturnType<OwnChanges['sending']>>>[0]): readonly string[] {
  return [...new Set(answered.flatMap((command) => writeOf(command)?.object ?? []))]
}

function toOwnWrite(row: Row): OwnWrite {
  return {
    key: Number(row['key']),
    handler: String(row['handler']),
    user: String(row['webhook_user']),
    event: typeof row['event'] === 'string' ? row['event'] : undefined,
    sentAt: Number(row['sent_at']),
    first: Number(row['first']),
    last: Number(row['last']),
    isCertain: row['certain'] === true,
    accounted: Array.isArray(row['accounted']) ? row['accounted'].map(String) : [],
  }
}
