import { DatabaseSync, type SQLOutputValue } from 'node:sqlite'

export type Row = Readonly<Record<string, SQLOutputValue>>

/**
 * The columns of a delivery that its index repeats. An index is in another place of the file, so either of the two may
 * survive the other.
 */
export interface Named {
  readonly event: string
  readonly handler: string
  readonly run: number
}

/** The readable data of a damaged `dispatch.db`. */
export interface Salvage {
  /** By key. */
  readonly deliveries: ReadonlyMap<number, Row>
  /** By key, from the index of all deliveries. */
  readonly named: ReadonlyMap<number, Named>
  /** Keys that are, or may be, on unreadable pages. */
  readonly lost: readonly number[]
  readonly position: Row | undefined
  /** Whether every table could be read completely. */
  readonly isWhole: boolean
  readonly handlers: readonly Row[]
  readonly failures: readonly Row[]
  readonly snapshots: readonly Row[]
}

/** Keys per query. A query that fails is halved until the damaged page is found. */
const rangeSize = 4_096

/** How many keys to try behind the last known one if their number is unknown: some pages of rows. */
const keysBehind = 1_000

/**
 * @param path of a copy, because reading may write to it
 * @returns `undefined` if not even the list of tables can be read
 */
export function salvage(path: string): Salvage | undefined {
  const db = new DatabaseSync(path)
  try {
    if (attempt(() => db.prepare('SELECT 1 FROM delivery LIMIT 0').all()) === undefined) return undefined
    const named = readIndex(db)
    const last = Math.max(
      0,
      Number(attempt(() => db.prepare("SELECT seq FROM sqlite_sequence WHERE name = 'delivery'").get())?.['seq'] ?? 0),
      // Math.max(…keys) accepts only some 100,000 arguments.
      [...named.keys()].reduce((max, key) => Math.max(max, key), 0),
    )
    const deliveries = readTable(db, 'delivery', 'key', last)
    const failures = readTable(db, 'failure', 'rowid')
    const handlers = readTable(db, 'handler', 'rowid')
    // This table has no row numbers.
    const snapshots = new Map<string, Row>()
    const from = 'SELECT handler, ordering_key, fields, dirty FROM snapshot'
    const areSnapshotsWhole = readFromBothEnds(db, from, ['handler', 'ordering_key'], (row) =>
      snapshots.set(JSON.stringify([row['handler'], row['ordering_key']]), row),
    )
    return {
      deliveries: new Map(deliveries.rows.map((row) => [Number(row['key']), row])),
      named,
      lost: deliveries.lost,
      position: attempt(() => db.prepare('SELECT segment, offset FROM position').get()),
      isWhole: areSnapshotsWhole && [deliveries, handlers, failures].every(({ lost }) => lost.length === 0),
      handlers: handlers.rows,
      failures: failures.rows,
      snapshots: [...snapshots.values()],
    }
  } finally {
    db.close()
  }
}

/** Unreadable data throws different errors: those of SQLite, and one for a number that is too large. */
function attempt<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch {
    return undefined
  }
}

/** Reads all readable rows, around the unreadable ones. */
function readTable(db: DatabaseSync, table: string, key: string, known = 0): { rows: Row[]; lost: number[] } {
  const rows: Row[] = []
  const lost: number[] = []
  const range = attempt(() =>
    db.prepare(`SELECT *, ${key} AS key FROM ${table} NOT INDEXED WHERE ${key} BETWEEN ? AND ? ORDER BY ${key}`),
  )
  if (range === undefined) return { rows, lost: [0] }
  const end = (order: 'ASC' | 'DESC') =>
    Number(
      attempt(() => db.prepare(`SELECT ${key} AS key FROM ${table} NOT INDEXED ORDER BY ${key} ${order}`).get())?.[
        'key'
      ],
    )
  const [first, last] = [end('ASC'), end('DESC')]

  function scan(from: number, to: number): void {
    const found = attempt(() => range?.all(from, to))
    if (found) rows.push(...found.filter((row) => Number(row['key']) >= from && Number(row['key']) <= to))
    else if (from === to) lost.push(from)
    else {
      const middle = Math.floor((from + to) / 2)
      scan(from, middle)
      scan(middle + 1, to)
    }
  }

  const start = Number.isNaN(first) ? 1 : first
  // If the last page cannot be read, its rows are unknown.
  let limit = Math.max(known, Number.isNaN(last) ? 0 : last)
  if (Number.isNaN(last) && known === 0) limit = start + keysBehind
  for (let from = start; from <= limit; from += rangeSize) scan(from, Math.min(limit, from + rangeSize - 1))
  return { rows, lost }
}

/** Reads the index alone, which has all of these columns, so the table is not needed. */
function readIndex(db: DatabaseSync): Map<number, Named> {
  const index = attempt(() =>
    db.prepare("SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'delivery' AND sql IS NULL").get(),
  )?.['name']
  const found = new Map<number, Named>()
  const from = `SELECT key, event_id, handler, run FROM delivery INDEXED BY ${JSON.stringify(String(index))}`
  readFromBothEnds(db, from, ['event_id', 'handler', 'run'], ({ key, event_id, handler, run }) => {
    if (typeof event_id === 'string' && typeof handler === 'string')
      found.set(Number(key), { event: event_id, handler, run: Number(run) })
  })
  return found
}

/** Reads in both directions, each as far as possible. Returns whether nothing was unreadable. */
function readFromBothEnds(db: DatabaseSync, from: string, by: readonly string[], visit: (row: Row) => void): boolean {
  const isWhole = ['ASC', 'DESC'].map((order) =>
    attempt(() => {
      const rows = db.prepare(`${from} ORDER BY ${by.map((column) => `${column} ${order}`).join(', ')}`).iterate()
      for (const row of rows) visit({ ...row })
      return true
    }),
  )
  return !isWhole.includes(undefined)
}
