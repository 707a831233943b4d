import type { Logger } from 'pino'
import { startAlerter } from '../alerts/alerter.ts'
import type { Snapshot } from '../alerts/snapshot.ts'
import type { Bitrix24Error } from '../bitrix24/bitrix24-error.ts'
import type { Hook } from '../bitrix24/incoming-webhook.ts'
import type { Channel } from '../lib/ipc-channel.ts'
import type { Config } from '../config/config.ts'
import type { Event } from '../intake/event.ts'
import { createDispatcherMetrics } from './metrics.ts'
import type { AbsentHandler } from './absent.ts'
import { type LoadReport, writeLoadReport } from './load-report.ts'
import type { FromDispatcher, Throttled, ToDispatcher } from './messages.ts'
import type { Delivery, Queue } from '../queue/queue.ts'
import { type LoadedHandler, mayCallBitrix24, unknownEvents } from '../handler/loader.ts'
import type { Outcome } from './runner.ts'

/** What a dispatcher says of itself: to its receiver, or, without one, to an alerter of its own; in the log; to tools. */
export interface Report {
  readonly tell: (message: FromDispatcher) => void
  readonly handlers: (loaded: readonly LoadedHandler[]) => void
  /** For `b24-receiver reload` and `handlers`, which have nothing else to ask; the log says the same. */
  readonly load: (report: Partial<Omit<LoadReport, 'at'>>) => void
  readonly hook: (hook: Hook, trouble: Bitrix24Error | undefined) => void
  /** What waits for want of a hook, and why; without a reason it may go on. */
  readonly lack: (lacks: string, refusal: string | undefined) => void
  /** Why the engine cannot be used; `undefined` once it can. What needs it waits; it is not this process that is ill. */
  readonly engine: (trouble: string | undefined) => void
  /** Those that are not loaded while the others run. */
  readonly absent: (handlers: Iterable<AbsentHandler>) => void
  /** Why segments stay that are older than the retention; `undefined` where none does. */
  readonly retained: (trouble: string | undefined) => void
  /** It follows the journal, or, as a worker, claims deliveries. */
  readonly following: () => void
  /** Tells, again and again, how much is owed. @returns ends that */
  readonly owed: (queue: Queue) => () => void
  readonly outcome: (ended: Outcome) => void
  readonly throttled: (throttled: Throttled) => void
  /** Something that a run has started failed after its end. */
  readonly late: (delivery: Delivery, reason: string) => void
  /** Lets the receiver journal them, for nobody else writes there. Resolves when they are on disk. */
  readonly append: (events: readonly Event[]) => Promise<void>
  /** What the receiver answered to `append`. */
  readonly appended: (answer: Extract<ToDispatcher, { type: 'appended' }>) => void
  readonly metrics: () => Promise<void>
}

export interface ReportParts {
  readonly config: Config
  /** The receiver that started this process. */
  readonly parent: Channel<ToDispatcher, FromDispatcher> | undefined
  readonly log: Logger
}

/** Milliseconds between two looks at how much is owed. */
const interval = 2_000

/** Characters of why a delivery is dead: the receiver keeps the last, and tells it to its alerter every second. */
const longestReason = 4_000

export function createReport({ config, parent, log }: ReportParts): Report {
  const startedAt = Date.now()
  const metrics = createDispatcherMetrics(config)
  const appending = new Map<number, PromiseWithResolvers<void>>()
  let requests = 0
  let engineTrouble: string | undefined
  let isFollowing = false
  const tell = parent ? parent.send : tellAlerter({ config, log })

  return {
    tell: (message) => tell(message),

    handlers(loaded) {
      metrics.handlersAre(loaded.map(({ name }) => name))
      for (const { name, events } of loaded) log.info({ handler: name, events }, 'handler loaded')
      for (const handler of loaded)
        for (const unknown of unknownEvents(handler))
          log.warn(
            { handler: handler.name, ...unknown },
            'the documentation does not know this event: is it spelt right?',
          )
      const callers = loaded.filter(mayCallBitrix24).map(({ name }) => name)
      if (config.hooks.length === 0 && callers.length > 0)
        log.warn({ handlers: callers }, 'B24_HOOK is not set: events wait for it whose handlers call Bitrix24')
      if (loaded.length === 0) log.warn({ dir: config.handlersDir }, 'no handlers: events are journalled only')
      tell({ type: 'loaded' })
    },

    load({ loaded = [], broken = [], trouble, loading, leftOut }) {
      try {
        writeLoadReport(config.dataDir, { at: startedAt, loaded, broken, trouble, loading, leftOut })
      } catch (error) {
        log.warn({ err: error }, 'whether the handlers were loaded cannot be written down')
      }
    },

    hook(hook, trouble) {
      const { label } = hook
      metrics.hookIs(hook, trouble === undefined)
      if (trouble) log.error({ hook: label, reason: trouble.message }, 'a hook does not work; what needs it waits')
      else log.info({ hook: label }, 'a hook works again; what waited for it goes on')
      tell({ type: 'hook', label, ...(trouble && { trouble: trouble.message }) })
    },

    lack(lacks, refusal) {
      if (refusal !== undefined)
        log.error({ lacks, reason: refusal }, 'there is no hook for an event; what needs one waits')
      tell({ type: 'hook', label: lacks, ...(refusal !== undefined && { trouble: refusal }) })
    },

    engine(trouble) {
      engineTrouble = trouble
      if (trouble !== undefined) tell({ type: 'trouble', reason: trouble })
      else if (isFollowing) tell({ type: 'following' })
    },

    absent: (handlers) =>
      tell({ type: 'absent', reasons: Object.fromEntries([...handlers].map(({ name, reason }) => [name, reason])) }),

    retained: (text) => tell({ type: 'warning', about: 'retention', ...(text !== undefined && { text }) }),

    following() {
      isFollowing = true
      tell(engineTrouble === undefined ? { type: 'following' } : { type: 'trouble', reason: engineTrouble })
    },

    owed(queue) {
      let told = ''
      const look = async () => {
        const state = await queue.state()
        const text = JSON.stringify(state)
        if (text !== told) tell({ type: 'state', state })
        told = text
      }
      // A queue that cannot be asked says so by its other calls.
      const now = () => void look().catch(() => undefined)
      now()
      const timer = setInterval(now, interval)
      return () => clearInterval(timer)
    },

    outcome(ended) {
      const { handler, event, outcome, reason = '' } = ended
      metrics.ended(ended)
      tell({ type: 'worked' })
      if (outcome !== 'dead') return
      const { id, object } = event
      tell({ type: 'dead', dead: { handler, id, event: event.event, object, reason: reason.slice(0, longestReason) } })
    },

    late({ handler, event: { id, event, object } }, reason) {
      tell({ type: 'late', late: { handler, id, event, object, reason: reason.slice(0, longestReason) } })
    },

    throttled: (throttled) => tell({ type: 'throttled', throttled }),

    append(events) {
      const request = ++requests
      const answer = Promise.withResolvers<void>()
      appending.set(request, answer)
      tell({ type: 'append', request, events })
      return answer.promise
    },

    appended({ request, error }) {
      const answer = appending.get(request)
      appending.delete(request)
      if (error === undefined) answer?.resolve()
      else answer?.reject(new Error(error))
    },

    async metrics() {
      try {
        tell({ type: 'metrics', text: await metrics.exposition() })
      } catch (error) {
        log.error({ err: error }, 'the metrics cannot be told')
      }
    },
  }
}

/** Its receiver knows the rest, but not what a dispatcher of its own would tell it. */
function tellAlerter({ config, log }: Pick<ReportParts, 'config' | 'log'>): (message: FromDispatcher) => void {
  const hooks = new Map<string, string>()
  let absent: NonNullable<Snapshot['absent']> = {}
  let dead: NonNullable<Snapshot['dead']> = { queued: 0, count: 0, last: undefined }
  let late: NonNullable<Snapshot['late']> = { count: 0, last: undefined }
  let throttled: NonNullable<Snapshot['throttled']> = { count: 0, last: undefined }
  if (config.alertUrl !== undefined)
    startAlerter({ snapshot: () => ({ absent, hooks: Object.fromEntries(hooks), dead, late, throttled }), log })
  return (message) => {
    if (message.type === 'absent') absent = message.reasons
    if (message.type === 'dead') dead = { ...dead, count: dead.count + 1, last: message.dead }
    if (message.type === 'late') late = { count: late.count + 1, last: message.late }
    if (message.type === 'throttled') throttled = { count: throttled.count + 1, last: message.throttled }
    if (message.type === 'state') dead = { ...dead, queued: message.state.dead }
    if (message.type === 'hook' && message.trouble !== undefined) hooks.set(message.label, message.trouble)
    if (message.type === 'hook' && message.trouble === undefined) hooks.delete(message.label)
  }
}
