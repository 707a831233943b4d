import { boundError } from '../lib/error-text.ts'
import type { Awaitable, Delivery, Queue, SnapshotFields } from './queue.ts'

/** How a run ended, as an engine stores it. */
export interface End {
  readonly how: 'done' | 'dead' | 'retry' | 'postponed' | 'released'
  /** Unix milliseconds, if the delivery waits. */
  readonly due?: number
  /** Not longer than `boundError` allows. */
  readonly error?: string
  /** See `Retry`. */
  readonly spentMs?: number
  readonly alone?: boolean
  /** See `Queue`. */
  readonly snapshot?: SnapshotFields | null | undefined
}

/** The calls of a queue that end a run, all of which `end` stores. */
export function endings(
  end: (delivery: Delivery, end: End) => Awaitable<void>,
): Pick<Queue, 'done' | 'dead' | 'retry' | 'postpone' | 'release'> {
  return {
    done: (delivery, snapshot) => end(delivery, { how: 'done', snapshot }),
    dead: (delivery, error) => end(delivery, { how: 'dead', error: boundError(error) }),
    retry: (delivery, { error, ...again }) => end(delivery, { how: 'retry', ...again, error: boundError(error) }),
    postpone: (delivery, { due, error }) =>
      end(delivery, { how: 'postponed', due, error: boundError(error), spentMs: 0 }),
    release: (delivery) => end(delivery, { how: 'released' }),
  }
}
