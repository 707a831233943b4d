import { setTimeout as sleep } from 'node:timers/promises'
import { createOutput } from '../lib/async-writer.ts'

/** Longer than this nobody waits for a reader of stderr, in milliseconds. */
const patience = 1_000

/** Three times what may wait for the disk, which may all be refused at once; more would only fill the memory. */
const longestBacklog = 32 * 1024 ** 2

/**
 * Writes lines that the journal did not take to stderr, from where they can be brought back: one line of JSON each,
 * bounded in time. Resolves when the lines are written, or when it gave up.
 *
 * @param fd for tests; 2 is stderr
 */
export function createLastResort(fd = 2): (lines: readonly string[]) => Promise<void> {
  const output = createOutput({ fd, longestBacklog })
  return async (lines) => {
    if (!output.write(...lines)) return
    const enough = new AbortController()
    await Promise.race([output.flush(), sleep(patience, undefined, { signal: enough.signal }).catch(() => undefined)])
    enough.abort()
  }
}
