import { setTimeout as sleep } from 'node:timers/promises'
import { createOutput } from '../lib/async-writer.ts'

/** The maximum wait for a reader of stderr. */
const timeoutMs = 1_000

/**
 * Three times the maximum that waits for the disk, because all of it may be refused at once. More would only fill the
 * memory.
 */
const maxBacklogBytes = 32 * 1024 ** 2

/**
 * Writes lines that the journal refused to stderr, so that they can be imported later. Each line is one line of JSON.
 * The promise resolves when the lines are written, or when the time limit has passed.
 *
 * @param fd for tests; 2 is stderr
 */
export function createStderrFallback(fd = 2): (lines: readonly string[]) => Promise<void> {
  const output = createOutput({ fd, maxBacklogBytes })
  return async (lines) => {
    if (!output.write(...lines)) return
    await Promise.race([output.flush(), sleep(timeoutMs, undefined, { ref: false })])
  }
}
