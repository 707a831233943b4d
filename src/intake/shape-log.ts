import type { FastifyBaseLogger } from 'fastify'
import { entryOf } from '../events/catalogue.ts'

export interface ShapeLog {
  /** Counts an accepted event whose `data` was not as documented. */
  readonly count: (event: string) => void
  /** By the event's name in the catalogue, since the start. */
  readonly counts: ReadonlyMap<string, number>
}

/**
 * Logs at `warn` that an event came with another shape than the documented one. It logs the first time, the tenth,
 * the hundredth, and so on, because Bitrix24 sends a changed event as often as any other. Nothing of `data` is
 * logged: the events are in the journal.
 */
export function createShapeLog(log: FastifyBaseLogger): ShapeLog {
  const counts = new Map<string, number>()
  return {
    counts,
    count(event) {
      const { name, page } = entryOf(event) ?? { name: event }
      const count = (counts.get(name) ?? 0) + 1
      counts.set(name, count)
      if (/^10*$/.test(String(count)))
        log.warn({ event: name, count, page }, 'accepted, but its data is not as documented')
    },
  }
}
