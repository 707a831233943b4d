import type { JournalledEvent } from '../../journal/follow.ts'
import { laneOf } from '../../events/ordering-key.ts'
import type { Session, Transaction } from './database.ts'
import { textOf } from './ordering.ts'
import type { Seen, SeenFields } from '../queue.ts'
import { readSeenFields } from '../stored.ts'

/** What is kept of an object for a handler with `onChange`, see `Queue`. */
export interface About {
  readonly handler: string
  readonly event: JournalledEvent
}

export async function readSeen(session: Session, { handler, event }: About): Promise<Seen | undefined> {
  const [row] = await session.query('SELECT fields, doubt FROM b24_receiver.seen WHERE handler = $1 AND lane = $2', [
    textOf(handler),
    laneOf(event),
  ])
  if (row === undefined) return undefined
  const fields = readSeenFields(row['fields'])
  // What nobody can read is not taken for unchanged.
  return { fields: fields ?? {}, isInDoubt: fields === undefined || row['doubt'] === true }
}

export async function doubtSeen(session: Session, { handler, event }: About): Promise<void> {
  await session.query('UPDATE b24_receiver.seen SET doubt = true WHERE handler = $1 AND lane = $2', [
    textOf(handler),
    laneOf(event),
  ])
}

/** @param told of each the fields, or `null` where nothing is to be kept */
export async function keepSeen(
  transaction: Transaction,
  told: readonly { readonly about: About; readonly seen: SeenFields | null }[],
): Promise<void> {
  if (told.length === 0) return
  const rows = told.map(({ about: { handler, event }, seen }) => ({
    handler: textOf(handler),
    lane: laneOf(event),
    fields: seen && JSON.stringify(seen),
  }))
  await transaction.query(
    `WITH told AS (
       SELECT * FROM json_to_recordset($1::text::json) AS told (handler text, lane text, fields text)
       WHERE lane IS NOT NULL
     ),
     dropped AS (
       DELETE FROM b24_receiver.seen USING told
       WHERE seen.handler = told.handler AND seen.lane = told.lane AND told.fields IS NULL
     )
     INSERT INTO b24_receiver.seen (handler, lane, fields)
     SELECT handler, lane, fields FROM told WHERE fields IS NOT NULL
     ON CONFLICT (handler, lane) DO UPDATE SET fields = excluded.fields, doubt = false`,
    [JSON.stringify(rows)],
  )
}
