import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { backfill, type Place } from '../backfill/backfill.ts'
import { readJournalled } from '../backfill/journalled.ts'
import { parseTargets } from '../backfill/targets.ts'
import { createClient } from '../bitrix24/client.ts'
import type { Access } from '../bitrix24/portals.ts'
import { createTransport } from '../bitrix24/transport.ts'
import type { Event } from '../intake/event.ts'

export interface BackfillOnStartParts {
  readonly dataDir: string
  readonly accesses: readonly Access[]
  /** Such as `deal,lead`. */
  readonly targets: string
  /** When the receiver took its last event before it stopped. */
  readonly since: Date
  readonly append: (events: readonly Event[]) => Promise<void>
  readonly signal: AbortSignal
  readonly log: Logger
  /** Milliseconds between two tries. */
  readonly pause?: number
}

/** Milliseconds by which our clock may be ahead of the portal's. */
const clockSlack = 60_000

/**
 * Journals what every portal has changed since then and never told, and tries until it is done: resolves then, or when
 * the signal aborts, to whether it is.
 */
export async function backfillOnStart(parts: BackfillOnStartParts): Promise<boolean> {
  const portals = Map.groupBy(parts.accesses, ({ hook }) => hook.host)
  const done = await Promise.all([...portals.values()].map((accesses) => backfillPortal(accesses, parts)))
  return done.every((isDone) => isDone)
}

/** One hook of it after the other: what one has found, the next finds in the journal. */
async function backfillPortal(accesses: readonly Access[], parts: BackfillOnStartParts): Promise<boolean> {
  const { signal, pause = 60_000 } = parts
  let backfills = accesses.map((access) => createBackfill(access, parts))
  while (!signal.aborted) {
    const failed: typeof backfills = []
    for (const backfillOnce of backfills) if (signal.aborted || !(await backfillOnce())) failed.push(backfillOnce)
    backfills = failed
    if (backfills.length === 0) return true
    await sleep(pause, undefined, { signal }).catch(() => undefined)
  }
  return false
}

/** To be tried until it gets through; it goes on where it was. */
function createBackfill({ hook, limits, health }: Access, parts: BackfillOnStartParts): () => Promise<boolean> {
  const { dataDir, append, signal, log } = parts
  const targets = parseTargets(parts.targets)
  const since = new Date(parts.since.getTime() - clockSlack)
  const kinds = new Set(targets.map(({ name }) => name.replace(/:.*/, '')))
  const client = createClient({
    hook,
    limits,
    signal,
    send: health.guard(createTransport(hook, signal), () => undefined),
  })
  let from: Place | undefined
  const onPage = (place: Place) => {
    from = place
  }
  return async () => {
    try {
      const journalled = await readJournalled({ dataDir, hook, kinds, since, log })
      const sum = await backfill({ client, hook, targets, since, journalled, from, append, onPage })
      log.info({ hook: hook.label, since: since.toISOString(), ...sum }, 'backfilled: what was missed is journalled')
      return true
    } catch (error) {
      if (signal.aborted) return false
      log.warn({ hook: hook.label, err: error }, 'a backfill did not get through, will be tried again')
      // A hook that is down says so to everybody, and is asked until it is up.
      await health.examine()
      return false
    }
  }
}
