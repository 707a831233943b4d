import { orderingKeyOf } from '../../events/ordering-key.ts'
import type { Row } from '../delivery-row.ts'
import type { NewDelivery } from '../queue.ts'
import { textOf } from '../stored.ts'
import type { Transaction } from './session.ts'

export interface AddDeps {
  readonly deliveries: readonly (NewDelivery & { readonly run?: number })[]
  /** The receiver whose journal has the events. */
  readonly receiver: string
  /** Unix milliseconds, or `null` if the database supplies the time. */
  readonly at: number | null
}

/**
 * Adds new deliveries, and skips existing ones. Returns the deliveries that may run now and need a job each, as rows of
 * `handler`, `key`, `job` and `quarantined`.
 *
 * A transaction that adds to an ordering key, or ends its head, takes the lock of the ordering key until it commits.
 * Without the lock, an end may miss the delivery that is being added, while the addition still sees the head: the
 * ordering key would then stay without a head forever. The keys of an ordering key are assigned under its lock, so
 * their order is the order of the commits.
 */
export function addDeliveries(
  transaction: Transaction,
  { deliveries, receiver, at }: AddDeps,
): Promise<readonly Row[]> {
  const rows = deliveries.map(({ handler, event, segment, order, debounce, run = 1 }) => ({
    id: event.id,
    handler: textOf(handler),
    run,
    ordering_key: order === 'none' ? null : orderingKeyOf(event),
    name: textOf(event.event),
    event: JSON.stringify(event),
    segment,
    debounce,
  }))
  return transaction.query('SELECT * FROM b24_receiver.add_deliveries($1, $2, $3)', [
    JSON.stringify(rows),
    receiver,
    at,
  ])
}

/** Takes the same locks as the SQL functions that change ordering keys. */
export async function lockOrderingKeys(
  transaction: Transaction,
  orderingKeys: readonly { readonly handler: string; readonly orderingKey: string | null }[],
): Promise<void> {
  const names = new Set(
    orderingKeys.flatMap(({ handler, orderingKey }) => (orderingKey === null ? [] : [`${handler} ${orderingKey}`])),
  )
  if (names.size === 0) return
  await transaction.query('SELECT b24_receiver.lock_ordering_keys($1)', [[...names]])
}
