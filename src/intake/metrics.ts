import { Counter, Gauge, type Registry } from 'prom-client'
import { entries, entryOf } from '../events/catalogue.ts'
import type { Event } from '../events/event.ts'
import { createHistogram } from '../lib/histogram.ts'
import { refusals as codes, type RefusalCode } from './refusal.ts'
import type { RefusalLog } from './refusal-log.ts'
import type { ShapeLog } from './shape-log.ts'

export interface PostMetrics {
  /** @param ms from the decoded post to its answer */
  readonly accepted: (event: Event, ms: number) => void
  /** The time at which an earlier process accepted its last event. */
  readonly lastEventWas: (time: Date) => void
  /** The metrics that the registry does not hold, in Prometheus' text format. */
  readonly exposition: () => string
}

/** The label of undocumented events. Their names come from the wire, so their number has no bound. */
const other = 'other'

/** All labels that an event can have: the documented names and `other`. */
const labels: readonly string[] = [...new Set(entries.map(({ name }) => baseOf(name))), other]

/** `ts` is in Unix seconds. A number without exactly ten digits is not the time of an event. */
const [minTs, maxTs] = [1e9, 1e10]

export interface PostMetricsDeps {
  readonly registry: Registry
  readonly shapes: Pick<ShapeLog, 'counts'>
  readonly refusals: Pick<RefusalLog, 'counts'>
  /** The names of the held tokens; an empty name for a token without one. */
  readonly webhooks: () => readonly string[]
}

export function createPostMetrics({ registry, shapes, refusals, webhooks }: PostMetricsDeps): PostMetrics {
  const registers = [registry]
  /** By token name and event label. Plain numbers, because prom-client's counters cost too much for each post. */
  const accepted = new Map<string | undefined, Map<string, { count: number }>>()
  new Counter({
    name: 'b24_events_total',
    help: 'Events that were accepted, by their documented name and the name of their token.',
    labelNames: ['event', 'webhook'],
    registers,
    collect() {
      this.reset()
      // Every possible series starts at 0, because `increase()` misses the first event of a series that begins with it.
      for (const webhook of webhooks()) for (const event of labels) this.inc({ event, webhook }, 0)
      for (const [webhook = '', events] of accepted)
        for (const [event, { count }] of events) this.inc({ event, webhook }, count)
    },
  })
  new Counter({
    name: 'b24_schema_mismatches_total',
    help: 'Accepted events whose data was not as documented.',
    labelNames: ['event'],
    registers,
    collect() {
      this.reset()
      for (const { name } of entries) this.inc({ event: baseOf(name) }, 0)
      for (const [name, count] of shapes.counts) this.inc({ event: baseOf(name) }, count)
    },
  })
  new Counter({
    name: 'b24_requests_rejected_total',
    help: 'Requests that were not accepted, by the code of the answer.',
    labelNames: ['code'],
    registers,
    collect() {
      this.reset()
      for (const code of Object.keys(codes) as RefusalCode[]) this.inc({ code }, refusals.counts.get(code) ?? 0)
    },
  })
  const answer = createHistogram({
    name: 'b24_request_duration_seconds',
    help: 'From a decoded post to its answer with 200, the journal included.',
    buckets: [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10],
  })
  const lag = createHistogram({
    name: 'b24_event_lag_seconds',
    help: 'From the time when the portal queued an event (ts, in whole seconds of its clock) to its acceptance.',
    buckets: [1, 3, 10, 30, 60, 300, 900, 3_600, 21_600, 86_400],
  })
  let lastEventAt: number | undefined
  new Gauge({
    name: 'b24_last_event_timestamp_seconds',
    help: 'When the last event was accepted, also by an earlier process; absent when none ever was.',
    registers,
    collect() {
      if (lastEventAt === undefined) this.remove()
      else this.set(lastEventAt)
    },
  })

  function counterOf({ event, webhook }: Event): { count: number } {
    const events = accepted.get(webhook) ?? new Map<string, { count: number }>()
    const known = events.get(event)
    if (known) return known
    // Only the label is kept: names from the wire must not fill the memory.
    const label = labelOf(event)
    const counter = events.get(label) ?? { count: 0 }
    accepted.set(webhook, events.set(label, counter))
    return counter
  }

  return {
    accepted(event, ms) {
      const now = Date.now() / 1000
      lastEventAt = now
      counterOf(event).count++
      answer.observe(ms / 1000)
      const sent = Number(event.ts)
      if (sent >= minTs && sent < maxTs) lag.observe(Math.max(0, now - sent))
    },
    lastEventWas(time) {
      lastEventAt ??= time.getTime() / 1000
    },
    exposition: () => answer.exposition() + lag.exposition(),
  }
}

function labelOf(event: string): string {
  const entry = entryOf(event)
  return entry === undefined ? other : baseOf(entry.name)
}

/** ONCRMDYNAMICITEMUPDATE_147 counts as ONCRMDYNAMICITEMUPDATE. */
function baseOf(name: string): string {
  return name.replace(/_\{.*/, '')
}
