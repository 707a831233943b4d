import { laneOf } from '../../events/ordering-key.ts'
import type { Row, Transaction } from './database.ts'
import type { NewDelivery } from '../queue.ts'

export interface AddParts {
  readonly deliveries: readonly (NewDelivery & { readonly run?: number })[]
  /** Whose journal they stand in. */
  readonly receiver: string
  /** Unix milliseconds, where it is not the database that tells the time. */
  readonly at: number | null
}

/**
 * Keeps those that are not there yet, and gives those that may run now, which need a job each: rows of `handler`, `key`,
 * `job` and `suspect`.
 *
 * Whoever adds to a lane, or ends its head, holds the lane's lock until it commits. Without it an end that does not see
 * what is being added, and an addition that still sees the head, would leave the lane without one for ever. The keys of a
 * lane are given under its lock, so their order is that of the commits.
 */
export function addDeliveries(
  transaction: Transaction,
  { deliveries, receiver, at }: AddParts,
): Promise<readonly Row[]> {
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
  return transaction.query('SELECT * FROM b24_receiver.add_deliveries($1, $2, $3)', [
    JSON.stringify(rows),
    receiver,
    at,
  ])
}

/** As the functions do that change lanes. */
export async function lockLanes(
  transaction: Transaction,
  lanes: readonly { readonly handler: string; readonly lane: string | null }[],
): Promise<void> {
  const names = new Set(lanes.flatMap(({ handler, lane }) => (lane === null ? [] : [`${handler} ${lane}`])))
  if (names.size === 0) return
  await transaction.query('SELECT b24_receiver.lock_lanes($1)', [[...names]])
}

/** Postgres keeps no NUL and no half of a surrogate pair in a text. */
export function textOf(text: string): string {
  return text.toWellFormed().replaceAll('\0', '\uFFFD')
}
