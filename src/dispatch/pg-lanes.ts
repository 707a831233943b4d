import { laneOf } from './lane.ts'
import type { Row, Transaction } from './pg-database.ts'
import type { NewDelivery } from './queue.ts'

/** The unit of order, see lane.ts. */
export interface Lane {
  readonly handler: string
  readonly lane: string
}

export interface AddParts {
  readonly deliveries: readonly (NewDelivery & { readonly run?: number })[]
  /** Whose journal they stand in. */
  readonly receiver: string
  /** Unix milliseconds, where it is not the database that tells the time. */
  readonly at: number | null
}

/** A burst that never ends must not hold its first event for ever: this many times `settle` is the most. */
const longestSettle = 10

/**
 * Keeps those that are not there yet, and gives those that may run now, which need a job each: rows of `handler`, `key`,
 * `job` and `suspect`.
 *
 * Whoever adds to a lane, or ends its head, holds the lane's lock until it commits. Without it an end that does not see
 * what is being added, and an addition that still sees the head, would leave the lane without one for ever. The keys of a
 * lane are given under its lock, so their order is that of the commits.
 */
export async function addDeliveries(transaction: Transaction, { deliveries, receiver, at }: AddParts): Promise<Row[]> {
  const rows = deliveries.map(({ handler, event, segment, order, settle, run = 1 }) => ({
    id: event.id,
    handler: textOf(handler),
    run,
    lane: order === 'none' ? null : laneOf(event),
    name: textOf(event.event),
    event: JSON.stringify(event),
    segment,
    settle,
  }))
  await lockLanes(transaction, rows)
  const added = await transaction.query(
    `INSERT INTO b24_receiver.delivery
       (event_id, handler, run, lane, name, event, receiver, segment, settle, created_at, state, since, due, job)
     SELECT id, handler, run, lane, name, event, $3, segment, settle, at,
       CASE WHEN lane IS NOT NULL THEN 'blocked' WHEN settle > 0 THEN 'waiting' ELSE 'ready' END,
       CASE WHEN lane IS NULL AND settle > 0 THEN at END,
       CASE WHEN lane IS NULL AND settle > 0 THEN at + settle END,
       CASE WHEN lane IS NULL AND settle = 0 THEN gen_random_uuid() END
     FROM b24_receiver.at($2) AS at, ROWS FROM (json_to_recordset($1::text::json) AS
       (id text, handler text, run integer, lane text, name text, event text, segment bigint, settle bigint))
       WITH ORDINALITY AS new (id, handler, run, lane, name, event, segment, settle, place)
     ORDER BY place
     ON CONFLICT (event_id, handler, run) DO NOTHING
     RETURNING handler, lane, key, job, suspect, state`,
    [JSON.stringify(rows), at, receiver],
  )
  const heads = await promote(transaction, added.filter(hasLane), at)
  return [...added.filter(({ job }) => job !== null), ...heads]
}

/**
 * Of lanes without a head the first may go, when its object is quiet; a head that waits for quiet waits anew. Gives those
 * that may run now.
 */
export async function promote(
  transaction: Transaction,
  lanes: readonly Lane[],
  at: number | null,
): Promise<readonly Row[]> {
  if (lanes.length === 0) return []
  return transaction.query(
    `WITH clock AS (SELECT b24_receiver.at($3) AS at),
     touched AS (SELECT DISTINCT handler, lane FROM unnest($1::text[], $2::text[]) AS new (handler, lane)),
     prolonged AS (
       UPDATE b24_receiver.delivery AS head
       SET since = at, due = least(at + settle, created_at + ${longestSettle} * settle)
       FROM touched, clock
       WHERE head.handler = touched.handler AND head.lane = touched.lane
         AND state = 'waiting' AND attempts = 0 AND NOT postponed
     ),
     next AS (
       SELECT first.key, least(newest.created_at + settle, first.created_at + ${longestSettle} * settle) AS quiet_at
       FROM touched
       CROSS JOIN LATERAL (
         SELECT key, settle, created_at FROM b24_receiver.delivery
         WHERE handler = touched.handler AND lane = touched.lane AND state = 'blocked' ORDER BY key LIMIT 1
       ) AS first
       CROSS JOIN LATERAL (
         SELECT created_at FROM b24_receiver.delivery
         WHERE handler = touched.handler AND lane = touched.lane AND state = 'blocked' ORDER BY key DESC LIMIT 1
       ) AS newest
       WHERE NOT EXISTS (
         SELECT FROM b24_receiver.delivery
         WHERE handler = touched.handler AND lane = touched.lane AND state IN ('ready', 'running', 'waiting')
       )
     ),
     promoted AS (
       UPDATE b24_receiver.delivery AS head
       SET state = CASE WHEN waits THEN 'waiting' ELSE 'ready' END,
         since = CASE WHEN waits THEN at END,
         due = CASE WHEN waits THEN quiet_at END,
         job = CASE WHEN NOT waits THEN gen_random_uuid() END
       FROM next, clock, LATERAL (SELECT settle > 0 AND quiet_at > at AS waits
         FROM b24_receiver.delivery AS one WHERE one.key = next.key) AS quiet
       WHERE head.key = next.key
       RETURNING handler, head.key, job, suspect
     )
     SELECT * FROM promoted WHERE job IS NOT NULL`,
    [lanes.map(({ handler }) => handler), lanes.map(({ lane }) => lane), at],
  )
}

/** Always in the same order, so that nobody waits for somebody who waits for him. */
export async function lockLanes(
  transaction: Transaction,
  lanes: readonly { readonly handler: string; readonly lane: string | null }[],
): Promise<void> {
  const names = new Set(lanes.flatMap(({ handler, lane }) => (lane === null ? [] : [`${handler} ${lane}`])))
  if (names.size === 0) return
  await transaction.query(
    `SELECT pg_advisory_xact_lock(number) FROM (
       SELECT DISTINCT hashtextextended(name, 24) AS number FROM unnest($1::text[]) AS name ORDER BY number
     ) AS lane`,
    [[...names]],
  )
}

export function hasLane(row: Row): row is Row & Lane {
  return typeof row['lane'] === 'string' && typeof row['handler'] === 'string'
}

/** Postgres keeps no NUL and no half of a surrogate pair in a text. */
export function textOf(text: string): string {
  return text.toWellFormed().replaceAll('\0', '\uFFFD')
}
