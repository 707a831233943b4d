import type { Position } from '../../journal/follow.ts'
import type { Session, Transaction } from './database.ts'
import { functions } from './functions.ts'
import type { QueueState } from '../queue.ts'
import { toPosition } from '../sqlite/schema.ts'

/** Of pg-boss, which has its tables for itself. Ours are in `b24_receiver`. */
export const bossSchema = 'b24_receiver_jobs'

/**
 * What made each version out of the one before.
 *
 * The tables are those of the embedded engine (sqlite-schema.ts), and so is a delivery's way. Of a lane at most one is
 * ready, running or waiting, which `delivery_head` holds to. Only those that are ready or run have a job of pg-boss:
 * `job`, another one each time. `worker` is the process that runs it.
 *
 * All times are the database's, in Unix milliseconds: clocks of machines differ. Tests give their own.
 */
export const migrations = [
  `CREATE FUNCTION b24_receiver.at(given bigint) RETURNS bigint LANGUAGE sql STABLE AS
     'SELECT coalesce(given, (extract(epoch FROM statement_timestamp()) * 1000)::bigint)';
   CREATE TABLE b24_receiver.position (
     receiver text PRIMARY KEY,
     segment bigint NOT NULL,
     "offset" bigint NOT NULL
   );
   CREATE TABLE b24_receiver.delivery (
     key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
     event_id text NOT NULL,
     handler text NOT NULL,
     run integer NOT NULL DEFAULT 1,
     lane text,
     name text NOT NULL,
     event text,
     receiver text NOT NULL, -- whose journal it stands in
     segment bigint NOT NULL,
     state text NOT NULL CHECK (state IN ('blocked', 'ready', 'running', 'waiting', 'done', 'coalesced', 'dead')),
     attempts integer NOT NULL DEFAULT 0,
     suspect boolean NOT NULL DEFAULT false,
     coalesced integer NOT NULL DEFAULT 1,
     coalesced_into bigint,
     postponed boolean NOT NULL DEFAULT false,
     settle bigint NOT NULL DEFAULT 0,
     created_at bigint NOT NULL,
     first_run_at bigint,
     since bigint,
     due bigint,
     ended_at bigint,
     error text,
     job uuid,
     worker text,
     UNIQUE (event_id, handler, run)
   );
   CREATE UNIQUE INDEX delivery_head ON b24_receiver.delivery (handler, lane)
     WHERE state IN ('ready', 'running', 'waiting') AND lane IS NOT NULL;
   CREATE INDEX delivery_blocked ON b24_receiver.delivery (handler, lane, key) WHERE state = 'blocked';
   CREATE INDEX delivery_ready ON b24_receiver.delivery (handler, key) WHERE state = 'ready' AND NOT suspect;
   CREATE INDEX delivery_suspect ON b24_receiver.delivery (key) WHERE state = 'ready' AND suspect;
   CREATE INDEX delivery_due ON b24_receiver.delivery (due) WHERE state = 'waiting';
   CREATE INDEX delivery_since ON b24_receiver.delivery (since) WHERE state = 'waiting';
   CREATE INDEX delivery_running ON b24_receiver.delivery (worker) WHERE state = 'running';
   CREATE INDEX delivery_dead ON b24_receiver.delivery (key) WHERE state = 'dead';
   CREATE INDEX delivery_owed ON b24_receiver.delivery (created_at)
     WHERE state IN ('blocked', 'ready', 'running', 'waiting');
   CREATE INDEX delivery_ended ON b24_receiver.delivery (receiver, segment) WHERE state IN ('done', 'coalesced');
   CREATE TABLE b24_receiver.failure (
     delivery bigint NOT NULL REFERENCES b24_receiver.delivery ON DELETE CASCADE,
     attempt integer NOT NULL,
     at bigint NOT NULL,
     error text NOT NULL
   );
   CREATE INDEX failure_delivery ON b24_receiver.failure (delivery);
   CREATE TABLE b24_receiver.handler (
     name text PRIMARY KEY,
     events text NOT NULL,
     ordered text NOT NULL,
     settle bigint NOT NULL,
     loaded_at bigint NOT NULL
   );
   CREATE TABLE b24_receiver.own_request ( -- sent, and not answered
     place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
     lanes text[] NOT NULL,
     at bigint NOT NULL
   );
   CREATE TABLE b24_receiver.own_run ( -- the last run of a handler about an object, and its place among the requests
     handler text NOT NULL,
     lane text NOT NULL,
     place bigint NOT NULL DEFAULT nextval('b24_receiver.own_request_place_seq'),
     at bigint NOT NULL,
     PRIMARY KEY (handler, lane)
   );
   CREATE INDEX own_run_at ON b24_receiver.own_run (at);
   CREATE TABLE b24_receiver.own_write (
     key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
     lane text NOT NULL,
     handler text NOT NULL,
     hook_user text NOT NULL,
     event text, -- the name that it fires; NULL when that is not awaited
     sent_at bigint NOT NULL, -- milliseconds, the clock of whoever sent it
     first bigint NOT NULL, -- seconds, the portal's clock
     last bigint NOT NULL,
     certain boolean NOT NULL,
     content text, -- a hash of what it left
     accounted text[] NOT NULL DEFAULT '{}'
   );
   CREATE INDEX own_write_lane ON b24_receiver.own_write (lane);
   CREATE INDEX own_write_sent ON b24_receiver.own_write (sent_at);
   CREATE TABLE b24_receiver.seen (
     handler text NOT NULL,
     lane text NOT NULL,
     fields text NOT NULL, -- an object: field to text
     doubt boolean NOT NULL DEFAULT false,
     PRIMARY KEY (handler, lane)
   );
   CREATE TABLE b24_receiver.loop (
     key text PRIMARY KEY,
     runs bigint[] NOT NULL,
     level integer NOT NULL,
     held_at bigint NOT NULL,
     until bigint NOT NULL,
     seen_at bigint NOT NULL
   );
   CREATE INDEX loop_seen ON b24_receiver.loop (seen_at)`,
  // How many requests a portal was sent lately. Not logged: what a crash wipes out is worth nothing a minute later.
  `CREATE UNLOGGED TABLE b24_receiver.budget (
     portal text PRIMARY KEY,
     level double precision NOT NULL, -- requests that have not leaked away
     leaked_at bigint NOT NULL -- in the future after a penalty
   )`,
  functions,
  // Told apart by its end, so that no statement that asks for a state takes it for the index of that: where nothing is owed
  // all of them look alike, and the plan stays when much is.
  `DROP INDEX b24_receiver.delivery_owed;
   CREATE INDEX delivery_owed ON b24_receiver.delivery (created_at) WHERE ended_at IS NULL`,
  // The id of the segment's first event; NULL until it is known.
  'ALTER TABLE b24_receiver.position ADD COLUMN first text',
  // As in sqlite-schema.ts.
  `UPDATE b24_receiver.delivery SET event = '' WHERE event IS NULL AND state NOT IN ('done', 'coalesced', 'dead');
   ALTER TABLE b24_receiver.delivery ADD CONSTRAINT delivery_keeps_event
     CHECK (event IS NOT NULL OR state IN ('done', 'coalesced', 'dead'))`,
  // Of RETRY_FOR what is used up: no clock is asked for it.
  'ALTER TABLE b24_receiver.delivery ADD COLUMN spent_ms bigint NOT NULL DEFAULT 0',
]

/** The database holds what this version cannot use. */
export class SchemaError extends Error {
  override readonly name = 'SchemaError'
}

/** Any number that nobody else is likely to lock. */
const migrationLock = 2_410_024_242

const newer = (found: number) =>
  new SchemaError(
    `the database was written by a newer version of the receiver (${found}; this one knows ${migrations.length}): start that one`,
  )

/** `undefined` where nothing of ours is there. @throws {SchemaError} where it is not ours */
async function readVersion(session: Session): Promise<number | undefined> {
  const [there] = await session.query(
    `SELECT count(*) AS tables,
       (SELECT count(*) FROM pg_attribute
        WHERE attrelid = to_regclass('b24_receiver.version') AND attname = 'version' AND atttypid = 'integer'::regtype) AS version
     FROM pg_class WHERE relnamespace = to_regnamespace('b24_receiver')`,
  )
  if (Number(there?.['version']) === 0) {
    if (Number(there?.['tables']) === 0) return undefined
    throw new SchemaError(
      "the schema b24_receiver is not the receiver's: something else has tables there. Rename it (ALTER SCHEMA b24_receiver RENAME TO …), or set DATABASE_URL to another database",
    )
  }
  return Number((await session.query('SELECT version FROM b24_receiver.version'))[0]?.['version'])
}

/** @throws {SchemaError} when a newer version wrote the schema, or somebody else; nothing is made by then */
export async function refuseForeign(session: Session): Promise<void> {
  const found = await readVersion(session)
  if (found !== undefined && found > migrations.length) throw newer(found)
}

/** For a tool, which makes nothing. @throws {SchemaError} where the schema is not there, or of another version */
export async function checkVersion(session: Session): Promise<void> {
  const found = await readVersion(session)
  if (found === undefined)
    throw new SchemaError('nothing is in the database of DATABASE_URL yet: start the receiver with it first')
  if (found > migrations.length) throw newer(found)
  if (found < migrations.length)
    throw new SchemaError(
      `the database was written by an older version of the receiver (${found}; this one is ${migrations.length}): start this version, which migrates it, or use that version's commands`,
    )
}

/** @throws {SchemaError} when a newer version wrote the schema, or somebody else */
export async function migrate(session: Transaction): Promise<void> {
  await session.query('SELECT pg_advisory_xact_lock($1)', [migrationLock])
  // From the table itself: to_regnamespace() may not know yet of what another has committed while this waited for the lock.
  const [there] = await session.query("SELECT FROM pg_namespace WHERE nspname = 'b24_receiver'")
  // IF NOT EXISTS asks for the right to create it even where it exists.
  if (there === undefined) await session.query('CREATE SCHEMA b24_receiver')
  const version = await readVersion(session)
  if (version === undefined)
    await session.query(
      'CREATE TABLE b24_receiver.version (version integer NOT NULL); INSERT INTO b24_receiver.version VALUES (0)',
    )
  const found = version ?? 0
  if (found > migrations.length) throw newer(found)
  for (const migration of migrations.slice(found)) await session.query(migration)
  if (found < migrations.length)
    await session.query('UPDATE b24_receiver.version SET version = $1', [migrations.length])
}

export async function readPosition(session: Session, receiver: string): Promise<Position | undefined> {
  const [row] = await session.query('SELECT segment, "offset", first FROM b24_receiver.position WHERE receiver = $1', [
    receiver,
  ])
  return row && toPosition(row)
}

/** Counts through the partial indexes: what is done, however much, costs nothing. */
export async function readState(session: Session): Promise<QueueState> {
  const [row] = await session.query(`SELECT
    (SELECT count(*) FROM b24_receiver.delivery WHERE state = 'ready' AND NOT suspect) +
    (SELECT count(*) FROM b24_receiver.delivery WHERE state = 'ready' AND suspect) AS ready,
    (SELECT count(*) FROM b24_receiver.delivery WHERE state = 'running') AS running,
    (SELECT count(*) FROM b24_receiver.delivery WHERE state = 'waiting') AS waiting,
    (SELECT count(*) FROM b24_receiver.delivery WHERE state = 'blocked') AS blocked,
    (SELECT count(*) FROM b24_receiver.delivery WHERE state = 'dead') AS dead,
    (SELECT min(created_at) FROM b24_receiver.delivery WHERE ended_at IS NULL) AS oldest`)
  const count = (name: string) => Number(row?.[name])
  const oldest = row?.['oldest'] ?? null
  return {
    ready: count('ready'),
    running: count('running'),
    waiting: count('waiting'),
    blocked: count('blocked'),
    dead: count('dead'),
    oldestAt: oldest === null ? undefined : Number(oldest),
  }
}
