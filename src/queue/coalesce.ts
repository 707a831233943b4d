import { isDeletion } from '../events/catalogue.ts'
import type { Row } from './delivery-row.ts'
import type { Wanted } from './queue.ts'

/**
 * The maximum delay of a debounced delivery, as a multiple of `debounce`, so that an endless burst cannot delay its
 * first event forever.
 */
export const maxDebounce = 10

/**
 * Of the deliveries that wait behind the head of an ordering key, returns those that become one run with it. The last of
 * them runs.
 *
 * @param head like each delivery behind it, has at least `name` and `run`
 */
export function coalescedWith<T extends Row>(head: Row, behind: Iterable<T>, coalesce: Wanted['coalesce']): T[] {
  const coalesced: T[] = []
  if (coalesce === false || head['run'] !== 1) return coalesced
  let before = head
  for (const row of behind) {
    // A later event must not overtake an event of another name.
    if (coalesce === true && row['name'] !== head['name']) break
    // A later event must not replace a deletion: the handler may learn of the deleted record from no other event.
    if (isDeletion(String(before['name'])) && !isDeletion(String(row['name']))) break
    // A replay comes last in its ordering key but is not the newest: coalescing into it would count later events as
    // done.
    if (row['run'] !== 1) break
    coalesced.push(row)
    before = row
  }
  return coalesced
}

/** How many deliveries these stand for. */
export function countOf(rows: readonly Row[]): number {
  return rows.reduce((sum, row) => sum + Number(row['coalesced']), 0)
}
