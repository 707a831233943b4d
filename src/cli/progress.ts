import type { Position } from '../journal/position.ts'
import { listSegments, sizeOf } from '../journal/segments.ts'
import type { Printer } from './printer.ts'

/** Milliseconds before the first progress text, and between two of them. */
const intervalMs = 300

/** Shows on a terminal how much of the journal was read. */
export async function createProgress(dataDir: string, print: Printer): Promise<(position: Position) => void> {
  const before = new Map<number, number>()
  let total = 0
  for (const segment of await listSegments(dataDir)) {
    before.set(segment.number, total)
    total += await sizeOf(segment)
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
