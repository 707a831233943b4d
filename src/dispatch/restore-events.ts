import type { Logger } from 'pino'
import { follow, type JournalledEvent, oldest } from '../journal/follow.ts'
import type { Queue } from './queue.ts'

export interface RestoreParts {
  readonly dataDir: string
  readonly queue: Pick<Queue, 'lost' | 'restore'>
  readonly log: Logger
}

/** Deliveries that lost their event are run again with what the journal still has; the others stay dead, and are named. */
export async function restoreEvents({ dataDir, queue, log }: RestoreParts): Promise<void> {
  const lost = await queue.lost()
  if (lost.length === 0) return
  const events = await findEvents(dataDir, new Set(lost.map(({ event }) => event)), log)
  for (const delivery of lost) {
    const event = events.get(delivery.event)
    await queue.restore(delivery, event ?? 'its event was lost, and the journal has it no more')
    const about = { delivery: delivery.key, handler: delivery.handler, id: delivery.event }
    if (event) log.warn(about, 'a delivery had lost its event: the journal has it, and it is run again')
    else log.error(about, 'a delivery had lost its event, and the journal has it no more: it is dead')
  }
}

async function findEvents(
  dataDir: string,
  ids: ReadonlySet<string>,
  log: Logger,
): Promise<ReadonlyMap<string, JournalledEvent>> {
  const found = new Map<string, JournalledEvent>()
  const over = new AbortController()
  const [first] = ids
  // Of several it is dearer to look for each than to read all once.
  const needle = ids.size === 1 ? first : undefined
  for await (const { entries } of follow({ dataDir, from: oldest, signal: over.signal, wait: false, needle, log })) {
    for (const { event } of entries) if (ids.has(event.id)) found.set(event.id, event)
    if (found.size === ids.size) break
  }
  return found
}
