import { DatabaseSync, type SQLOutputValue } from 'node:sqlite'

export type Row = Readonly<Record<string, SQLOutputValue>>

/** What of a delivery its index repeats; an index is another place of the file, so one of the two may outlive the other. */
export interface Named {
  readonly event: string
  readonly handler: string
  readonly run: number
}

/** What is still readable of a damaged `dispatch.db`. */
export interface Salvage {
  readonly version: number
  /** By key. */
  readonly deliveries: ReadonlyMap<number, Row>
  /** By key, from the index of all deliveries. */
  readonly named: ReadonlyMap<number, Named>
  /** Keys that stand, or may stand, on pages that cannot be read. */
  readonly lost: readonly number[]
  readonly position: Row | undefined
  /** Which of the tables could be read whole; a table that is `false` gave what it could. */
  readonly whole: Readonly<Record<'delivery' | 'handler' | 'failure' | 'seen', boolean>>
  readonly handlers: readonly Row[]
  readonly failures: readonly Row[]
  readonly seen: readonly Row[]
}

/** Keys of one query: one that fails is halved until the bad page is found. */
const rangeSize = 4_096

/** So many keys are looked for behind the last that is known, where nothing says how many there were: some pages of rows. */
const keysBehind = 1_000

/** @param path of a copy: reading may write to it. `undefined` when not even the list of tables can be read */
export function salvage(path: string): Salvage | undefined {
  const db = new DatabaseSync(path)
  try {
    const version = Number(attempt(() => db.prepare('PRAGMA user_version').get())?.['user_version'])
    if (attempt(() => db.prepare('SELECT 1 FROM delivery LIMIT 0').all()) === undefined) return undefined
    const named = readIndex(db)
    const last = Math.max(
      0,
      Number(attempt(() => db.prepare("SELECT seq FROM sqlite_sequence WHERE name = 'delivery'").get())?.['seq'] ?? 0),
      // Not Math.max(…keys): it takes no more than some 100,000.
      [...named.keys()].reduce((most, key) => Math.max(most, key), 0),
    )
    const deliveries = readTable(db, 'delivery', 'key', last)
    const failures = readTable(db, 'failure', 'rowid')
    const handlers = readTable(db, 'handler', 'rowid')
    const seen = readOrdered(db, 'seen', 'handler, lane', ['handler', 'lane', 'fields', 'doubt'])
    return {
      version,
      deliveries: new Map(deliveries.rows.map((row) => [Number(row['key']), row])),
      named,
      lost: deliveries.lost,
      position: attempt(() => db.prepare('SELECT segment, offset FROM position').get()),
      whole: {
        delivery: deliveries.lost.length === 0,
        handler: handlers.lost.length === 0,
        failure: failures.lost.length === 0,
        seen: seen.isWhole,
      },
      handlers: handlers.rows,
      failures: failures.rows,
      seen: seen.rows,
    }
  } finally {
    db.close()
  }
}

/** What cannot be read throws in many ways: SQLite's own, and a number that is too large to be one. */
function attempt<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch {
    return undefined
  }
}

/** All rows that can be read, around those that cannot. */
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
  // Where the last page cannot be read nothing says what stands on it.
  let limit = Math.max(known, Number.isNaN(last) ? 0 : last)
  if (Number.isNaN(last) && known === 0) limit = start + keysBehind
  for (let from = start; from <= limit; from += rangeSize) scan(from, Math.min(limit, from + rangeSize - 1))
  return { rows, lost }
}

/** The index by itself holds these columns, so its table is not read. It is read from both ends, as far as it goes. */
function readIndex(db: DatabaseSync): Map<number, Named> {
  const index = attempt(() =>
    db.prepare("SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'delivery' AND sql IS NULL").get(),
  )?.['name']
  const found = new Map<number, Named>()
  for (const order of ['ASC', 'DESC'])
    attempt(() => {
      const rows = db
        .prepare(
          `SELECT key, event_id, handler, run FROM delivery INDEXED BY ${JSON.stringify(String(index))}
           ORDER BY event_id ${order}, handler ${order}, run ${order}`,
        )
        .iterate()
      for (const { key, event_id, handler, run } of rows)
        if (typeof event_id === 'string' && typeof handler === 'string')
          found.set(Number(key), { event: event_id, handler, run: Number(run) })
    })
  return found
}

/** A table without row numbers, from both ends, as far as it goes. */
function readOrdered(db: DatabaseSync, table: string, key: string, columns: readonly string[]) {
  const found = new Map<string, Row>()
  let isWhole = true
  for (const order of ['ASC', 'DESC']) {
    const by = key.split(', ').map((column) => `${column} ${order}`)
    const isRead = attempt(() => {
      const rows = db.prepare(`SELECT ${columns.join(', ')} FROM ${table} ORDER BY ${by.join(', ')}`).iterate()
      for (const row of rows) found.set(JSON.stringify([row['handler'], row['lane']]), { ...row })
      return true
    })
    isWhole &&= isRead === true
  }
  return { rows: [...found.values()], isWhole }
}
