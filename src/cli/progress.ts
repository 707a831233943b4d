import { stat } from 'node:fs/promises'
import type { Position } from '../journal/position.ts'
import { listSegments } from '../journal/segments.ts'
import type { Printer } from './printer.ts'

/** Milliseconds before the first progress text, and between two of them. */
const intervalMs = 300

/** Shows on a terminal how much of the journal was read. */
export async function createProgress(dataDir: string, print: Printer): Promise<(position: Position) => void> {
  const before = new Map<number, number>()
  let total = 0
  for (const { number, path } of await listSegments(dataDir)) {
    before.set(number, total)
    // A segment that the retention removed meanwhile counts as empty.
    total += await stat(path).then(
      ({ size }) => size,
      () => 0,
    )
  }
  let shownAt = performance.now()
  return ({ segment, offset }) => {
    const now = performance.now()
    if (now - shownAt < intervalMs) return
    shownAt = now
    const percent = Math.min(100, Math.floor((((before.get(segment) ?? total) + offset) / total) * 100))
    print.progress(`reading the journal: ${percent} % of ${(total / 1024 ** 2).toFixed(0)} MB`)
  }
}
