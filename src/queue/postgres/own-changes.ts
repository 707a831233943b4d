import type { Row } from '../delivery-row.ts'
import {
  type About,
  createOwnChanges,
  type Known,
  lifetimeMs,
  maxRequestMs,
  type NewWrite,
  type OwnChangeStore,
  type OwnChanges,
  toStoredWrite,
} from '../own-changes.ts'
import { textOf } from '../stored.ts'
import { lockOrderingKeys } from './ordering.ts'
import type { Database, Session, Transaction } from './session.ts'

/**
 * Locks are named after a handler and an ordering key. A written object belongs to no handler, so its lock uses this
 * name.
 */
const written = 'written'

export interface PgOwnChangesDeps {
  readonly database: Database
  readonly now?: () => number
}

/**
 * All workers share the requests and the runs. Times are those of this machine, because they are compared with times of
 * journals. So the clocks of all machines must agree.
 */
export function openPgOwnChanges({ database: { persistent }, now = Date.now }: PgOwnChangesDeps): OwnChanges {
  /** @param work is called with the objects locked */
  const inTransaction = <T>({ orderingKeys }: About, work: (transaction: Transaction) => Promise<T>) =>
    persistent.transaction(async (transaction) => {
      await lockOrderingKeys(
        transaction,
        orderingKeys.map((orderingKey) => ({ handler: written, orderingKey })),
      )
      return work(transaction)
    })

  const store: OwnChangeStore = {
    async begin(orderingKeys, at) {
      const [request] = await persistent.query(
        'INSERT INTO b24_receiver.own_request (ordering_keys, at) VALUES ($1, $2) RETURNING place',
        [orderingKeys, at],
      )
      return Number(request?.['place'])
    },
    end: (place, about, plan) =>
      inTransaction(about, async (transaction) => {
        const oldest = about.at - lifetimeMs
        await transaction.query('DELETE FROM b24_receiver.own_request WHERE place = $1 OR at <= $2', [place, oldest])
        await transaction.query('DELETE FROM b24_receiver.own_run WHERE at < $1', [oldest])
        await transaction.query('DELETE FROM b24_receiver.own_write WHERE sent_at <= $1 OR sent_at > $2', [
          oldest,
          about.at + maxRequestMs,
        ])
        const writes = plan(await readKnown(transaction, about))
        if (writes.length > 0) await addWrites(transaction, writes)
      }),
    read: (about) => readKnown(persistent, about),
    decide: (about, subscription, judge) =>
      inTransaction(about, async (transaction) => {
        const judgement = judge(await readKnown(transaction, about))
        const { verdict, accounted } = judgement
        if (accounted.length > 0)
          await transaction.query(
            'UPDATE b24_receiver.own_write SET accounted = accounted || $1::text WHERE key = ANY($2::bigint[])',
            [subscription, accounted.map(({ key }) => key)],
          )
        if (verdict === 'run')
          await transaction.query(
            `INSERT INTO b24_receiver.own_run (handler, ordering_key, at) SELECT $1, unnest($2::text[]), $3
             ON CONFLICT (handler, ordering_key) DO UPDATE
             SET at = excluded.at, place = nextval('b24_receiver.own_request_place_seq')`,
            [textOf(about.handler), about.orderingKeys, about.at],
          )
        return judgement
      }),
    close: () => undefined,
  }
  return createOwnChanges(store, now)
}

async function readKnown(session: Session, { handler, orderingKeys, at }: About): Promise<Known> {
  const [row] = await session.query(
    `SELECT
       ARRAY(SELECT to_json(one) FROM b24_receiver.own_write AS one
         WHERE ordering_key = ANY($1) AND sent_at > $2::bigint - $3 ORDER BY key) AS writes,
       ARRAY(SELECT unnest(ordering_keys) FROM b24_receiver.own_request
         WHERE ordering_keys && $1 AND abs(at - $2) < $3) AS busy,
       ARRAY(SELECT json_build_array(ordering_key, place) FROM b24_receiver.own_run
         WHERE handler = $4 AND ordering_key = ANY($1)) AS runs`,
    [orderingKeys, at, lifetimeMs, textOf(handler)],
  )
  const list = (name: string): Row[] => (Array.isArray(row?.[name]) ? row[name] : [])
  return {
    writes: list('writes').map((write) => toStoredWrite(write, write['accounted'] as string[])),
    busy: list('busy').map(String),
    lastRuns: new Map(list('runs').map((run) => [String(run[0]), Number(run[1])])),
  }
}

async function addWrites(transaction: Transaction, writes: readonly NewWrite[]): Promise<void> {
  const rows = writes.map(({ orderingKey, handler, user, sentAt, isCertain, ...same }) => ({
    ...same,
    ordering_key: orderingKey,
    handler: textOf(handler),
    webhook_user: user,
    sent_at: sentAt,
    certain: isCertain,
  }))
  await transaction.query(
    `INSERT INTO b24_receiver.own_write (ordering_key, handler, webhook_user, event, sent_at, first, last, certain, content)
     SELECT ordering_key, handler, webhook_user, event, sent_at, first, last, certain, content
     FROM json_populate_recordset(NULL::b24_receiver.own_write, $1::text::json)`,
    [JSON.stringify(rows)],
  )
}
