import type { Logger } from 'pino'
import { follow, type JournalledEvent } from '../journal/follow.ts'
import { listSegments } from '../journal/segments.ts'

export interface NewestParts {
  readonly dataDir: string
  readonly matches: (event: JournalledEvent) => boolean
  readonly log: Logger
}

/** The newest event that matches: from the last segment backwards, and no further than it must. */
export async function findNewest({ dataDir, matches, log }: NewestParts): Promise<JournalledEvent | undefined> {
  const { signal } = new AbortController()
  for (const { number } of (await listSegments(dataDir)).reverse()) {
    const from = { segment: number, offset: 0 }
    let newest: JournalledEvent | undefined
    for await (const { entries, position } of follow({ dataDir, from, signal, wait: false, log })) {
      if (position.segment !== number) break
      newest = entries.findLast(({ event }) => matches(event))?.event ?? newest
    }
    if (newest) return newest
  }
  return undefined
}
