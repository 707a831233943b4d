import type { Logger } from 'pino'
import type { JournalledEvent } from '../events/event.ts'
import { readJournal } from '../journal/follow.ts'
import { listSegments } from '../journal/segments.ts'

export interface NewestDeps {
  readonly dataDir: string
  readonly matches: (event: JournalledEvent) => boolean
  readonly log: Logger
}

/** Returns the newest event that matches. It reads from the last segment backwards, and stops at the first match. */
export async function findNewest({ dataDir, matches, log }: NewestDeps): Promise<JournalledEvent | undefined> {
  for (const { number } of (await listSegments(dataDir)).reverse()) {
    const from = { segment: number, offset: 0 }
    let newest: JournalledEvent | undefined
    for await (const { entries, position } of readJournal({ dataDir, from, log })) {
      if (position.segment !== number) break
      newest = entries.findLast(({ event }) => matches(event))?.event ?? newest
    }
    if (newest) return newest
  }
  return undefined
}
