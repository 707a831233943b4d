import { collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { Hook } from '../bitrix24/incoming-webhook.ts'
import type { Outcome } from './runner.ts'

export interface DispatcherMetrics {
  /** These are loaded: what became of their runs is told from the first on. */
  readonly handlersAre: (names: readonly string[]) => void
  readonly ended: (outcome: Outcome) => void
  readonly hookIs: (hook: Hook, isUp: boolean) => void
  readonly exposition: () => Promise<string>
}

/** All of them, which the type holds. */
const outcomes = {
  handled: true,
  unchanged: true,
  gone: true,
  echo: true,
  retried: true,
  dead: true,
  postponed: true,
  held: true,
  remembered: true,
} as const satisfies Record<Outcome['outcome'], true>

/** What only the dispatcher's process knows. It all begins at zero with each dispatcher. */
export function createDispatcherMetrics({ hooks }: { readonly hooks: readonly Hook[] }): DispatcherMetrics {
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
    name: 'b24_hook_up',
    help: '0 while a hook does not work, by the name that it has in B24_HOOK, otherwise 1.',
    labelNames: ['hook'],
    registers,
  })
  const hookIs = ({ name = '' }: Hook, isUp: boolean) => up.set({ hook: name }, Number(isUp))
  const handlersAre = (names: readonly string[]) => {
    for (const handler of names) for (const outcome of Object.keys(outcomes)) runs.zero({ handler, outcome })
  }
  for (const hook of hooks) hookIs(hook, true)
  collectDefaultMetrics({ register: registry, labels: { part: 'dispatcher' } })
  return {
    handlersAre,
    ended: ({ handler, outcome, ms }) => runs.observe({ handler, outcome }, ms / 1000),
    hookIs,
    exposition: () => registry.metrics(),
  }
}
