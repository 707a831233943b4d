import type { DamagedLine, Dead, Throttled } from '../alerts/incidents.ts'
import type { Sample } from '../alerts/sample.ts'
import type { QueueState } from '../queue/queue.ts'
import type { FromDispatcher } from './messages.ts'

/** How often something happened since the start, and the last time. */
interface Counted<T> {
  readonly count: number
  readonly last: T | undefined
}

/** What a dispatcher has reported. */
export interface DispatcherStatus {
  /** Why no handler runs; `undefined` if handlers run. */
  readonly trouble: string | undefined
  /** Why each failing incoming webhook does not work, by its label. */
  readonly incomingWebhooks: Readonly<Record<string, string>>
  /** Why each absent handler is not loaded while the others run, by its name. */
  readonly absent: Readonly<Record<string, string>>
  /** Problems that stop no handler, by what they are about. */
  readonly warnings: Readonly<Record<string, string>>
  /** How much is pending; `undefined` before the first report. */
  readonly queue: QueueState | undefined
  readonly dead: Counted<Dead>
  /** Unreadable lines of the journal. */
  readonly damaged: Counted<DamagedLine>
  /** Failures that came after the end of their runs. */
  readonly late: Counted<Dead>
  /** How often a handler was throttled. */
  readonly throttled: Counted<Throttled>
}

const none = { count: 0, last: undefined }

/** @param trouble why no handler runs yet */
export function createStatus(trouble: string): DispatcherStatus {
  const counts = { dead: none, damaged: none, late: none, throttled: none }
  return { trouble, incomingWebhooks: {}, absent: {}, warnings: {}, queue: undefined, ...counts }
}

/**
 * Returns the status after a message.
 *
 * @param isCurrent `false` for a dispatcher that replaces another or is being replaced: only what it counts matters
 */
export function updateStatus(status: DispatcherStatus, message: FromDispatcher, isCurrent = true): DispatcherStatus {
  return { ...status, ...countsAfter(status, message), ...(isCurrent && reportsAfter(status, message)) }
}

function countsAfter({ dead, damaged, late, throttled }: DispatcherStatus, message: FromDispatcher) {
  const plusOne = <T>({ count }: Counted<T>, last: T) => ({ count: count + 1, last })
  if (message.type === 'dead') return { dead: plusOne(dead, message.dead) }
  if (message.type === 'damaged') return { damaged: plusOne(damaged, message.line) }
  if (message.type === 'late') return { late: plusOne(late, message.late) }
  if (message.type === 'throttled') return { throttled: plusOne(throttled, message.throttled) }
  return undefined
}

function reportsAfter({ incomingWebhooks, warnings }: DispatcherStatus, message: FromDispatcher) {
  if (message.type === 'trouble') return { trouble: message.reason }
  if (message.type === 'following') return { trouble: undefined }
  if (message.type === 'absent') return { absent: message.reasons }
  if (message.type === 'state') return { queue: message.state }
  if (message.type === 'warning') return { warnings: withEntry(warnings, message.subject, message.text) }
  if (message.type !== 'incoming_webhook') return undefined
  return { incomingWebhooks: withEntry(incomingWebhooks, message.label, message.trouble) }
}

/** Returns what an alerter needs to know about the handlers. */
export function handlerSampleOf({ absent, incomingWebhooks, queue, dead, late, throttled }: DispatcherStatus): Sample {
  return { absent, incomingWebhooks, dead: { queued: queue?.dead ?? 0, ...dead }, late, throttled }
}

/** Without a text, the entry is removed. */
function withEntry(entries: Readonly<Record<string, string>>, name: string, text: string | undefined) {
  const others = Object.entries(entries).filter(([other]) => other !== name)
  return Object.fromEntries(text === undefined ? others : [...others, [name, text]])
}
