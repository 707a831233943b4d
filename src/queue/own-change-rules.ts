import type { LastChange } from '../bitrix24/last-change.ts'

/** A write through `context.bitrix24` that makes Bitrix24 send an event. */
export interface OwnWrite {
  readonly key: number
  readonly handler: string
  /** The user of the incoming webhook. */
  readonly user: string
  /** The event that the write fires, such as `ONCRMDEALUPDATE`; `undefined` if it is not expected. */
  readonly event: string | undefined
  /** Unix milliseconds, by our clock. */
  readonly sentAt: number
  /** The seconds within which the record may have changed, by the portal's clock. */
  readonly first: number
  readonly last: number
  /**
   * The write did change the record, so its event is certain to come. For other writes that is unknown: saving a value
   * that is already there may fire nothing.
   */
  readonly isCertain: boolean
  /** The subscriptions whose event for this write has come. */
  readonly accounted: readonly string[]
}

export interface Question {
  readonly handler: string
  /** The event's name without a type suffix. */
  readonly event: string
  /** The subscription that brought the event. Each of several subscriptions brings one event for a change. */
  readonly subscription: string
  /** Unix milliseconds, by our clock. */
  readonly receivedAt: number
  /** How many events the run would stand for. */
  readonly coalesced: number
  /** The writes of all handlers to the object. */
  readonly writes: readonly OwnWrite[]
  /** `false` if other writes may have been sent and not answered. */
  readonly isComplete: boolean
}

export type Verdict = 'own_change' | 'run'

export interface Judgement {
  readonly verdict: Verdict
  /** The writes whose event has come for this subscription. */
  readonly accounted: readonly OwnWrite[]
}

/** The writes that may have fired this event: they were sent before it came, and their own event is still expected. */
export function candidatesOf({ handler, event, subscription, receivedAt, writes }: Question): OwnWrite[] {
  return writes.filter(
    (write) =>
      write.handler === handler &&
      write.event === event &&
      write.sentAt <= receivedAt &&
      !write.accounted.includes(subscription),
  )
}

/**
 * Decides whether the event is explained by our own writes alone, and which of these writes it accounts for.
 *
 * The promise is that after any edit by anyone else a run begins. The promise rests on counting. A handler never has
 * more candidates than events of its own writes that are still to come, so while an edit's event is there too, not all
 * of these events can be own changes. Three rules follow. A write that may fire no event is not a candidate. An event
 * that runs uses up every write that may have fired it. A run for several events does the same. The author of the last
 * change is checked too, because events may get lost.
 */
export function judge(question: Question, lastChange: LastChange | undefined): Judgement {
  const { handler, coalesced, writes, isComplete } = question
  const candidates = candidatesOf(question)
  const run = { verdict: 'run', accounted: candidates } as const
  if (lastChange === undefined) return run
  const made = writes.filter((write) => isOf(write, lastChange))
  if (!made.some((write) => write.handler === handler)) return run

  // This write alone can have made the change, which is as good as certain.
  const isProved = (write: OwnWrite) => isComplete && made.length === 1 && made[0] === write
  // A proved write may lose its proof with the next write, so it is used first. A certain write stays certain.
  const counted = [
    ...candidates.filter((write) => !write.isCertain && isProved(write)),
    ...candidates.filter((write) => write.isCertain),
  ]
  if (counted.length < coalesced) return run
  return { verdict: 'own_change', accounted: coalesced === 1 ? counted.slice(0, 1) : candidates }
}

function isOf({ user, first, last }: OwnWrite, change: LastChange): boolean {
  return user === change.user && first <= change.at && change.at <= last
}
