import type { Position } from '../../journal/position.ts'
import { toHandler, toPosition, toState } from '../delivery-row.ts'
import type { HandlerRecord, QueueState } from '../queue.ts'
import { functions } from './functions.ts'
import type { Session, Transaction } from './session.ts'

/** The schema of pg-boss, which keeps its tables apart. Our tables are in `b24_receiver`. */
export const bossSchema = 'b24_receiver_jobs'

/**
 * The tables and the states of a delivery are those of the embedded engine (../sqlite/schema.ts). At most one delivery
 * of an ordering key is ready, running or waiting, which `delivery_head` enforces. Only a delivery that is ready or
 * runs has a job of pg-boss: `job`, a new one each time. `worker` is the process that runs it.
 *
 * All times are the database's, in Unix milliseconds, because the clocks of machines differ. Tests pass their own.
 */
const schema = `
   CREATE FUNCTION b24_receiver.at(given bigint) RETURNS bigint LANGUAGE sql STABLE AS
     'SELECT coalesce(given, (extract(epoch FROM statement_timestamp()) * 1000)::bigint)';
   CREATE TABLE b24_receiver.position (
     receiver text PRIMARY KEY,
     segment bigint NOT NULL,
     "offset" bigint NOT NULL,
     first text -- the id of the segment's first event; NULL until it is known
   );
   CREATE TABLE b24_receiver.delivery (
     key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
     event_id text NOT NULL,
     handler text NOT NULL,
     run integer NOT NULL DEFAULT 1,
     ordering_key text,
     name text NOT NULL,
     event text,
     receiver text NOT NULL, -- the receiver whose journal has the event
     segment bigint NOT NULL,
     state text NOT NULL CHECK (state IN ('blocked', 'ready', 'running', 'waiting', 'done', 'coalesced', 'dead')),
     attempts integer NOT NULL DEFAULT 0,
     quarantined boolean NOT NULL DEFAULT false,
     coalesced integer NOT NULL DEFAULT 1,
     coalesced_into bigint,
     spent_ms bigint NOT NULL DEFAULT 0, -- of RETRY_FOR: runs and waits added up, so that a jump of the clock does not count
     postponed boolean NOT NULL DEFAULT false,
     debounce bigint NOT NULL DEFAULT 0,
     created_at bigint NOT NULL,
     first_run_at bigint,
     since bigint,
     due bigint,
     ended_at bigint,
     error text,
     job uuid,
     worker text,
     UNIQUE (event_id, handler, run),
     CONSTRAINT delivery_keeps_event CHECK (event IS NOT NULL OR state IN ('done', 'coalesced', 'dead'))
   );
   CREATE UNIQUE INDEX delivery_head ON b24_receiver.delivery (handler, ordering_key)
     WHERE state IN ('ready', 'running', 'waiting') AND ordering_key IS NOT NULL;
   CREATE INDEX delivery_blocked ON b24_receiver.delivery (handler, ordering_key, key) WHERE state = 'blocked';
   CREATE INDEX delivery_ready ON b24_receiver.delivery (handler, key) WHERE state = 'ready' AND NOT quarantined;
   CREATE INDEX delivery_quarantined ON b24_receiver.delivery (key) WHERE state = 'ready' AND quarantined;
   CREATE INDEX delivery_due ON b24_receiver.delivery (due) WHERE state = 'waiting';
   CREATE INDEX delivery_since ON b24_receiver.delivery (since) WHERE state = 'waiting';
   CREATE INDEX delivery_running ON b24_receiver.delivery (worker) WHERE state = 'running';
   CREATE INDEX delivery_dead ON b24_receiver.delivery (key) WHERE state = 'dead';
   -- The condition is ended_at, so that the planner never takes this index for a query by state. While no delivery is
   -- pending these indexes look alike to the planner, and it keeps such a plan when many are.
   CREATE INDEX delivery_pending ON b24_receiver.delivery (created_at) WHERE ended_at IS NULL;
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
     debounce bigint NOT NULL,
     loaded_at bigint NOT NULL
   );
   CREATE TABLE b24_receiver.own_request ( -- requests that are sent and not answered
     place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
     ordering_keys text[] NOT NULL,
     at bigint NOT NULL
   );
   CREATE TABLE b24_receiver.own_run ( -- the last run of a handler about an object, and its place among the requests
     handler text NOT NULL,
     ordering_key text NOT NULL,
     place bigint NOT NULL DEFAULT nextval('b24_receiver.own_request_place_seq'),
     at bigint NOT NULL,
     PRIMARY KEY (handler, ordering_key)
   );
   CREATE INDEX own_run_at ON b24_receiver.own_run (at);
   CREATE TABLE b24_receiver.own_write (
     key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
     ordering_key text NOT NULL,
     handler text NOT NULL,
     webhook_user text NOT NULL,
     event text, -- the name of the event that it fires; NULL if it is not expected
     sent_at bigint NOT NULL, -- milliseconds, the sender's clock
     first bigint NOT NULL, -- seconds, the portal's clock
     last bigint NOT NULL,
     certain boolean NOT NULL,
     content text, -- a hash of the record after the write
     accounted text[] NOT NULL DEFAULT '{}'
   );
   CREATE INDEX own_write_ordering_key ON b24_receiver.own_write (ordering_key);
   CREATE INDEX own_write_sent ON b24_receiver.own_write (sent_at);
   CREATE TABLE b24_receiver.snapshot (
     handler text NOT NULL,
     ordering_key text NOT NULL,
     fields text NOT NULL, -- an object: field to text
     dirty boolean NOT NULL DEFAULT false,
     PRIMARY KEY (handler, ordering_key)
   );
   CREATE TABLE b24_receiver.loop (
     key text PRIMARY KEY,
     runs bigint[] NOT NULL,
     level integer NOT NULL,
     throttled_at bigint NOT NULL,
     until bigint NOT NULL,
     seen_at bigint NOT NULL
   );
   CREATE INDEX loop_seen ON b24_receiver.loop (seen_at);
   -- The recent requests to each portal. Not logged: the rows that a crash deletes are worthless a minute later.
   CREATE UNLOGGED TABLE b24_receiver.budget (
     portal text PRIMARY KEY,
     level double precision NOT NULL, -- requests that have not leaked away
     leaked_at bigint NOT NULL -- in the future after a penalty
   );
   ${functions}`

/** The steps from each version to the next, from the first that was deployed anywhere. */
const oldest = 4
const upgrades = [
  'ALTER TABLE b24_receiver.position ADD COLUMN first text',
  // The reason is in ../sqlite/schema.ts.
  `UPDATE b24_receiver.delivery SET event = '' WHERE event IS NULL AND state NOT IN ('done', 'coalesced', 'dead');
   ALTER TABLE b24_receiver.delivery ADD CONSTRAINT delivery_keeps_event
     CHECK (event IS NOT NULL OR state IN ('done', 'coalesced', 'dead'))`,
  'ALTER TABLE b24_receiver.delivery ADD COLUMN spent_ms bigint NOT NULL DEFAULT 0',
  `DROP FUNCTION b24_receiver.lock_lanes, b24_receiver.promote, b24_receiver.add_deliveries, b24_receiver.plan_runs,
     b24_receiver.start_runs, b24_receiver.end_runs;
   ALTER TABLE b24_receiver.delivery RENAME COLUMN lane TO ordering_key;
   ALTER TABLE b24_receiver.delivery RENAME COLUMN suspect TO quarantined;
   ALTER TABLE b24_receiver.delivery RENAME COLUMN settle TO debounce;
   ALTER TABLE b24_receiver.handler RENAME COLUMN settle TO debounce;
   ALTER TABLE b24_receiver.own_request RENAME COLUMN lanes TO ordering_keys;
   ALTER TABLE b24_receiver.own_run RENAME COLUMN lane TO ordering_key;
   ALTER TABLE b24_receiver.own_write RENAME COLUMN lane TO ordering_key;
   ALTER TABLE b24_receiver.own_write RENAME COLUMN hook_user TO webhook_user;
   ALTER TABLE b24_receiver.seen RENAME TO snapshot;
   ALTER TABLE b24_receiver.snapshot RENAME COLUMN lane TO ordering_key;
   ALTER TABLE b24_receiver.snapshot RENAME COLUMN doubt TO dirty;
   ALTER TABLE b24_receiver.loop RENAME COLUMN held_at TO throttled_at;
   ALTER INDEX b24_receiver.seen_pkey RENAME TO snapshot_pkey;
   ALTER INDEX b24_receiver.delivery_suspect RENAME TO delivery_quarantined;
   ALTER INDEX b24_receiver.delivery_owed RENAME TO delivery_pending;
   ALTER INDEX b24_receiver.own_write_lane RENAME TO own_write_ordering_key;
   ${functions}`,
]

const version = oldest + upgrades.length

/** This version cannot use the contents of the database. */
export class SchemaError extends Error {
  override readonly name = 'SchemaError'
}

/** An arbitrary number that no other program is likely to lock. */
const migrationLock = 2_410_024_242

/**
 * Returns `undefined` if none of our tables is there.
 *
 * @throws {SchemaError} if the schema is not ours
 */
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

/**
 * Runs before anything is created.
 *
 * @throws {SchemaError} if a newer version or another program wrote the schema
 */
export async function refuseForeign(session: Session): Promise<number | undefined> {
  const found = await readVersion(session)
  if (found !== undefined && found > version)
    throw new SchemaError(
      `the database was written by a newer version of the receiver (${found}; this one knows ${version}): start that one`,
    )
  return found
}

/**
 * For a tool, which creates nothing.
 *
 * @throws {SchemaError} if the schema is missing, or is of another version
 */
export async function checkVersion(session: Session): Promise<void> {
  const found = await refuseForeign(session)
  if (found === undefined)
    throw new SchemaError('nothing is in the database of DATABASE_URL yet: start the receiver with it first')
  if (found < version)
    throw new SchemaError(
      `the database was written by an older version of the receiver (${found}; this one is ${version}): start this version, which migrates it, or use that version's commands`,
    )
}

/** @throws {SchemaError} if a newer version or another program wrote the schema */
export async function migrate(session: Transaction): Promise<void> {
  await session.query('SELECT pg_advisory_xact_lock($1)', [migrationLock])
  // to_regnamespace() may miss what another process committed while this one waited for the lock, so this query reads
  // the table itself.
  const [there] = await session.query("SELECT FROM pg_namespace WHERE nspname = 'b24_receiver'")
  // CREATE SCHEMA IF NOT EXISTS requires the right to create the schema even if it exists.
  if (there === undefined) await session.query('CREATE SCHEMA b24_receiver')
  const written = await refuseForeign(session)
  if (written === undefined)
    await session.query(
      'CREATE TABLE b24_receiver.version (version integer NOT NULL); INSERT INTO b24_receiver.version VALUES (0)',
    )
  const found = written ?? 0
  if (found === version) return
  if (found > 0 && found < oldest)
    throw new SchemaError(
      `the database is of version ${found}, which was never released: ${oldest} to ${version} can be read`,
    )
  for (const step of found === 0 ? [schema] : upgrades.slice(found - oldest)) await session.query(step)
  await session.query('UPDATE b24_receiver.version SET version = $1', [version])
}

export async function readPosition(session: Session, receiver: string): Promise<Position | undefined> {
  const [row] = await session.query('SELECT segment, "offset", first FROM b24_receiver.position WHERE receiver = $1', [
    receiver,
  ])
  return row && toPosition(row)
}

/** Counts through the partial indexes, so finished deliveries cost nothing, however many there are. */
export async function readState(session: Session): Promise<QueueState> {
  const [row] = await session.query(`SELECT
    (SELECT count(*) FROM b24_receiver.delivery WHERE state = 'ready' AND NOT quarantined) +
    (SELECT count(*) FROM b24_receiver.delivery WHERE state = 'ready' AND quarantined) AS ready,
    (SELECT count(*) FROM b24_receiver.delivery WHERE state = 'running') AS running,
    (SELECT count(*) FROM b24_receiver.delivery WHERE state = 'waiting') AS waiting,
    (SELECT count(*) FROM b24_receiver.delivery WHERE state = 'blocked') AS blocked,
    (SELECT count(*) FROM b24_receiver.delivery WHERE state = 'dead') AS dead,
    (SELECT min(created_at) FROM b24_receiver.delivery WHERE ended_at IS NULL) AS oldest`)
  return toState(row)
}

/** In the order of their names. */
export async function readHandlers(session: Session): Promise<readonly HandlerRecord[]> {
  const rows = await session.query(
    `SELECT known.*,
       (SELECT count(*) FROM b24_receiver.delivery
        WHERE handler = known.name AND state IN ('blocked', 'ready', 'running', 'waiting')) AS pending,
       (SELECT count(*) FROM b24_receiver.delivery WHERE handler = known.name AND state = 'dead') AS dead
     FROM b24_receiver.handler AS known ORDER BY known.name COLLATE "C"`,
  )
  return rows.map(toHandler)
}
