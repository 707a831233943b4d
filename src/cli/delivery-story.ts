import { printable } from '../lib/printable.ts'
import type { Deliveries, DeliveryRecord, FailureRecord } from '../queue/deliveries.ts'
import { count } from './count.ts'
import { localTime } from './local-time.ts'

/** The history of a delivery. */
export interface DeliveryStory {
  readonly record: DeliveryRecord
  readonly failures: readonly FailureRecord[]
  /** The delivery that finally ran in its place, if it is still in the queue. */
  readonly ran: DeliveryRecord | undefined
}

export async function readStory(deliveries: Deliveries, record: DeliveryRecord): Promise<DeliveryStory> {
  let ran: DeliveryRecord | undefined
  // The delivery that ran for others may itself have been coalesced, while it waited for its retry.
  for (let into = record.coalescedInto; into !== undefined; into = ran?.coalescedInto)
    ran = await deliveries.ofKey(into)
  return { record, failures: await deliveries.failures(record), ran }
}

/** Formats a delivery for programs: times are ISO 8601 in UTC. */
export function recordToJson(record: DeliveryRecord) {
  const { handler, event: id, name: event, object, run, state, postponed, attempts, error } = record
  return {
    ...{ handler, id, event, object, run, state, postponed, attempts, error },
    createdAt: iso(record.createdAt),
    firstRunAt: iso(record.firstRunAt),
    due: iso(record.due),
    endedAt: iso(record.endedAt),
  }
}

/** Formats the history for programs. */
export function storyToJson({ record, failures, ran }: DeliveryStory) {
  return {
    ...recordToJson(record),
    coalescedInto: ran && { id: ran.event, run: ran.run, state: ran.state },
    failures: failures.map((failure) => ({ ...failure, at: iso(failure.at) })),
  }
}

function iso(time: number | undefined): string | undefined {
  return time === undefined ? undefined : new Date(time).toISOString()
}

/** Formats the history for a person: a line, and below it the times and the failures. */
export function storyToText(story: DeliveryStory): string {
  const { record, failures } = story
  const times = { created: record.createdAt, 'first run': record.firstRunAt, due: record.due, ended: record.endedAt }
  return [
    `${record.handler}${record.run > 1 ? `, run ${record.run}` : ''}: ${stateOf(story)}`,
    ...Object.entries(times).flatMap(([name, time]) =>
      time === undefined ? [] : `  ${name.padEnd(9)}  ${localTime(time)}`,
    ),
    ...failures.map(({ attempt, at, error }) => `  attempt ${attempt}  ${localTime(at)}  ${indent(error)}`),
    // The failures already contain their errors. Only a record of an older version may have an error of its own.
    ...(record.error === undefined || record.error === failures.at(-1)?.error
      ? []
      : [`  ${record.state === 'waiting' ? 'because' : 'error  '}    ${indent(record.error)}`]),
  ].join('\n')
}

/** An error that a handler threw may have several lines. */
function indent(text: string): string {
  return text
    .split('\n')
    .map((line, at) => (at === 0 ? '' : '      ') + printable(line))
    .join('\n')
}

function stateOf({ record, ran }: DeliveryStory): string {
  const after = `after ${count(record.attempts, 'attempt')}`
  switch (record.state) {
    case 'blocked':
      return 'blocked: another delivery of its object comes first'
    case 'ready':
      return 'ready: it runs as soon as there is room'
    case 'running':
      return `running, attempt ${record.attempts}`
    case 'waiting':
      if (record.postponed) return 'waiting for what its handler needs'
      return record.attempts === 0 ? 'waiting until its object is quiet' : `waiting for its next attempt, ${after}`
    case 'done':
      return `done ${after}`
    case 'dead':
      return `dead ${after}`
    case 'coalesced':
      if (ran === undefined) return 'coalesced into a delivery that is gone'
      if (ran.event === record.event) return `dead ${after}, and retried: run ${ran.run} (${ran.state})`
      return `coalesced: event ${ran.event} was run for it (${ran.state})`
  }
}
