import { randomUUIDv7 } from 'node:crypto'
import type { Client } from '../bitrix24/client.ts'
import type { IncomingWebhook } from '../bitrix24/incoming-webhook.ts'
import { objectOf } from '../events/catalogue.ts'
import type { Event } from '../events/event.ts'
import type { Journalled } from './journalled.ts'
import { pageSize, type Row, type Target } from './targets.ts'

/** Milliseconds by which the clock of this machine may be ahead of the portal's: `since` must be so much earlier. */
export const portalClockSlackMs = 60_000

/** The place from which an interrupted backfill continues: after this record of this target. */
export interface Place {
  readonly target: string
  readonly after: string
}

export interface BackfillDeps {
  readonly client: Pick<Client, 'call'>
  readonly incomingWebhook: IncomingWebhook
  readonly targets: readonly Target[]
  /** Only records changed then or later are read; `undefined`: all records. */
  readonly since: Date | undefined
  readonly journalled: Journalled
  /** The single handler that gets an event for every record, whatever the journal contains. */
  readonly only?: Recipient | undefined
  readonly from?: Place | undefined
  /** Resolves when the events are on disk. */
  readonly append: (events: readonly Event[]) => Promise<void>
  /** Called after each page, when its events are on disk. */
  readonly onPage: (place: Place, sum: Sum) => Promise<void> | void
}

/** The handler for which the events of a backfill are meant. */
export interface Recipient {
  readonly handler: string
  /** Whether the handler handles events of this name. */
  readonly matches: (event: string) => boolean
}

/** The numbers so far. */
export interface Sum {
  readonly records: number
  readonly events: number
}

/**
 * Makes an event of every record whose last change is not in the journal, to replace events that Bitrix24 sent while the
 * receiver was down. Only one page of records is in memory, and its events are on disk before the next page is read.
 *
 * @throws {TypeError} when the portal does not return pages in the order of ids
 */
export async function backfill(deps: BackfillDeps): Promise<Sum> {
  const { client, incomingWebhook, targets, since, journalled, only, from, append, onPage } = deps
  if (only) for (const target of targets) checkRecipient(target, only)
  let sum: Sum = { records: 0, events: 0 }
  const first = Math.max(
    0,
    targets.findIndex(({ name }) => name === from?.target),
  )
  for (const target of targets.slice(first)) {
    let after = target.name === from?.target ? from.after : '0'
    for (;;) {
      const rows = target.rows(await client.call(target.method, target.params(after, since)))
      const last = rows.at(-1)?.id ?? after
      if (rows.length > 0 && Number(last) <= Number(after))
        throw new TypeError(`${incomingWebhook.host} gives no pages of ${target.name} in the order of ids`)
      const found = rows.map((row) => toEvent(target, row, deps))
      const events = only ? found : found.filter((event) => isNews(event, journalled))
      if (events.length > 0) await append(events.map(({ event }) => event))
      sum = { records: sum.records + rows.length, events: sum.events + events.length }
      after = last
      await onPage({ target: target.name, after }, sum)
      if (rows.length < pageSize) break
    }
  }
  return sum
}

interface Found {
  readonly event: Event
  readonly changed: number
}

/**
 * A new record becomes an ADD event. Without `since` nothing is new: a first backfill must not announce every old record.
 */
function toEvent(target: Target, row: Row, { incomingWebhook, since, journalled, only }: BackfillDeps): Found {
  const isNew = since !== undefined && row.created * 1000 >= since.getTime()
  const change = target.event(row, only && !only.matches(nameOf(target, 'update')) ? 'add' : 'update')
  const object = objectOf(change.event, change.data)
  const isKnown = object !== undefined && journalled.newest(object) !== undefined
  const { event, data } = isNew && !isKnown && !only ? target.event(row, 'add') : change
  return {
    event: {
      id: randomUUIDv7(),
      webhook: incomingWebhook.name ?? journalled.origin?.webhook,
      event,
      object,
      source: 'backfill',
      handler: only?.handler,
      ts: String(row.changed),
      data,
      auth: journalled.origin?.auth ?? { domain: incomingWebhook.host },
      remote: incomingWebhook.host,
    },
    changed: row.changed,
  }
}

const noRow: Row = { id: '1', created: 0, changed: 0 }

function nameOf(target: Target, what: 'add' | 'update'): string {
  return target.event(noRow, what).event
}

/** Throws before events are journalled for a handler that would get none of them. */
function checkRecipient(target: Target, { handler, matches }: Recipient): void {
  const names = (['update', 'add'] as const).map((what) => nameOf(target, what))
  if (!names.some(matches))
    throw new TypeError(`the handler "${handler}" handles neither ${names.join(' nor ')}, so it gets no ${target.name}`)
}

function isNews({ event: { object }, changed }: Found, { newest }: Journalled): boolean {
  return object === undefined || (newest(object) ?? 0) < changed
}
