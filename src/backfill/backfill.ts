import { randomUUIDv7 } from 'node:crypto'
import type { Client } from '../bitrix24/client.ts'
import type { Hook } from '../bitrix24/incoming-webhook.ts'
import { objectOf } from '../events/catalogue.ts'
import type { Event } from '../intake/event.ts'
import type { Journalled } from './journalled.ts'
import { pageSize, type Row, type Target } from './targets.ts'

/** Where an interrupted backfill goes on: after this record of this target. */
export interface Place {
  readonly target: string
  readonly after: string
}

export interface BackfillParts {
  readonly client: Pick<Client, 'call'>
  readonly hook: Hook
  readonly targets: readonly Target[]
  /** Records that were changed then or later; `undefined`: all there are. */
  readonly since: Date | undefined
  readonly journalled: Journalled
  /** The one handler that gets an event of every record, whatever the journal knows. */
  readonly only?: Recipient | undefined
  readonly from?: Place | undefined
  /** Resolves when they are on disk. */
  readonly append: (events: readonly Event[]) => Promise<void>
  /** After each page, when its events are on disk. */
  readonly onPage: (place: Place, sum: Sum) => Promise<void> | void
}

/** A handler that is to be filled. */
export interface Recipient {
  readonly handler: string
  /** Whether it handles events of this name. */
  readonly matches: (event: string) => boolean
}

/** So far. */
export interface Sum {
  readonly records: number
  readonly events: number
}

/**
 * Makes an event of every record whose last change the journal does not know: for what Bitrix24 sent while nobody
 * answered. One page of records is in memory at a time, and each is on disk before the next is asked for.
 *
 * @throws {TypeError} when the portal gives something else than such pages
 */
export async function backfill(parts: BackfillParts): Promise<Sum> {
  const { client, hook, targets, since, journalled, only, from, append, onPage } = parts
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
        throw new TypeError(`${hook.host} gives no pages of ${target.name} in the order of ids`)
      const found = rows.map((row) => toEvent(target, row, parts))
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

/** What handlers of a new record wait for is its ADD; a first fill must not greet every record there ever was. */
function toEvent(target: Target, row: Row, { hook, since, journalled, only }: BackfillParts): Found {
  const isNew = since !== undefined && row.created * 1000 >= since.getTime()
  const about = target.event(row, only && !only.matches(nameOf(target, 'update')) ? 'add' : 'update')
  const object = objectOf(about.event, about.data)
  const isKnown = object !== undefined && journalled.newest(object) !== undefined
  const { event, data } = isNew && !isKnown && !only ? target.event(row, 'add') : about
  return {
    event: {
      id: randomUUIDv7(),
      webhook: hook.name ?? journalled.origin?.webhook,
      event,
      object,
      source: 'backfill',
      handler: only?.handler,
      ts: String(row.changed),
      data,
      auth: journalled.origin?.auth ?? { domain: hook.host },
      remote: hook.host,
    },
    changed: row.changed,
  }
}

const noRow: Row = { id: '1', created: 0, changed: 0 }

function nameOf(target: Target, what: 'add' | 'update'): string {
  return target.event(noRow, what).event
}

/** Before anything is journalled for it: it would get none of it. */
function checkRecipient(target: Target, { handler, matches }: Recipient): void {
  const names = (['update', 'add'] as const).map((what) => nameOf(target, what))
  if (!names.some(matches))
    throw new TypeError(`the handler "${handler}" handles neither ${names.join(' nor ')}, so it gets no ${target.name}`)
}

function isNews({ event: { object }, changed }: Found, { newest }: Journalled): boolean {
  return object === undefined || (newest(object) ?? 0) < changed
}
