import type { DatabaseSync } from 'node:sqlite'
import type { Position } from '../../journal/follow.ts'
import type { QueueState } from '../queue.ts'

/**
 * What made each version out of the one before.
 *
 * A delivery's way: blocked (behind another of its lane) → ready → running → done; waiting (for its retry, for quiet, or
 * postponed) → ready; coalesced (into a later one); or dead. `lane` is the unit of order, portal and object; NULL means none. Of a
 * lane at most one is ready, running or waiting, so claiming never has to look behind the head.
 */
const migrations = [
  `CREATE TABLE position (one INTEGER PRIMARY KEY CHECK (one = 1), segment INTEGER NOT NULL, offset INTEGER NOT NULL) STRICT;
   CREATE TABLE delivery (
     key INTEGER PRIMARY KEY AUTOINCREMENT,
     event_id TEXT NOT NULL,
     handler TEXT NOT NULL,
     lane TEXT,
     event TEXT,
     state TEXT NOT NULL CHECK (state IN ('blocked', 'ready', 'running', 'waiting', 'done', 'dead')),
     attempts INTEGER NOT NULL DEFAULT 0,
     created_at INTEGER NOT NULL,
     due INTEGER,
     error TEXT,
     UNIQUE (event_id, handler)
   ) STRICT`,
  `ALTER TABLE delivery RENAME TO delivery_1;
   CREATE TABLE delivery (
     key INTEGER PRIMARY KEY AUTOINCREMENT,
     event_id TEXT NOT NULL,
     handler TEXT NOT NULL,
     run INTEGER NOT NULL DEFAULT 1, -- a replay adds another
     lane TEXT,
     name TEXT NOT NULL, -- the event's
     event TEXT, -- NULL when done: the journal has it
     segment INTEGER NOT NULL,
     state TEXT NOT NULL CHECK (state IN ('blocked', 'ready', 'running', 'waiting', 'done', 'coalesced', 'dead')),
     attempts INTEGER NOT NULL DEFAULT 0,
     suspect INTEGER NOT NULL DEFAULT 0, -- it ran when its process died
     coalesced INTEGER NOT NULL DEFAULT 1, -- deliveries it stands for
     coalesced_into INTEGER,
     settle INTEGER NOT NULL DEFAULT 0, -- milliseconds
     created_at INTEGER NOT NULL,
     first_run_at INTEGER,
     since INTEGER, -- when it began to wait
     due INTEGER, -- until when it waits
     ended_at INTEGER,
     error TEXT,
     UNIQUE (event_id, handler, run)
   ) STRICT;
   INSERT INTO delivery (key, event_id, handler, lane, name, event, segment, state, attempts, created_at, first_run_at, since, due, error)
     SELECT key, event_id, handler, lane, coalesce(event ->> 'event', ''), event, 0, state, attempts, created_at,
       iif(attempts > 0, created_at, NULL), created_at, due, error FROM delivery_1;
   DROP TABLE delivery_1;
   CREATE INDEX delivery_ready ON delivery (handler, key) WHERE state = 'ready';
   CREATE INDEX delivery_due ON delivery (due) WHERE state = 'waiting';
   CREATE INDEX delivery_since ON delivery (since) WHERE state = 'waiting';
   CREATE INDEX delivery_running ON delivery (key) WHERE state = 'running';
   CREATE INDEX delivery_suspect ON delivery (key) WHERE suspect = 1 AND state = 'ready';
   CREATE INDEX delivery_head ON delivery (handler, lane) WHERE state IN ('ready', 'running', 'waiting');
   CREATE INDEX delivery_blocked ON delivery (handler, lane, key) WHERE state = 'blocked';
   CREATE INDEX delivery_ended ON delivery (segment) WHERE state IN ('done', 'coalesced');
   CREATE TABLE handler (name TEXT PRIMARY KEY) STRICT;
   INSERT INTO handler (name) SELECT DISTINCT handler FROM delivery`,
  // It waits for something to come back, not for its retry nor for quiet.
  'ALTER TABLE delivery ADD COLUMN postponed INTEGER NOT NULL DEFAULT 0',
  `CREATE TABLE own_write (
     key INTEGER PRIMARY KEY,
     lane TEXT NOT NULL,
     handler TEXT NOT NULL,
     user TEXT NOT NULL,
     event TEXT, -- the name that it fires; NULL when that is not awaited
     sent_at INTEGER NOT NULL, -- milliseconds, our clock
     first INTEGER NOT NULL, -- seconds, the portal's clock
     last INTEGER NOT NULL,
     certain INTEGER NOT NULL,
     content TEXT, -- a hash of what it left
     accounted TEXT NOT NULL DEFAULT '[]'
   ) STRICT;
   CREATE INDEX own_write_lane ON own_write (lane);
   CREATE INDEX own_write_sent ON own_write (sent_at)`,
  `ALTER TABLE handler ADD COLUMN events TEXT; -- a list; NULL until it is loaded again, as is what follows
   ALTER TABLE handler ADD COLUMN ordered TEXT;
   ALTER TABLE handler ADD COLUMN settle INTEGER;
   ALTER TABLE handler ADD COLUMN loaded_at INTEGER;
   CREATE TABLE broken (file TEXT PRIMARY KEY, error TEXT NOT NULL, at INTEGER NOT NULL) STRICT;
   CREATE TABLE failure (delivery INTEGER NOT NULL, attempt INTEGER NOT NULL, at INTEGER NOT NULL, error TEXT NOT NULL) STRICT;
   CREATE INDEX failure_delivery ON failure (delivery);
   CREATE TRIGGER delivery_forgotten AFTER DELETE ON delivery BEGIN
     DELETE FROM failure WHERE delivery = old.key;
   END;
   CREATE INDEX delivery_dead ON delivery (key) WHERE state = 'dead'`,
  `CREATE TABLE seen (
     handler TEXT NOT NULL,
     lane TEXT NOT NULL,
     fields TEXT NOT NULL, -- an object: field to text
     doubt INTEGER NOT NULL DEFAULT 0,
     PRIMARY KEY (handler, lane)
   ) STRICT, WITHOUT ROWID`,
  // A file beside it says it now, see load-report.ts.
  'DROP TABLE broken',
  // The id of the segment's first event; NULL until it is known.
  'ALTER TABLE position ADD COLUMN first TEXT',
  // A row that ended has no event any more. One that was revived all the same has a text that nobody can read: its event is
  // looked for in the journal when it is to run.
  `UPDATE delivery SET event = '' WHERE event IS NULL AND state NOT IN ('done', 'coalesced', 'dead');
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
     END`,
  // Of RETRY_FOR what is used up: no clock is asked for it.
  'ALTER TABLE delivery ADD COLUMN spent_ms INTEGER NOT NULL DEFAULT 0',
]

function versionOf(db: DatabaseSync): number {
  return Number(db.prepare('PRAGMA user_version').get()?.['user_version'])
}

/** Whether this version wrote the file. */
export function isCurrent(db: DatabaseSync): boolean {
  return versionOf(db) === migrations.length
}

/** Inside the caller's transaction. @throws when a newer version wrote the file */
export function migrate(db: DatabaseSync, path: string): void {
  const found = versionOf(db)
  if (found > migrations.length)
    throw new Error(
      `${path} was written by a newer version of the receiver (${found}; this one knows ${migrations.length}): start that one`,
    )
  for (const migration of migrations.slice(found)) db.exec(migration)
  db.exec(`PRAGMA user_version = ${migrations.length}`)
}

/** Node's SQLite also binds what an object inherits, so that what a handler puts into its prototype would end a statement. */
export function bare<T extends object>(parameters: T): T {
  return Object.assign(Object.create(null), parameters)
}

/** One writer at a time; all of it or nothing. */
export function inTransaction<T>(db: DatabaseSync, work: () => T): T {
  db.exec('BEGIN IMMEDIATE')
  try {
    const result = work()
    db.exec('COMMIT')
    return result
  } catch (error) {
    // SQLite has rolled back by itself when the disk failed.
    if (db.isTransaction) db.exec('ROLLBACK')
    throw error
  }
}

export function readPosition(db: DatabaseSync): Position | undefined {
  const row = db.prepare('SELECT segment, offset, first FROM position').get()
  return row && toPosition(row)
}

/** As either engine keeps it. */
export function toPosition({ segment, offset, first }: Readonly<Record<string, unknown>>): Position {
  return { segment: Number(segment), offset: Number(offset), ...(typeof first === 'string' && { first }) }
}

/** The handlers that ever ran, from a file of any version, without migrating it. */
export function readHandlers(db: DatabaseSync): string[] {
  const tables = db.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").all()
  const has = (name: string) => tables.some((table) => table['name'] === name)
  if (!has('delivery')) return []
  const query = has('handler') ? 'SELECT name FROM handler' : 'SELECT DISTINCT handler AS name FROM delivery'
  const rows = db.prepare(`${query} ORDER BY name`).all()
  return rows.map((row) => String(row['name']))
}

/**
 * Counts through the partial indexes: what is done, however much, costs nothing. The oldest is at the head of its lane: an
 * index for it would cost each change of a state more than all the others.
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
  const count = (name: string) => Number(row?.[name])
  const oldest = row?.['oldest']
  return {
    ready: count('ready'),
    running: count('running'),
    waiting: count('waiting'),
    blocked: count('blocked'),
    dead: count('dead'),
    oldestAt: oldest === null || oldest === undefined ? undefined : Number(oldest),
  }
}
