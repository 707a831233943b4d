import { tellDamage } from './private-listener.ts'
import type { RefusalLog } from '../intake/refusal-log.ts'
import type { Journal } from '../journal/journal.ts'
import type { Supervisor } from './supervisor.ts'
import type { Snapshot } from '../alerts/snapshot.ts'

export interface ReceiverParts {
  readonly journal: Pick<Journal, 'lastEventAt' | 'trouble'>
  /** Unix milliseconds, of an earlier process. */
  readonly lastEventAt: number
  readonly refusals: Pick<RefusalLog, 'counts'>
  readonly supervisor: Supervisor | undefined
}

/** What a receiver tells its alerter. */
export function snapshotOf({ journal, lastEventAt, refusals: { counts }, supervisor }: ReceiverParts): Snapshot {
  return {
    journal: {
      lastEventAt: journal.lastEventAt() ?? lastEventAt,
      trouble: journal.trouble(),
      refused: counts.get('journal_unavailable') ?? 0,
    },
    wrongTokens: counts.get('invalid_application_token') ?? 0,
    ...(supervisor && dispatcherSnapshotOf(supervisor)),
  }
}

/** What whoever keeps a dispatcher running tells of it. */
export function dispatcherSnapshotOf(supervisor: Supervisor): Snapshot {
  return {
    dispatcher: { ends: supervisor.ends(), trouble: supervisor.trouble() },
    damaged: { count: supervisor.damaged().count, text: tellDamage(supervisor.damaged()) },
    absent: Object.fromEntries(supervisor.absentHandlers()),
    hooks: Object.fromEntries(supervisor.hookTroubles()),
    dead: { queued: supervisor.state()?.dead ?? 0, ...supervisor.dead() },
    late: supervisor.late(),
    throttled: supervisor.throttled(),
  }
}
