import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { backfill, type Place, portalClockSlackMs } from '../backfill/backfill.ts'
import { readJournalled } from '../backfill/journalled.ts'
import { parseTargets } from '../backfill/targets.ts'
import { createClient } from '../bitrix24/client.ts'
import type { Access } from '../bitrix24/portals.ts'
import { createTransport } from '../bitrix24/transport.ts'
import type { Event } from '../events/event.ts'

export interface BackfillOnStartDeps {
  readonly dataDir: string
  readonly accesses: readonly Access[]
  /** Such as `deal,lead`. */
  readonly targets: string
  /** When the receiver took its last event before it stopped. */
  readonly since: Date
  readonly append: (events: readonly Event[]) => Promise<void>
  readonly signal: AbortSignal
  readonly log: Logger
  /** Milliseconds between two attempts. */
  readonly pause?: number
}

/**
 * Journals the changes that every portal made since then and sent no event for.
 * Tries until it succeeds or the signal aborts.
 *
 * @returns whether every backfill is done
 */
export async function backfillOnStart(deps: BackfillOnStartDeps): Promise<boolean> {
  const portals = Map.groupBy(deps.accesses, ({ incomingWebhook }) => incomingWebhook.host)
  const done = await Promise.all([...portals.values()].map((accesses) => backfillPortal(accesses, deps)))
  return done.every((isDone) => isDone)
}

/** Runs a portal's incoming webhooks one after another: what one has found, the next finds in the journal. */
async function backfillPortal(accesses: readonly Access[], deps: BackfillOnStartDeps): Promise<boolean> {
  const { signal, pause = 60_000 } = deps
  let backfills = accesses.map((access) => createBackfill(access, deps))
  while (!signal.aborted) {
    const failed: typeof backfills = []
    for (const backfillOnce of backfills) if (signal.aborted || !(await backfillOnce())) failed.push(backfillOnce)
    backfills = failed
    if (backfills.length === 0) return true
    await sleep(pause, undefined, { signal }).catch(() => undefined)
  }
  return false
}

/** Returns a function to call until it returns true. Each call continues where the last one stopped. */
function createBackfill(
  { incomingWebhook, limits, health }: Access,
  deps: BackfillOnStartDeps,
): () => Promise<boolean> {
  const { dataDir, append, signal, log } = deps
  const targets = parseTargets(deps.targets)
  const since = new Date(deps.since.getTime() - portalClockSlackMs)
  const kinds = new Set(targets.map(({ name }) => name.replace(/:.*/, '')))
  const client = createClient({
    incomingWebhook,
    limits,
    signal,
    send: health.guard(createTransport(incomingWebhook, signal), () => undefined),
  })
  let from: Place | undefined
  const onPage = (place: Place) => {
    from = place
  }
  return async () => {
    try {
      const journalled = await readJournalled({ dataDir, incomingWebhook, kinds, since, log })
      const sum = await backfill({ client, incomingWebhook, targets, since, journalled, from, append, onPage })
      log.info(
        { incoming_webhook: incomingWebhook.label, since: since.toISOString(), ...sum },
        'backfilled: what was missed is journalled',
      )
      return true
    } catch (error) {
      if (signal.aborted) return false
      log.warn(
        { incoming_webhook: incomingWebhook.label, err: error },
        'a backfill did not get through, will be tried again',
      )
      // Marks the incoming webhook as down for all its users if it is, and checks it until it works.
      await health.examine()
      return false
    }
  }
}
