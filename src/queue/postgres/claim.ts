import { isDeletion } from '../../events/catalogue.ts'
import type { Wanted } from '../queue.ts'
import type { Job } from './jobs.ts'
import type { Row, Session, Transaction } from './session.ts'

/** What may be claimed now. */
export interface Plan {
  /** A waiting delivery is due, see `wakeDue`. */
  readonly isDue: boolean
  /** The handler of the first quarantined delivery. */
  readonly quarantined: string | undefined
  /** How many deliveries of each handler to claim, the oldest first. Another worker may claim them sooner. */
  readonly counts: readonly { readonly handler: string; readonly count: number }[]
}

export interface PlanDeps {
  readonly wanted: readonly Wanted[]
  readonly limit: number
  readonly at: number | null
}

export async function planRuns(session: Session, { wanted, limit, at }: PlanDeps): Promise<Plan> {
  const [row] = await session.query('SELECT * FROM b24_receiver.plan_runs($1, $2, $3)', [
    JSON.stringify(wanted.map(({ handler, limit: most }) => ({ handler, most: Math.max(0, most) }))),
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
  /** By handler, see `Wanted`. */
  readonly coalesce: ReadonlyMap<string, boolean | 'object'>
  readonly worker: string
  readonly at: number | null
}

/**
 * Starts the runs of the deliveries whose jobs were taken. Of coalesced deliveries only the newest runs.
 *
 * @returns the deliveries in the order of `head`, the key of the first; for `spent_ms` see `Delivery`
 */
export async function startRuns(transaction: Transaction, { jobs, coalesce, worker, at }: StartDeps): Promise<Row[]> {
  if (jobs.length === 0) return []
  const keys = jobs.map(({ key }) => key)
  const ids = jobs.map(({ id }) => id)
  const merging = [...coalesce].flatMap(([handler, how]) => (how === false ? [] : [handler]))
  const newest = merging.length > 0 ? await mergeLines(transaction, { keys, ids, merging, coalesce, at }) : []
  const rows = await transaction.query('SELECT * FROM b24_receiver.start_runs($1, $2, $3, $4, $5)', [
    keys,
    ids,
    JSON.stringify(newest),
    worker,
    at,
  ])
  const again = rows.filter(({ attempts }) => Number(attempts) > 1).map(({ key }) => key)
  // Few deliveries run again. `start_runs` must stay unchanged, because workers of an older version call it too.
  const spent = again.length > 0 ? await readSpent(transaction, again) : new Map<number, number>()
  return rows
    .map((row) => ({ ...row, spent_ms: spent.get(Number(row['key'])) ?? 0 }))
    .sort((a: Row, b: Row) => Number(a['head']) - Number(b['head']))
}

async function readSpent(transaction: Transaction, keys: readonly unknown[]): Promise<ReadonlyMap<number, number>> {
  const rows = await transaction.query(
    'SELECT key, spent_ms FROM b24_receiver.delivery WHERE key = ANY($1::bigint[])',
    [keys],
  )
  return new Map(rows.map((row) => [Number(row['key']), Number(row['spent_ms'])]))
}

interface MergeDeps {
  readonly keys: readonly number[]
  readonly ids: readonly string[]
  readonly merging: readonly string[]
  readonly coalesce: ReadonlyMap<string, boolean | 'object'>
  readonly at: number | null
}

interface Merged {
  readonly head: number
  readonly key: number
  readonly coalesced: number
}

/** Coalesces each head with the deliveries that wait behind it. The newest of them replaces the head. */
async function mergeLines(
  transaction: Transaction,
  { keys, ids, merging, coalesce, at }: MergeDeps,
): Promise<Merged[]> {
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
    [keys, ids, merging],
  )
  const merged: Merged[] = []
  const older: { key: number; into: number }[] = []
  for (const [head, behind] of Map.groupBy(lines, (row) => Number(row['head']))) {
    const [line] = behind
    const isOfOneName = coalesce.get(String(line?.['handler'])) === true
    // A later event must not overtake an event of another name. A replay comes last in its ordering key but is not the
    // newest: coalescing into it would count later events as done.
    const end = behind.findIndex(({ name, run }, at) => {
      // A later event must not replace a deletion: the handler may learn of the deleted record from no other event.
      const before = String(at === 0 ? line?.['first'] : behind[at - 1]?.['name'])
      const isAfterDeletion = isDeletion(before) && !isDeletion(String(name))
      return run !== 1 || isAfterDeletion || (isOfOneName && name !== line?.['first'])
    })
    const one = end === -1 ? behind : behind.slice(0, end)
    const key = Number(one.at(-1)?.['key'] ?? head)
    if (key === head) continue
    const coalesced = one.reduce((sum, row) => sum + Number(row['coalesced']), Number(line?.['standing']))
    merged.push({ head, key, coalesced })
    older.push(...[head, ...one.slice(0, -1).map((row) => Number(row['key']))].map((old) => ({ key: old, into: key })))
  }
  if (older.length > 0)
    await transaction.query(
      `UPDATE b24_receiver.delivery AS one
       SET state = 'coalesced', coalesced_into = older.into, event = NULL, ended_at = b24_receiver.at($2)
       FROM json_to_recordset($1::text::json) AS older (key bigint, "into" bigint) WHERE one.key = older.key`,
      [JSON.stringify(older), at],
    )
  return merged
}
