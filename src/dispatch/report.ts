import type { Logger } from 'pino'
import { startAlerter } from '../alerts/alerter.ts'
import type { Throttled } from '../alerts/incidents.ts'
import type { Sample } from '../alerts/sample.ts'
import type { Bitrix24Error } from '../bitrix24/bitrix24-error.ts'
import type { IncomingWebhook } from '../bitrix24/incoming-webhook.ts'
import type { Config } from '../config/config.ts'
import type { Event } from '../events/event.ts'
import { type LoadedHandler, mayCallBitrix24, unknownEvents } from '../handler/loader.ts'

import type { Channel } from '../lib/ipc-channel.ts'
import type { Delivery, Queue } from '../queue/queue.ts'
import type { AbsentHandler } from './absent.ts'
import { type LoadReport, writeLoadReport } from './load-report.ts'
import type { FromDispatcher, ToDispatcher } from './messages.ts'
import { createDispatcherMetrics } from './metrics.ts'
import type { Outcome } from './runner.ts'

/** Reports the dispatcher's state to the log, to tools, and to its receiver or, without one, to its own alerter. */
export interface Report {
  readonly tell: (message: FromDispatcher) => void
  readonly handlers: (loaded: readonly LoadedHandler[]) => void
  /**
   * Writes the load report for `b24-receiver reload` and `handlers`, which have no
   * other source. The log has the same facts.
   */
  readonly load: (report: Partial<Omit<LoadReport, 'at'>>) => void
  readonly incomingWebhook: (incomingWebhook: IncomingWebhook, trouble: Bitrix24Error | undefined) => void
  /** Reports what waits because it lacks an incoming webhook, and why. Without a reason, it may continue. */
  readonly lack: (lacks: string, refusal: string | undefined) => void
  /** Reports why the queue's engine cannot be used; `undefined` once it can. The process itself is healthy. */
  readonly engine: (trouble: string | undefined) => void
  /** Reports the handlers that are not loaded while the others run. */
  readonly absent: (handlers: Iterable<AbsentHandler>) => void
  /** Reports why segments older than the retention are still there; `undefined` if there are none. */
  readonly retained: (trouble: string | undefined) => void
  /** Reports that this process follows the journal or, as a worker, claims deliveries. */
  readonly following: () => void
  /** Reports how much is pending, at an interval. @returns a function that stops it */
  readonly pending: (queue: Queue) => () => void
  readonly outcome: (ended: Outcome) => void
  readonly throttled: (throttled: Throttled) => void
  /** Reports that something a run started failed after the run had ended. */
  readonly late: (delivery: Delivery, reason: string) => void
  /** Sends the events to the receiver, which alone writes the journal. Resolves when they are on disk. */
  readonly append: (events: readonly Event[]) => Promise<void>
  /** Takes the receiver's answer to `append`. */
  readonly appended: (answer: Extract<ToDispatcher, { type: 'appended' }>) => void
  readonly metrics: () => Promise<void>
}

export interface ReportDeps {
  readonly config: Config
  /** The receiver that started this process. */
  readonly parent: Channel<ToDispatcher, FromDispatcher> | undefined
  readonly log: Logger
}

/** Milliseconds between two checks of how much is pending. */
const interval = 2_000

/** Characters of a dead delivery's reason. The receiver keeps the last reason and sends it to its alerter every second. */
const longestReason = 4_000

export function createReport({ config, parent, log }: ReportDeps): Report {
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
      if (config.incomingWebhooks.length === 0 && callers.length > 0)
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

    incomingWebhook(incomingWebhook, trouble) {
      const { label } = incomingWebhook
      metrics.incomingWebhookIs(incomingWebhook, trouble === undefined)
      if (trouble)
        log.error(
          { incoming_webhook: label, reason: trouble.message },
          'an incoming webhook does not work; what needs it waits',
        )
      else log.info({ incoming_webhook: label }, 'an incoming webhook works again; what waited for it goes on')
      tell({ type: 'incoming_webhook', label, ...(trouble && { trouble: trouble.message }) })
    },

    lack(lacks, refusal) {
      if (refusal !== undefined)
        log.error({ lacks, reason: refusal }, 'there is no incoming webhook for an event; what needs one waits')
      tell({ type: 'incoming_webhook', label: lacks, ...(refusal !== undefined && { trouble: refusal }) })
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

    pending(queue) {
      let told = ''
      const look = async () => {
        const state = await queue.state()
        const text = JSON.stringify(state)
        if (text !== told) tell({ type: 'state', state })
        told = text
      }
      // A queue that does not work fails in its other calls, too.
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

/** Used without a parent receiver. Sends the alerter only what a receiver would learn from its dispatcher. */
function tellAlerter({ config, log }: Pick<ReportDeps, 'config' | 'log'>): (message: FromDispatcher) => void {
  const incomingWebhooks = new Map<string, string>()
  let absent: NonNullable<Sample['absent']> = {}
  let dead: NonNullable<Sample['dead']> = { queued: 0, count: 0, last: undefined }
  let late: NonNullable<Sample['late']> = { count: 0, last: undefined }
  let throttled: NonNullable<Sample['throttled']> = { count: 0, last: undefined }
  if (config.alertUrl !== undefined)
    startAlerter({
      sample: () => ({ absent, incomingWebhooks: Object.fromEntries(incomingWebhooks), dead, late, throttled }),
      log,
    })
  return (message) => {
    if (message.type === 'absent') absent = message.reasons
    if (message.type === 'dead') dead = { ...dead, count: dead.count + 1, last: message.dead }
    if (message.type === 'late') late = { count: late.count + 1, last: message.late }
    if (message.type === 'throttled') throttled = { count: throttled.count + 1, last: message.throttled }
    if (message.type === 'state') dead = { ...dead, queued: message.state.dead }
    if (message.type === 'incoming_webhook' && message.trouble !== undefined)
      incomingWebhooks.set(message.label, message.trouble)
    if (message.type === 'incoming_webhook' && message.trouble === undefined) incomingWebhooks.delete(message.label)
  }
}
