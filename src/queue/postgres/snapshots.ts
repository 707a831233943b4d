import type { JournalledEvent } from '../../events/event.ts'
import { orderingKeyOf } from '../../events/ordering-key.ts'
import { toSnapshot } from '../delivery-row.ts'
import type { Snapshot, SnapshotFields } from '../queue.ts'
import { textOf } from '../stored.ts'
import type { Session, Transaction } from './session.ts'

/** The key of a snapshot that a handler with `onChange` has of an object, see `Queue`. */
export interface About {
  readonly handler: string
  readonly event: JournalledEvent
}

export async function readSnapshot(session: Session, { handler, event }: About): Promise<Snapshot | undefined> {
  const [row] = await session.query(
    'SELECT fields, dirty FROM b24_receiver.snapshot WHERE handler = $1 AND ordering_key = $2',
    [textOf(handler), orderingKeyOf(event)],
  )
  return row && toSnapshot(row)
}

export async function markDirty(session: Session, { handler, event }: About): Promise<void> {
  await session.query('UPDATE b24_receiver.snapshot SET dirty = true WHERE handler = $1 AND ordering_key = $2', [
    textOf(handler),
    orderingKeyOf(event),
  ])
}

/** @param changes the fields of each snapshot, or `null` to drop it */
export async function keepSnapshots(
  transaction: Transaction,
  changes: readonly { readonly about: About; readonly snapshot: SnapshotFields | null }[],
): Promise<void> {
  if (changes.length === 0) return
  const rows = changes.map(({ about: { handler, event }, snapshot }) => ({
    handler: textOf(handler),
    ordering_key: orderingKeyOf(event),
    fields: snapshot && JSON.stringify(snapshot),
  }))
  await transaction.query(
    `WITH changes AS (
       SELECT * FROM json_to_recordset($1::text::json) AS changes (handler text, ordering_key text, fields text)
       WHERE ordering_key IS NOT NULL
     ),
     dropped AS (
       DELETE FROM b24_receiver.snapshot USING changes
       WHERE snapshot.handler = changes.handler AND snapshot.ordering_key = changes.ordering_key AND changes.fields IS NULL
     )
     INSERT INTO b24_receiver.snapshot (handler, ordering_key, fields)
     SELECT handler, ordering_key, fields FROM changes WHERE fields IS NOT NULL
     ON CONFLICT (handler, ordering_key) DO UPDATE SET fields = excluded.fields, dirty = false`,
    [JSON.stringify(rows)],
  )
}
