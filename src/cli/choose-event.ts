import type { Logger } from 'pino'
import { follow, type JournalledEvent, positionBefore } from '../journal/follow.ts'
import { listSegments } from '../journal/segments.ts'
import { UsageError } from './usage-error.ts'

export interface Finding {
  readonly dataDir: string
  readonly log: Logger
}

/** Milliseconds by which the clock may have been put back between an id and its segment. */
const clockSlack = 3_600_000

/** An id tells the millisecond at which it was made (UUIDv7); what was imported stands later. */
export async function findEvent(id: string, { dataDir, log }: Finding): Promise<JournalledEvent | undefined> {
  if (!/^[\da-f]{8}-[\da-f]{4}-7/.test(id)) throw new UsageError(`"${id}" is no id of an event`)
  const from = await positionBefore(
    dataDir,
    new Date(Number.parseInt(id.replaceAll('-', '').slice(0, 12), 16) - clockSlack),
  )
  const needle = `"id":${JSON.stringify(id)}`
  const signal = new AbortController().signal
  for await (const { entries } of follow({ dataDir, from, signal, wait: false, needle, log })) {
    const found = entries.find(({ event }) => event.id === id)
    if (found) return found.event
  }
  return undefined
}

/** The newest event that matches: from the last segment backwards, and no further than it must. */
export async function findLast(
  matches: (event: JournalledEvent) => boolean,
  { dataDir, log }: Finding,
): Promise<JournalledEvent | undefined> {
  const signal = new AbortController().signal
  for (const { number } of (await listSegments(dataDir)).reverse()) {
    const from = { segment: number, offset: 0 }
    let last: JournalledEvent | undefined
    for await (const { entries, position } of follow({ dataDir, from, signal, wait: false, log })) {
      if (position.segment !== number) break
      last = entries.findLast(({ event }) => matches(event))?.event ?? last
    }
    if (last) return last
  }
  return undefined
}
