import type { Sample } from '../alerts/sample.ts'
import { handlerSampleOf } from '../dispatch/status.ts'
import type { RefusalLog } from '../intake/refusal-log.ts'
import type { Journal } from '../journal/journal.ts'
import { damageText } from './private-listener.ts'
import type { Supervisor } from './supervisor.ts'

export interface ReceiverDeps {
  readonly journal: Pick<Journal, 'lastEventAt' | 'trouble'>
  /** When an earlier process took its last event, in Unix milliseconds. */
  readonly lastEventAt: number
  readonly refusals: Pick<RefusalLog, 'counts'>
  readonly supervisor: Supervisor | undefined
}

export function sampleOf({ journal, lastEventAt, refusals: { counts }, supervisor }: ReceiverDeps): Sample {
  return {
    journal: {
      lastEventAt: journal.lastEventAt() ?? lastEventAt,
      trouble: journal.trouble(),
      refused: counts.get('journal_unavailable') ?? 0,
    },
    wrongTokens: counts.get('invalid_application_token') ?? 0,
    ...(supervisor && dispatcherSampleOf(supervisor.status())),
  }
}

export function dispatcherSampleOf(status: ReturnType<Supervisor['status']>): Sample {
  const { ends, trouble, damaged } = status
  return {
    ...handlerSampleOf(status),
    dispatcher: { ends, trouble },
    damaged: { count: damaged.count, text: damageText(damaged) },
  }
}
