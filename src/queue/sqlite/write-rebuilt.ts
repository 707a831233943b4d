import { DatabaseSync } from 'node:sqlite'
import type { Row } from '../delivery-row.ts'
import { readNames, readSnapshotFields } from '../stored.ts'
import { openSqliteQueue } from './queue.ts'
import type { Plan } from './rebuild.ts'
import type { Salvage } from './salvage.ts'
import { insertRows, inTransaction } from './schema.ts'

/** Writes the plan, and the other readable data, into a new file. */
export function writeRebuilt(path: string, plan: Plan, found: Salvage): void {
  const { position } = plan
  const queue = openSqliteQueue({ path })
  if (position) void queue.add([], position)
  void queue.close()
  const db = new DatabaseSync(path)
  try {
    inTransaction(db, () => fill(db, plan, found))
    db.exec('PRAGMA wal_checkpoint(TRUNCATE)')
  } finally {
    db.close()
  }
}

/** Values of columns that an older version does not have. */
const defaults = new Map([
  ['coalesced', 1],
  ...['quarantined', 'postponed', 'debounce', 'spent_ms'].map((name) => [name, 0] as const),
])

function fill(db: DatabaseSync, { rows, again }: Plan, found: Salvage): void {
  const columns = db
    .prepare("SELECT name FROM pragma_table_info('delivery')")
    .all()
    .map(({ name }) => String(name))
  const keys = new Map(rows.flatMap(({ key }, at) => (key === undefined ? [] : [[key, at + 1] as const])))
  insertRows(
    db,
    'delivery',
    rows.map(({ values }, at) => {
      const row: Row = { ...values, key: at + 1, coalesced_into: keys.get(Number(values['coalesced_into'])) }
      return Object.fromEntries(columns.map((name) => [name, row[name] ?? defaults.get(name)]))
    }),
  )
  insertRows(
    db,
    'failure',
    found.failures
      .map(({ delivery, attempt, at, error }) => ({ delivery: keys.get(Number(delivery)), attempt, at, error }))
      .filter(
        ({ delivery, attempt, at, error }) =>
          delivery !== undefined && typeof error === 'string' && [at, attempt].every(Number.isSafeInteger),
      ),
  )
  const number = (value: unknown) => (Number.isSafeInteger(value) ? value : null)
  insertRows(db, 'handler', [
    ...found.handlers
      .filter(({ name }) => typeof name === 'string' && name !== '')
      .map(({ name, events, ordered, debounce, loaded_at }) => ({
        name,
        events: readNames(events) ? events : null,
        ordered: ordered === 'object' || ordered === 'none' ? ordered : null,
        debounce: number(debounce),
        loaded_at: number(loaded_at),
      })),
    // A handler without a file must still be listed.
    ...rows.map(({ values }) => ({ name: values['handler'] })),
  ])
  // Deliveries that run again may have changed the object, so a snapshot must not count as unchanged.
  const isDoubtful = again.length > 0 || !found.isWhole
  insertRows(
    db,
    'snapshot',
    found.snapshots
      .filter((one) => [one['handler'], one['ordering_key']].every((text) => typeof text === 'string'))
      .filter(({ fields }) => readSnapshotFields(fields) !== undefined)
      .map(({ handler, ordering_key, fields, dirty }) => ({
        handler,
        ordering_key,
        fields,
        dirty: isDoubtful || dirty !== 0,
      })),
  )
}
