import { isDeletion } from '../events/catalogue.ts'
import type { JournalledEvent } from '../events/event.ts'
import type { LoadedHandler } from '../handler/loader.ts'
import type { Entry } from '../journal/follow.ts'
import type { NewDelivery } from '../queue/queue.ts'
import type { AbsentHandler } from './absent.ts'

/** The handlers that get events: those that are loaded, and those whose events are kept. */
export interface Handlers {
  readonly loaded: readonly LoadedHandler[]
  readonly absent: Iterable<AbsentHandler>
}

/** Returns one delivery for each event and each handler that handles it. */
export function deliveriesOf(entries: readonly Entry[], { loaded, absent }: Handlers): NewDelivery[] {
  const handlers = [
    ...loaded.map(({ name, matches, options: { order, debounce } }) => ({ name, matches, how: { order, debounce } })),
    ...[...absent].map(({ name, matches, order, debounce }) => ({
      name,
      matches,
      how: { order, debounce, isAbsent: true },
    })),
  ]
  return entries.flatMap(({ event, at: { segment } }) =>
    handlers
      .filter((handler) => isFor(handler, event))
      .map(({ name, how }) => ({ handler: name, event, segment, ...how })),
  )
}

/** An event that a backfill found may be for a single handler. */
function isFor({ name, matches }: Pick<LoadedHandler, 'name' | 'matches'>, event: JournalledEvent): boolean {
  return event.erased !== true && (event.handler ?? name) === name && matches(event.event)
}

/**
 * Returns the snapshots of deleted objects that must be dropped now. A handler that receives the deletion is not among
 * them: its run needs the snapshot, and drops it.
 */
export function snapshotsToDrop(entries: readonly Entry[], { loaded, absent }: Handlers) {
  // Whether an absent handler has `onChange` is not known. Dropping a snapshot that does not exist does no harm.
  const keepers = [...loaded.filter(({ options }) => options.onChange), ...absent]
  return entries
    .filter(({ event }) => event.object !== undefined && isDeletion(event.event))
    .flatMap(({ event }) =>
      keepers.filter(({ matches }) => !matches(event.event)).map(({ name }) => ({ handler: name, event })),
    )
}
