import { shorten } from '../lib/shorten.ts'
import { createBurst, createLasting, createNewNames, createShortage } from './hysteresis.ts'
import type { Dead, Throttled } from './incidents.ts'
import type { Sample } from './sample.ts'

/** Every kind of alert, and the text that is sent when it is over. */
export const kinds = {
  dead_delivery: 'no dead delivery is left',
  late_failure: 'nothing failed after its run for 10 minutes',
  handler_throttled: 'no handler is throttled any more',
  silence: 'events come again',
  journal_unavailable: 'the journal can be written again',
  journal_damaged: 'the receiver was started again: "b24-receiver verify" still lists the lines',
  dispatcher_restarting: 'the dispatcher has not ended by itself for 10 minutes',
  handler_not_loaded: 'every handler is loaded, or forgotten',
  incoming_webhook_refused: 'no incoming webhook is known to fail any more',
  wrong_tokens: 'no post came with a wrong token for 10 minutes',
  disk_nearly_full: 'the disk of DATA_DIR has room again',
} as const

export type Kind = keyof typeof kinds

/** Something that is wrong now. */
export interface Condition {
  readonly kind: Kind
  readonly text: string
  /** Grows with each new incident of the kind. A condition that only lasts does not change it. */
  readonly news: number
  readonly details: Readonly<Record<string, string | number | readonly string[] | undefined>>
}

/** Bytes. */
export interface Disk {
  readonly free: number
  readonly size: number
}

const minute = 60_000
const windowMs = 10 * minute

/** Milliseconds within which a new dispatcher's first call finds out that an incoming webhook does not work. */
const quietMs = minute

/** Bytes. The limit is a twentieth of the disk if that is less. */
const minFreeBytes = 500 * 1024 ** 2

/** Characters of a reason. It is limited because alerts go into a chat. */
const maxReasonLength = 1_000

/**
 * Returns a function that derives the current conditions from each sample and the samples before it.
 *
 * @param alertAfterSilence milliseconds without an event until the alert; `undefined` for no such alert
 */
export function createConditions({ alertAfterSilence }: { readonly alertAfterSilence: number | undefined }) {
  const burstOfEnds = createBurst({ minGrowth: 3, windowMs })
  const burstOfTokens = createBurst({ minGrowth: 10, windowMs })
  const lastingTrouble = createLasting(quietMs)
  const lastingLate = createLasting(windowMs)
  const shortage = createShortage()
  let lateBefore: number | undefined
  let refusedBefore: number | undefined
  let journalReason: string | undefined
  let dispatcherReason: string | undefined
  /** The incoming webhooks that recently did not work, by label. */
  const incomingWebhooks = new Map<string, { readonly reason: string; readonly seenAt: number }>()
  const newIncomingWebhooks = createNewNames()
  const newAbsent = createNewNames()

  function deadDelivery({ dead }: Sample): Condition | undefined {
    if (dead === undefined || dead.queued === 0) return undefined
    const { queued, count, last } = dead
    const many = queued === 1 ? 'a delivery is dead' : `${queued} deliveries are dead`
    const text = last ? `${many}; the last: ${describe(last, 'gave up')}` : `${many}, since before the start`
    const { reason, ...what } = last ?? {}
    const details = { dead: queued, ...what, reason: reason && cut(reason) }
    return { kind: 'dead_delivery', text, news: count, details }
  }

  function lateFailure({ late }: Sample, at: number): Condition | undefined {
    if (late === undefined) return undefined
    const isMore = late.count > (lateBefore ?? 0)
    lateBefore = late.count
    if (!lastingLate(isMore, at) || late.last === undefined) return undefined
    const { reason, ...what } = late.last
    return {
      kind: 'late_failure',
      text: `something that a run had started failed after the run was over, so it is not tried again: ${describe(late.last, 'at')}`,
      news: late.count,
      details: { ...what, reason: cut(reason) },
    }
  }

  function handlerThrottled({ throttled }: Sample, at: number): Condition | undefined {
    if (throttled?.last === undefined || at >= throttled.last.until) return undefined
    const { reason, until, ...what } = throttled.last
    return {
      kind: 'handler_throttled',
      text: `a handler is throttled: ${describeThrottled(throttled.last)}`,
      news: throttled.count,
      details: { ...what, reason, until: new Date(until).toISOString() },
    }
  }

  function silence({ journal }: Sample, at: number): Condition | undefined {
    if (journal === undefined || alertAfterSilence === undefined || at - journal.lastEventAt < alertAfterSilence)
      return undefined
    const last = new Date(journal.lastEventAt).toISOString()
    const text = `no event for ${inWords(at - journal.lastEventAt)}, since ${last}`
    return { kind: 'silence', text, news: 0, details: { last_event: last } }
  }

  function journalUnavailable({ journal }: Sample, at: number): Condition | undefined {
    if (journal === undefined) return undefined
    const { trouble, refused } = journal
    // The journal may have failed and recovered between two samples, and those posts were refused.
    const isFailing = trouble !== undefined || refused > (refusedBefore ?? refused)
    refusedBefore = refused
    if (!lastingTrouble(isFailing, at)) {
      journalReason = undefined
      return undefined
    }
    journalReason = trouble ?? journalReason
    const reason = cut(journalReason ?? 'see the log')
    const text = `the journal cannot be written, posts are refused and Bitrix24 does not send them again: ${reason}`
    return { kind: 'journal_unavailable', text, news: 0, details: { reason } }
  }

  function journalDamaged({ damaged }: Sample): Condition | undefined {
    if (damaged?.text === undefined) return undefined
    return { kind: 'journal_damaged', text: cut(damaged.text), news: damaged.count, details: { lines: damaged.count } }
  }

  function dispatcherRestarting({ dispatcher }: Sample, at: number): Condition | undefined {
    if (dispatcher === undefined) return undefined
    const ends = burstOfEnds(dispatcher.ends, at)
    // While the next dispatcher runs, it reports no trouble until it ends, too.
    dispatcherReason = dispatcher.trouble ?? (ends > 0 ? dispatcherReason : undefined)
    if (ends === 0) return undefined
    const reason = dispatcherReason && cut(dispatcherReason)
    const text = `the dispatcher ended ${ends} times within 10 minutes, events wait: ${reason ?? 'see the log'}`
    return { kind: 'dispatcher_restarting', text, news: 0, details: { ends, reason } }
  }

  function handlerNotLoaded({ absent = {} }: Sample): Condition | undefined {
    const handlers = Object.keys(absent)
    const news = newAbsent(handlers)
    if (handlers.length === 0) return undefined
    const text = cut(Object.values(absent).map(cut).join('; '))
    return { kind: 'handler_not_loaded', text, news, details: { handlers } }
  }

  function incomingWebhookRefused(sample: Sample, at: number): Condition | undefined {
    if (sample.incomingWebhooks === undefined) return undefined
    for (const [label, reason] of Object.entries(sample.incomingWebhooks))
      incomingWebhooks.set(label, { reason, seenAt: at })
    for (const [label, { seenAt }] of incomingWebhooks)
      if (Math.abs(at - seenAt) >= quietMs) incomingWebhooks.delete(label)
    const news = newIncomingWebhooks(incomingWebhooks.keys())
    if (incomingWebhooks.size === 0) return undefined
    const reasons = [...incomingWebhooks.values()].map(({ reason }) => cut(reason))
    const text = `what needs an incoming webhook waits: ${reasons.join('; ')}`
    return { kind: 'incoming_webhook_refused', text, news, details: { incoming_webhooks: reasons } }
  }

  function wrongTokens(sample: Sample, at: number): Condition | undefined {
    if (sample.wrongTokens === undefined) return undefined
    const count = burstOfTokens(sample.wrongTokens, at)
    if (count === 0) return undefined
    const text = `${count} posts with a wrong token were refused within 10 minutes; the log says from where`
    return { kind: 'wrong_tokens', text, news: 0, details: { count } }
  }

  function diskNearlyFull(disk: Disk | undefined): Condition | undefined {
    if (disk === undefined || !shortage(disk.free, Math.min(minFreeBytes, disk.size / 20))) return undefined
    const text = `the disk of DATA_DIR is nearly full: ${inMegabytes(disk.free)} of ${inMegabytes(disk.size)} are free`
    return { kind: 'disk_nearly_full', text, news: 0, details: { free_bytes: disk.free, size_bytes: disk.size } }
  }

  /** `at` is the current time in Unix milliseconds. */
  return (sample: Sample, disk: Disk | undefined, at: number): readonly Condition[] =>
    [
      deadDelivery(sample),
      lateFailure(sample, at),
      handlerThrottled(sample, at),
      silence(sample, at),
      journalUnavailable(sample, at),
      journalDamaged(sample),
      dispatcherRestarting(sample, at),
      handlerNotLoaded(sample),
      incomingWebhookRefused(sample, at),
      wrongTokens(sample, at),
      diskNearlyFull(disk),
    ].filter((condition) => condition !== undefined)
}

function describe({ handler, event, object, id, reason }: Dead, did: string): string {
  return `${handler} ${did} ${object === undefined ? event : `${event} ${object}`} (${id}): ${cut(reason)}`
}

function describeThrottled({ handler, event, object, id, reason, until }: Throttled): string {
  return `${handler} waits for ${object} until ${new Date(until).toISOString()}: it ${reason}; the last event: ${event} (${id})`
}

function cut(text: string): string {
  return shorten(text, maxReasonLength)
}

function inWords(ms: number): string {
  if (ms < 2 * minute) return `${Math.floor(ms / 1000)} s`
  return ms < 120 * minute ? `${Math.floor(ms / minute)} min` : `${Math.floor(ms / (60 * minute))} h`
}

function inMegabytes(bytes: number): string {
  return `${Math.floor(bytes / 1024 ** 2)} MB`
}
