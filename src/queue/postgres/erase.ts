import { type ObjectSelection, RunNotEnded } from '../deliveries.ts'
import { channel } from './queue.ts'
import type { Database, Row, Session } from './database.ts'
import type { Jobs } from './jobs.ts'
import { isAbout, isLaneOf, needlesOf } from '../stored.ts'

export interface ErasePgParts {
  readonly database: Database
  readonly jobs: Jobs
  readonly about: ObjectSelection
  readonly at: number | null
}

/** Of the deliveries about an object. */
export async function rowsAbout(session: Session, about: ObjectSelection): Promise<readonly Row[]> {
  const { inLane, inEvent } = needlesOf(about.object)
  const rows = await session.query(
    `SELECT * FROM b24_receiver.delivery
     WHERE strpos(lane, $1) > 0 OR strpos(event, $2) > 0 OR event_id = ANY($3) ORDER BY key`,
    [inLane, inEvent, about.events],
  )
  return rows.filter((row) => isAbout(row, about))
}

/** @returns how many were dropped @throws {RunNotEnded} */
export async function erasePg({ database, jobs, about, at }: ErasePgParts): Promise<number> {
  const count = await database.transaction(async (transaction) => {
    const laned = (await rowsAbout(transaction, about)).filter(({ lane }) => lane !== null)
    await transaction.query(
      "SELECT b24_receiver.lock_lanes((SELECT array_agg(handler || ' ' || lane) FROM unnest($1::text[], $2::text[]) AS one (handler, lane)))",
      [laned.map(({ handler }) => handler), laned.map(({ lane }) => lane)],
    )
    const keys = (await rowsAbout(transaction, about)).map(({ key }) => key)
    const rows = await transaction.query(
      'SELECT * FROM b24_receiver.delivery WHERE key = ANY($1::bigint[]) ORDER BY key FOR UPDATE',
      [keys],
    )
    const running = rows.find(({ state }) => state === 'running')
    if (running) throw new RunNotEnded({ handler: String(running['handler']), event: String(running['event_id']) })
    const ended = rows.filter(({ state }) => state === 'done' || state === 'coalesced')
    const dropped = rows.filter((row) => !ended.includes(row))
    const keysOf = (some: readonly Row[]) => some.map(({ key }) => key)
    await transaction.query('DELETE FROM b24_receiver.delivery WHERE key = ANY($1::bigint[])', [keysOf(dropped)])
    await jobs.remove(
      transaction,
      dropped.filter(({ job }) => job !== null).map(({ handler, job }) => jobs.addressOf(String(handler), String(job))),
    )
    await transaction.query('DELETE FROM b24_receiver.failure WHERE delivery = ANY($1::bigint[])', [keysOf(ended)])
    await transaction.query('UPDATE b24_receiver.delivery SET error = NULL WHERE key = ANY($1::bigint[])', [
      keysOf(ended),
    ])
    for (const table of ['seen', 'own_write']) {
      const found = await transaction.query(
        `SELECT DISTINCT lane FROM b24_receiver.${table} WHERE strpos(lane, $1) > 0`,
        [needlesOf(about.object).inLane],
      )
      const lanes = found.map(({ lane }) => lane).filter((lane) => isLaneOf(lane, about))
      await transaction.query(`DELETE FROM b24_receiver.${table} WHERE lane = ANY($1)`, [lanes])
    }
    // What came after it may wait behind what is gone.
    const freed = dropped.filter(({ lane }) => lane !== null)
    const ready = await transaction.query('SELECT * FROM b24_receiver.promote($1, $2, $3)', [
      freed.map(({ handler }) => handler),
      freed.map(({ lane }) => lane),
      at,
    ])
    await jobs.issue(transaction, ready)
    await transaction.query(`NOTIFY ${channel}`)
    return dropped.length
  })
  // Of rows that are gone the table's file still has the text until then.
  for (const table of ['delivery', 'failure', 'seen', 'own_write']) await database.query(`VACUUM b24_receiver.${table}`)
  return count
}
