import type { Sample } from '../alerts/sample.ts'
import type { RefusalLog } from '../intake/refusal-log.ts'
import type { Journal } from '../journal/journal.ts'
import { tellDamage } from './private-listener.ts'
import type { Supervisor } from './supervisor.ts'

export interface ReceiverDeps {
  readonly journal: Pick<Journal, 'lastEventAt' | 'trouble'>
  /** When an earlier process took its last event, in Unix milliseconds. */
  readonly lastEventAt: number
  readonly refusals: Pick<RefusalLog, 'counts'>
  readonly supervisor: Supervisor | undefined
}

/** Returns the sample that a receiver sends to its alerter. */
export function sampleOf({ journal, lastEventAt, refusals: { counts }, supervisor }: ReceiverDeps): Sample {
  return {
    journal: {
      lastEventAt: journal.lastEventAt() ?? lastEventAt,
      trouble: journal.trouble(),
      refused: counts.get('journal_unavailable') ?? 0,
    },
    wrongTokens: counts.get('invalid_application_token') ?? 0,
    ...(supervisor && dispatcherSampleOf(supervisor)),
  }
}

/** Returns the part of a sample that is about the dispatcher. Receivers and workers share it. */
export function dispatcherSampleOf(supervisor: Supervisor): Sample {
  return {
    dispatcher: { ends: supervisor.ends(), trouble: supervisor.trouble() },
    damaged: { count: supervisor.damaged().count, text: tellDamage(supervisor.damaged()) },
    absent: Object.fromEntries(supervisor.absentHandlers()),
    incomingWebhooks: Object.fromEntries(supervisor.incomingWebhookTroubles()),
    dead: { queued: supervisor.state()?.dead ?? 0, ...supervisor.dead() },
    late: supervisor.late(),
    throttled: supervisor.throttled(),
  }
}
