import { collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { IncomingWebhook } from '../bitrix24/incoming-webhook.ts'
import type { Outcome } from './outcome.ts'

/** All outcomes: the type rejects a list that lacks one. */
const outcomes = {
  handled: true,
  unchanged: true,
  gone: true,
  own_change: true,
  retried: true,
  dead: true,
  postponed: true,
  throttled: true,
  remembered: true,
} as const satisfies Record<Outcome['outcome'], true>

/** The metrics that only the dispatcher's process knows. They start at zero with each dispatcher. */
export function createDispatcherMetrics({
  incomingWebhooks,
}: {
  readonly incomingWebhooks: readonly IncomingWebhook[]
}) {
  const registry = new Registry()
  const registers = [registry]
  const runs = new Histogram({
    name: 'b24_handler_run_seconds',
    help: 'Runs of a handler, by what became of the delivery; 0 seconds where it was not run.',
    labelNames: ['handler', 'outcome'],
    buckets: [0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 300],
    registers,
  })
  const up = new Gauge({
    name: 'b24_incoming_webhook_up',
    help: '0 while an incoming webhook does not work, by the name that it has in B24_HOOK, otherwise 1.',
    labelNames: ['incoming_webhook'],
    registers,
  })
  const incomingWebhookIs = ({ name = '' }: IncomingWebhook, isUp: boolean) =>
    up.set({ incoming_webhook: name }, Number(isUp))
  /** Starts every outcome of these handlers at zero, so that a rate counts the first run. */
  const handlersAre = (names: readonly string[]) => {
    for (const handler of names) for (const outcome of Object.keys(outcomes)) runs.zero({ handler, outcome })
  }
  for (const incomingWebhook of incomingWebhooks) incomingWebhookIs(incomingWebhook, true)
  collectDefaultMetrics({ register: registry, labels: { component: 'dispatcher' } })
  return {
    handlersAre,
    ended: ({ handler, outcome, ms }: Outcome) => runs.observe({ handler, outcome }, ms / 1000),
    incomingWebhookIs,
    exposition: () => registry.metrics(),
  }
}
