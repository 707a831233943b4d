import type { DatabaseSync, SQLInputValue } from 'node:sqlite'
import type { Position } from '../../journal/position.ts'
import { type Row, toHandler, toPosition, toState } from '../delivery-row.ts'
import type { HandlerRecord, QueueState } from '../queue.ts'

/** A finished delivery does not begin again, and a pending delivery has its event. */
const guards = `
  CREATE TRIGGER delivery_ends_once BEFORE UPDATE OF state ON delivery
    WHEN old.state IN ('done', 'coalesced') AND new.state <> old.state BEGIN
      SELECT raise(ABORT, 'a delivery that ended does not begin again');
    END;
  CREATE TRIGGER delivery_keeps_event BEFORE UPDATE OF state, event ON delivery
    WHEN new.event IS NULL AND new.state NOT IN ('done', 'coalesced', 'dead') BEGIN
      SELECT raise(ABORT, 'a pending delivery needs its event');
    END;
  CREATE TRIGGER delivery_has_event BEFORE INSERT ON delivery
    WHEN new.event IS NULL AND new.state NOT IN ('done', 'coalesced', 'dead') BEGIN
      SELECT raise(ABORT, 'a pending delivery needs its event');
    END`

/**
 * A delivery's states: blocked (behind another of its ordering key) → ready → running → done; waiting (for its retry,
 * for quiet, or postponed) → ready; coalesced (into a later one); or dead. `ordering_key` is the unit of order: portal
 * and object, or NULL for none. At most one delivery of an ordering key is ready, running or waiting, so a claim never
 * looks behind the head.
 */
const schema = `
  CREATE TABLE position (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    segment INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    first TEXT -- the id of the segment's first event; NULL until it is known
  ) STRICT;
  CREATE TABLE delivery (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL,
    handler TEXT NOT NULL,
    run INTEGER NOT NULL DEFAULT 1, -- a replay adds another run
    ordering_key TEXT,
    name TEXT NOT NULL, -- the event's name
    event TEXT, -- NULL when done: the journal has it
    segment INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('blocked', 'ready', 'running', 'waiting', 'done', 'coalesced', 'dead')),
    attempts INTEGER NOT NULL DEFAULT 0,
    quarantined INTEGER NOT NULL DEFAULT 0, -- it was running when its process died, so it runs in isolation
    coalesced INTEGER NOT NULL DEFAULT 1, -- how many deliveries it stands for
    coalesced_into INTEGER,
    debounce INTEGER NOT NULL DEFAULT 0, -- milliseconds
    created_at INTEGER NOT NULL,
    first_run_at INTEGER,
    since INTEGER, -- when the wait began
    due INTEGER, -- when the wait ends
    ended_at INTEGER,
    error TEXT,
    postponed INTEGER NOT NULL DEFAULT 0, -- it waits for something to come back, not for its retry nor for quiet
    spent_ms INTEGER NOT NULL DEFAULT 0, -- of RETRY_FOR: runs and waits added up, so that a jump of the clock does not count
    UNIQUE (event_id, handler, run)
  ) STRICT;
  CREATE INDEX delivery_ready ON delivery (handler, key) WHERE state = 'ready';
  CREATE INDEX delivery_due ON delivery (due) WHERE state = 'waiting';
  CREATE INDEX delivery_since ON delivery (since) WHERE state = 'waiting';
  CREATE INDEX delivery_running ON delivery (key) WHERE state = 'running';
  CREATE INDEX delivery_quarantined ON delivery (key) WHERE quarantined = 1 AND state = 'ready';
  CREATE INDEX delivery_head ON delivery (handler, ordering_key) WHERE state IN ('ready', 'running', 'waiting');
  CREATE INDEX delivery_blocked ON delivery (handler, ordering_key, key) WHERE state = 'blocked';
  CREATE INDEX delivery_ended ON delivery (segment) WHERE state IN ('done', 'coalesced');
  CREATE INDEX delivery_dead ON delivery (key) WHERE state = 'dead';
  ${guards};
  CREATE TABLE failure (delivery INTEGER NOT NULL, attempt INTEGER NOT NULL, at INTEGER NOT NULL, error TEXT NOT NULL) STRICT;
  CREATE INDEX failure_delivery ON failure (delivery);
  CREATE TRIGGER delivery_forgotten AFTER DELETE ON delivery BEGIN
    DELETE FROM failure WHERE delivery = old.key;
  END;
  CREATE TABLE handler (
    name TEXT PRIMARY KEY,
    events TEXT, -- a list; like the columns below, NULL until the handler is loaded again
    ordered TEXT,
    debounce INTEGER,
    loaded_at INTEGER
  ) STRICT;
  CREATE TABLE own_write (
    key INTEGER PRIMARY KEY,
    ordering_key TEXT NOT NULL,
    handler TEXT NOT NULL,
    user TEXT NOT NULL,
    event TEXT, -- the name of the event that it fires; NULL if it is not expected
    sent_at INTEGER NOT NULL, -- milliseconds, our clock
    first INTEGER NOT NULL, -- seconds, the portal's clock
    last INTEGER NOT NULL,
    certain INTEGER NOT NULL,
    content TEXT, -- a hash of the record after the write
    accounted TEXT NOT NULL DEFAULT '[]'
  ) STRICT;
  CREATE INDEX own_write_ordering_key ON own_write (ordering_key);
  CREATE INDEX own_write_sent ON own_write (sent_at);
  CREATE TABLE snapshot (
    handler TEXT NOT NULL,
    ordering_key TEXT NOT NULL,
    fields TEXT NOT NULL, -- an object: field to text
    dirty INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (handler, ordering_key)
  ) STRICT, WITHOUT ROWID`

/** The steps from each version to the next, from the first that was deployed anywhere. */
const oldest = 7
const upgrades = [
  'ALTER TABLE position ADD COLUMN first TEXT',
  // A row that ended has no event any more. An ended row that was revived by mistake gets an unreadable text, so that
  // its event is looked up in the journal before its run.
  `UPDATE delivery SET event = '' WHERE event IS NULL AND state NOT IN ('done', 'coalesced', 'dead');
   ${guards}`,
  'ALTER TABLE delivery ADD COLUMN spent_ms INTEGER NOT NULL DEFAULT 0',
  `ALTER TABLE delivery RENAME COLUMN lane TO ordering_key;
   ALTER TABLE delivery RENAME COLUMN suspect TO quarantined;
   ALTER TABLE delivery RENAME COLUMN settle TO debounce;
   ALTER TABLE handler RENAME COLUMN settle TO debounce;
   ALTER TABLE own_write RENAME COLUMN lane TO ordering_key;
   ALTER TABLE seen RENAME TO snapshot;
   ALTER TABLE snapshot RENAME COLUMN lane TO ordering_key;
   ALTER TABLE snapshot RENAME COLUMN doubt TO dirty;
   DROP INDEX delivery_suspect;
   CREATE INDEX delivery_quarantined ON delivery (key) WHERE quarantined = 1 AND state = 'ready';
   DROP INDEX own_write_lane;
   CREATE INDEX own_write_ordering_key ON own_write (ordering_key)`,
]

const version = oldest + upgrades.length

function versionOf(db: DatabaseSync): number {
  return Number(db.prepare('PRAGMA user_version').get()?.['user_version'])
}

/** Whether this version wrote the file. */
export function isCurrent(db: DatabaseSync): boolean {
  return versionOf(db) === version
}

/**
 * Runs inside the caller's transaction.
 *
 * @throws if another version wrote the file, and this one cannot read it
 */
export function migrate(db: DatabaseSync, path: string): void {
  const found = versionOf(db)
  if (found === version) return
  if (found > version)
    throw new Error(
      `${path} was written by a newer version of the receiver (${found}; this one knows ${version}): start that one`,
    )
  if (found > 0 && found < oldest)
    throw new Error(`${path} is of version ${found}, which was never released: ${oldest} to ${version} can be read`)
  for (const step of found === 0 ? [schema] : upgrades.slice(found - oldest)) db.exec(step)
  db.exec(`PRAGMA user_version = ${version}`)
}

/**
 * Node's SQLite also binds inherited properties, so a property that a handler adds to Object.prototype would break a
 * statement.
 */
export function bare<T extends object>(parameters: T): T {
  return Object.assign(Object.create(null), parameters)
}

/** Inserts rows of any columns, all with those of the first. A row that conflicts with an existing one is skipped. */
export function insertRows(db: DatabaseSync, table: string, rows: readonly Row[]): void {
  const names = Object.keys(rows[0] ?? {})
  if (names.length === 0) return
  const places = names.map(() => '?').join(', ')
  const insert = db.prepare(`INSERT INTO ${table} (${names.join(', ')}) VALUES (${places}) ON CONFLICT DO NOTHING`)
  // Postgres returns `bigint` as text, which SQLite converts, and `boolean`, which SQLite refuses.
  const toValue = (value: unknown) => (typeof value === 'boolean' ? Number(value) : (value as SQLInputValue))
  for (const row of rows) insert.run(...names.map((name) => toValue(row[name] ?? null)))
}

/** Allows one writer at a time. Commits all of the work or none of it. */
export function inTransaction<T>(db: DatabaseSync, work: () => T): T {
  db.exec('BEGIN IMMEDIATE')
  try {
    const result = work()
    db.exec('COMMIT')
    return result
  } catch (error) {
    // SQLite has already rolled back if the disk failed.
    if (db.isTransaction) db.exec('ROLLBACK')
    throw error
  }
}

export function readPosition(db: DatabaseSync): Position | undefined {
  const row = db.prepare('SELECT segment, offset, first FROM position').get()
  return row && toPosition(row)
}

/** The handlers that ever ran, from a file of any version, without migrating it. */
export function readKnownHandlers(db: DatabaseSync): string[] {
  const tables = db.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").all()
  const has = (name: string) => tables.some((table) => table['name'] === name)
  if (!has('delivery')) return []
  const query = has('handler') ? 'SELECT name FROM handler' : 'SELECT DISTINCT handler AS name FROM delivery'
  const rows = db.prepare(`${query} ORDER BY name`).all()
  return rows.map((row) => String(row['name']))
}

/** In the order of their names. */
export function readHandlers(db: DatabaseSync): HandlerRecord[] {
  return db
    .prepare(`
      SELECT known.*,
        (SELECT count(*) FROM delivery WHERE handler = known.name AND state = 'blocked') +
        (SELECT count(*) FROM delivery WHERE handler = known.name AND state IN ('ready', 'running', 'waiting')) AS pending,
        (SELECT count(*) FROM delivery WHERE handler = known.name AND state = 'dead') AS dead
      FROM handler AS known ORDER BY known.name`)
    .all()
    .map(toHandler)
}

/**
 * Counts through the partial indexes, so finished deliveries cost nothing, however many there are. The oldest pending
 * delivery is the head of its ordering key. An index for it would make each change of a state cost more than all the
 * other indexes do.
 */
export function readState(db: DatabaseSync): QueueState {
  const row = db
    .prepare(`SELECT
      (SELECT count(*) FROM delivery WHERE state = 'ready') AS ready,
      (SELECT count(*) FROM delivery WHERE state = 'running') AS running,
      (SELECT count(*) FROM delivery WHERE state = 'waiting') AS waiting,
      (SELECT count(*) FROM delivery WHERE state = 'blocked') AS blocked,
      (SELECT count(*) FROM delivery WHERE state = 'dead') AS dead,
      (SELECT created_at FROM delivery WHERE key = (SELECT min(key) FROM (
        SELECT min(key) AS key FROM delivery WHERE state = 'ready'
        UNION ALL SELECT min(key) FROM delivery WHERE state = 'running'
        UNION ALL SELECT min(key) FROM delivery WHERE state = 'waiting'))) AS oldest`)
    .get()
  return toState(row)
}
