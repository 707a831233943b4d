import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client'
import { createPostMetrics } from '../intake/metrics.ts'
import type { RefusalLog } from '../intake/refusal-log.ts'
import type { ShapeLog } from '../intake/shape-log.ts'
import type { Sync } from '../journal/journal.ts'
import { createHistogram } from '../lib/histogram.ts'
import type { Supervisor } from './supervisor.ts'

export interface ReceiverMetricsDeps {
  readonly shapes: ShapeLog
  readonly refusals: RefusalLog
  readonly journalTrouble: () => string | undefined
  readonly droppedConnections: () => number
  /** The names of the tokens; an empty string for a token without a name. */
  readonly webhooks: () => readonly string[]
  /** Absent if this receiver starts no dispatcher. Returns `undefined` until the dispatcher is started. */
  readonly supervisor?: () => Supervised | undefined
}

type Supervised = Pick<Supervisor, 'status' | 'metrics'>

const states = ['ready', 'running', 'waiting', 'blocked', 'dead'] as const

export const contentType = Registry.PROMETHEUS_CONTENT_TYPE

export function createReceiverMetrics({
  shapes,
  refusals,
  journalTrouble,
  droppedConnections,
  webhooks,
  supervisor,
}: ReceiverMetricsDeps) {
  const registry = new Registry()
  const posts = createPostMetrics({ registry, shapes, refusals, webhooks })
  addGauge(registry, {
    name: 'b24_journal_writable',
    help: '0 when the last events were refused because the disk did not take them, otherwise 1.',
    read: () => (journalTrouble() === undefined ? 1 : 0),
  })
  addCounter(registry, {
    name: 'b24_connections_dropped_total',
    help: 'Connections that were closed unanswered because descriptors had run out.',
    read: droppedConnections,
  })
  const fsync = createHistogram({
    name: 'b24_journal_fsync_seconds',
    help: 'What an fsync of the journal took.',
    buckets: [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10],
  })
  const lines = createHistogram({
    name: 'b24_journal_batch_size',
    help: 'Events that shared an fsync of the journal.',
    buckets: [1, 2, 4, 8, 16, 32, 64, 128, 256],
  })
  const askDispatcher = supervisor && addDispatcher(supervisor, registry)
  collectDefaultMetrics({ register: registry, labels: { component: 'receiver' } })

  return {
    ...posts,
    synced: ({ lines: count, ms }: Sync) => {
      fsync.observe(ms / 1000)
      lines.observe(count)
    },
    /** Returns the answer to a scrape: the receiver's metrics, and the dispatcher's if it sends them in time. */
    exposition: async (): Promise<string> => {
      // Not in parallel: whether the dispatcher answered is one of the receiver's metrics.
      const theirs = await askDispatcher?.()
      return merge([await registry.metrics(), posts.exposition(), fsync.exposition(), lines.exposition(), theirs ?? ''])
    },
  }
}

/**
 * Registers the metrics of the dispatcher that the receiver itself knows. They must be
 * there when the dispatcher is stuck or gone.
 *
 * @returns a function that asks the dispatcher for its own metrics
 */
function addDispatcher(
  supervisor: () => Supervised | undefined,
  registry: Registry,
): () => Promise<string | undefined> {
  let theirs: string | undefined
  addGauge(registry, {
    name: 'b24_dispatcher_up',
    help: '1 when the dispatcher follows the journal and told its metrics within a second, otherwise 0.',
    read() {
      const status = supervisor()?.status()
      return status !== undefined && status.trouble === undefined && theirs !== undefined ? 1 : 0
    },
  })
  addCounter(registry, {
    name: 'b24_dispatcher_exits_total',
    help: 'How often a dispatcher ended by itself or was killed because it was stuck.',
    read: () => supervisor()?.status().ends ?? 0,
  })
  addCounter(registry, {
    name: 'b24_journal_damaged_lines_total',
    help: 'Lines of the journal that the dispatcher could not read and passed over.',
    read: () => supervisor()?.status().damaged.count ?? 0,
  })
  new Gauge({
    name: 'b24_deliveries',
    help: 'Deliveries that are pending or dead, by state, as the dispatcher last said.',
    labelNames: ['state'],
    registers: [registry],
    collect() {
      const counts = supervisor()?.status().queue
      if (counts) for (const state of states) this.set({ state }, counts[state])
    },
  })
  addGauge(registry, {
    name: 'b24_oldest_delivery_age_seconds',
    help: 'For how long the oldest delivery is pending; 0 when none is, and absent while it is unknown.',
    read() {
      const { queue, trouble } = supervisor()?.status() ?? {}
      if (queue?.oldestAt !== undefined) return Math.max(0, Date.now() - queue.oldestAt) / 1000
      // An old "none pending" is not reliable while no dispatcher turns events into deliveries.
      return queue !== undefined && trouble === undefined ? 0 : undefined
    },
  })
  return async () => {
    theirs = await supervisor()?.metrics()
    return theirs
  }
}

/** A metric whose value is read when it is asked for. `undefined`: the metric is absent. */
interface ReadMetric {
  readonly name: string
  readonly help: string
  readonly read: () => number | undefined
}

function addGauge(registry: Registry, { name, help, read }: ReadMetric): void {
  const collect = () => {
    const value = read()
    if (value === undefined) gauge.remove()
    else gauge.set(value)
  }
  const gauge = new Gauge({ name, help, registers: [registry], collect })
}

function addCounter(registry: Registry, { name, help, read }: ReadMetric): void {
  const collect = () => {
    counter.reset()
    counter.inc(read() ?? 0)
  }
  const counter = new Counter({ name, help, registers: [registry], collect })
}

/** Merges the texts: the format requires all samples of a name together, below one HELP and one TYPE. */
function merge(expositions: readonly string[]): string {
  const metrics = new Map<string, string[]>()
  let lines: string[] = []
  for (const line of expositions.flatMap((text) => text.split('\n')))
    if (line.startsWith('# HELP ')) {
      lines = metrics.get(line) ?? [line]
      metrics.set(line, lines)
    } else if (line !== '' && !(line.startsWith('# TYPE ') && lines.length > 1)) lines.push(line)
  return [...metrics.values()].map((one) => `${one.join('\n')}\n`).join('')
}
