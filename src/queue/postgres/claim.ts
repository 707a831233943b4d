import { coalescedWith, countOf } from '../coalesce.ts'
import type { Row } from '../delivery-row.ts'
import type { Wanted } from '../queue.ts'
import type { Job, Take } from './jobs.ts'
import type { Session, Transaction } from './session.ts'

/** What may be claimed now. */
export interface Plan {
  /** A waiting delivery is due, see `wakeDue`. */
  readonly isDue: boolean
  /** The handler of the first quarantined delivery. */
  readonly quarantined: string | undefined
  /** How many deliveries of each handler to claim, the oldest first. Another worker may claim them sooner. */
  readonly counts: readonly Take[]
}

/** @param at Unix milliseconds, or `null` if the database supplies the time */
export async function planRuns(
  session: Session,
  wanted: readonly Wanted[],
  limit: number,
  at: number | null,
): Promise<Plan> {
  const [row] = await session.query('SELECT * FROM b24_receiver.plan_runs($1, $2, $3)', [
    JSON.stringify(wanted.map((one) => ({ handler: one.handler, most: Math.max(0, one.limit) }))),
    limit,
    at,
  ])
  return {
    isDue: row?.['is_due'] === true,
    quarantined: typeof row?.['quarantined'] === 'string' ? row['quarantined'] : undefined,
    counts: Array.isArray(row?.['counts']) ? row['counts'] : [],
  }
}

/**
 * Makes due deliveries ready, and returns them. A wait that began in the future began before the clock was put back.
 */
export function wakeDue(transaction: Transaction, at: number | null): Promise<readonly Row[]> {
  return transaction.query(
    `UPDATE b24_receiver.delivery SET state = 'ready', since = NULL, due = NULL, job = gen_random_uuid()
     WHERE key IN (
       SELECT key FROM b24_receiver.delivery
       WHERE state = 'waiting' AND (due <= b24_receiver.at($1) OR since > b24_receiver.at($1))
       ORDER BY key LIMIT 1000 FOR UPDATE SKIP LOCKED)
     RETURNING handler, key, job, quarantined`,
    [at],
  )
}

export interface StartDeps {
  readonly jobs: readonly Job[]
  readonly wanted: readonly Wanted[]
  readonly worker: string
  readonly at: number | null
}

/**
 * Starts the runs of the deliveries whose jobs were taken. Of coalesced deliveries only the newest runs.
 *
 * @returns the deliveries in the order of `head`, the key of the first; for `spent_ms` see `Delivery`
 */
export async function startRuns(transaction: Transaction, deps: StartDeps): Promise<Row[]> {
  const { jobs, worker, at } = deps
  if (jobs.length === 0) return []
  const rows = await transaction.query('SELECT * FROM b24_receiver.start_runs($1, $2, $3, $4, $5)', [
    jobs.map(({ key }) => key),
    jobs.map(({ id }) => id),
    JSON.stringify(await coalesce(transaction, deps)),
    worker,
    at,
  ])
  const again = rows.filter(({ attempts }) => Number(attempts) > 1).map(({ key }) => key)
  // Few deliveries run again. `start_runs` must stay unchanged, because workers of an older version call it too.
  const spent = again.length > 0 ? await readSpent(transaction, again) : new Map<unknown, unknown>()
  return rows
    .map((row): Row => ({ ...row, spent_ms: spent.get(row['key']) ?? 0 }))
    .sort((a, b) => Number(a['head']) - Number(b['head']))
}

async function readSpent(transaction: Transaction, keys: readonly unknown[]): Promise<ReadonlyMap<unknown, unknown>> {
  const rows = await transaction.query(
    'SELECT key, spent_ms FROM b24_receiver.delivery WHERE key = ANY($1::bigint[])',
    [keys],
  )
  return new Map(rows.map((row) => [row['key'], row['spent_ms']]))
}

/** Coalesces each head with the deliveries that wait behind it. Returns the newest of them, which replaces the head. */
async function coalesce(
  transaction: Transaction,
  { jobs, wanted, at }: StartDeps,
): Promise<{ readonly head: number; readonly key: number; readonly coalesced: number }[]> {
  const how = new Map(wanted.flatMap((one) => (one.coalesce === false ? [] : [[one.handler, one.coalesce]])))
  if (how.size === 0) return []
  const lines = await transaction.query(
    `SELECT head.key AS head, head.handler, head.name AS first, head.coalesced AS standing, behind.key, behind.name,
       behind.run, behind.coalesced
     FROM unnest($1::bigint[], $2::uuid[]) AS taken (key, job)
     JOIN b24_receiver.delivery AS head ON head.key = taken.key AND head.job = taken.job AND head.state = 'ready'
     JOIN b24_receiver.delivery AS behind
       ON behind.handler = head.handler AND behind.ordering_key = head.ordering_key AND behind.state = 'blocked'
     WHERE head.handler = ANY($3) AND head.run = 1
     ORDER BY behind.key
     FOR UPDATE`,
    [jobs.map(({ key }) => key), jobs.map(({ id }) => id), [...how.keys()]],
  )
  const newest: { head: number; key: number; coalesced: number }[] = []
  const older: { key: number; into: number }[] = []
  for (const [head, behind] of Map.groupBy(lines, (row) => Number(row['head']))) {
    const [{ handler, first, standing } = {} as Row] = behind
    const joined = coalescedWith({ name: first, run: 1 }, behind, how.get(String(handler)) ?? false)
    const keys = [head, ...joined.map((row) => Number(row['key']))]
    const key = keys.pop() ?? head
    if (key === head) continue
    newest.push({ head, key, coalesced: Number(standing) + countOf(joined) })
    older.push(...keys.map((old) => ({ key: old, into: key })))
  }
  if (older.length > 0)
    await transaction.query(
      `UPDATE b24_receiver.delivery AS one
       SET state = 'coalesced', coalesced_into = older.into, event = NULL, ended_at = b24_receiver.at($2)
       FROM json_to_recordset($1::text::json) AS older (key bigint, "into" bigint) WHERE one.key = older.key`,
      [JSON.stringify(older), at],
    )
  return newest
}
