import type { Logger } from 'pino'
import { startAlerter } from '../alerts/alerter.ts'
import type { Throttled } from '../alerts/incidents.ts'
import type { Bitrix24Error } from '../bitrix24/bitrix24-error.ts'
import type { IncomingWebhook } from '../bitrix24/incoming-webhook.ts'
import type { Config } from '../config/config.ts'
import type { Event } from '../events/event.ts'
import { type LoadedHandler, mayCallBitrix24 } from '../handler/loader.ts'
import { unknownEvents } from '../handler/unknown-events.ts'
import type { Channel } from '../lib/ipc-channel.ts'
import type { Delivery, Queue } from '../queue/queue.ts'
import type { AbsentHandler } from './absent.ts'
import { type LoadReport, writeLoadReport } from './load-report.ts'
import type { FromDispatcher, ToDispatcher } from './messages.ts'
import { createDispatcherMetrics } from './metrics.ts'
import type { Outcome } from './outcome.ts'
import { createStatus, handlerSampleOf, updateStatus } from './status.ts'

export interface ReportDeps {
  readonly config: Config
  /** The receiver that started this process. */
  readonly parent: Channel<ToDispatcher, FromDispatcher> | undefined
  readonly log: Logger
}

/** Milliseconds between two checks of how much is pending. */
const interval = 2_000

/** Characters of a dead delivery's reason. The receiver keeps the last reason. */
const maxReasonLength = 4_000

export type Report = ReturnType<typeof createReport>

/** Reports the dispatcher's state to the log, to tools, and to its receiver or, without one, to its own alerter. */
export function createReport({ config, parent, log }: ReportDeps) {
  const startedAt = Date.now()
  const metrics = createDispatcherMetrics(config)
  const appending = new Map<number, PromiseWithResolvers<void>>()
  let requests = 0
  let engineTrouble: string | undefined
  let isFollowing = false
  let isLoading = false
  const send = parent ? parent.send : reportToAlerter({ config, log })

  /**
   * Writes the load report for `b24-receiver reload` and `handlers`, which have no other source. The log has the same
   * facts.
   */
  function load({ loaded = [], broken = [], trouble, loading, leftOut }: Partial<Omit<LoadReport, 'at'>>): void {
    isLoading = loading !== undefined && loading.length > 0
    try {
      writeLoadReport(config.dataDir, { at: startedAt, loaded, broken, trouble, loading, leftOut })
    } catch (error) {
      log.warn({ err: error }, 'whether the handlers were loaded cannot be written down')
    }
  }

  return {
    send,
    load,

    /** The files that are being loaded did not cause the end of this process. */
    noLongerLoading: (): void => {
      if (isLoading) load({ loading: [] })
    },

    handlers: (loaded: readonly LoadedHandler[]): void => {
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
      send({ type: 'loaded' })
    },

    incomingWebhook: (incomingWebhook: IncomingWebhook, trouble: Bitrix24Error | undefined): void => {
      const { label } = incomingWebhook
      metrics.incomingWebhookIs(incomingWebhook, trouble === undefined)
      if (trouble)
        log.error(
          { incoming_webhook: label, reason: trouble.message },
          'an incoming webhook does not work; what needs it waits',
        )
      else log.info({ incoming_webhook: label }, 'an incoming webhook works again; what waited for it goes on')
      send({ type: 'incoming_webhook', label, ...(trouble && { trouble: trouble.message }) })
    },

    /** Reports what waits because it lacks an incoming webhook, and why. Without a reason, it may continue. */
    lack: (lacks: string, refusal: string | undefined): void => {
      if (refusal !== undefined)
        log.error({ lacks, reason: refusal }, 'there is no incoming webhook for an event; what needs one waits')
      send({ type: 'incoming_webhook', label: lacks, ...(refusal !== undefined && { trouble: refusal }) })
    },

    /** Reports why the queue's engine cannot be used; `undefined` once it can. The process itself is healthy. */
    engine: (trouble: string | undefined): void => {
      engineTrouble = trouble
      if (trouble !== undefined) send({ type: 'trouble', reason: trouble })
      else if (isFollowing) send({ type: 'following' })
    },

    absent: (handlers: Iterable<AbsentHandler>) =>
      send({ type: 'absent', reasons: Object.fromEntries([...handlers].map(({ name, reason }) => [name, reason])) }),

    /** Reports why segments older than the retention are still there; `undefined` if there are none. */
    retained: (text: string | undefined) =>
      send({ type: 'warning', subject: 'retention', ...(text !== undefined && { text }) }),

    /** Reports that this process follows the journal or, as a worker, claims deliveries. */
    following: (): void => {
      isFollowing = true
      send(engineTrouble === undefined ? { type: 'following' } : { type: 'trouble', reason: engineTrouble })
    },

    /** Reports how much is pending, at an interval. @returns a function that stops it */
    pending: (queue: Queue): (() => void) => {
      let sent = ''
      const check = async () => {
        const state = await queue.state()
        const text = JSON.stringify(state)
        if (text !== sent) send({ type: 'state', state })
        sent = text
      }
      // A queue that does not work fails in its other calls, too.
      const now = () => void check().catch(() => undefined)
      now()
      const timer = setInterval(now, interval)
      return () => clearInterval(timer)
    },

    outcome: (ended: Outcome): void => {
      const { handler, event, outcome, reason = '' } = ended
      metrics.ended(ended)
      send({ type: 'worked' })
      if (outcome !== 'dead') return
      const { id, object } = event
      send({
        type: 'dead',
        dead: { handler, id, event: event.event, object, reason: reason.slice(0, maxReasonLength) },
      })
    },

    /** Reports that something a run started failed after the run had ended. */
    late: ({ handler, event: { id, event, object } }: Delivery, reason: string): void => {
      send({ type: 'late', late: { handler, id, event, object, reason: reason.slice(0, maxReasonLength) } })
    },

    throttled: (throttled: Throttled) => send({ type: 'throttled', throttled }),

    /** Sends the events to the receiver, which alone writes the journal. Resolves when they are on disk. */
    append: (events: readonly Event[]): Promise<void> => {
      const request = ++requests
      const answer = Promise.withResolvers<void>()
      appending.set(request, answer)
      send({ type: 'append', request, events })
      return answer.promise
    },

    appended: ({ request, error }: Extract<ToDispatcher, { type: 'appended' }>): void => {
      const answer = appending.get(request)
      appending.delete(request)
      if (error === undefined) answer?.resolve()
      else answer?.reject(new Error(error))
    },

    metrics: async (): Promise<void> => {
      try {
        send({ type: 'metrics', text: await metrics.exposition() })
      } catch (error) {
        log.error({ err: error }, 'the metrics cannot be sent to the receiver')
      }
    },
  }
}

/** Used without a parent receiver. The alerter gets only what a receiver would learn from its dispatcher. */
function reportToAlerter({ config, log }: Pick<ReportDeps, 'config' | 'log'>): (message: FromDispatcher) => void {
  let status = createStatus('')
  startAlerter({ ...config, sample: () => handlerSampleOf(status), log })
  return (message) => {
    status = updateStatus(status, message)
  }
}
