import type { SQLOutputValue } from 'node:sqlite'
import type { JournalledEvent } from '../../events/event.ts'
import { orderingKeyOf } from '../../events/ordering-key.ts'
import type { Position } from '../../journal/position.ts'
import { matcherOf } from '../../lib/pattern.ts'
import { storedOf } from '../delivery-row.ts'
import { readNames } from '../stored.ts'
import type { Named, Row, Salvage } from './salvage.ts'

/** An event of the journal, and where its line is. */
export interface Placed {
  readonly event: JournalledEvent
  readonly at: Position
}

export interface JournalIndex {
  readonly places: ReadonlyMap<string, { readonly order: number; readonly at: Position; readonly name: string }>
  /** Reads the events with these orders. */
  readonly read: (orders: ReadonlySet<number>) => Promise<ReadonlyMap<number, Placed>>
  /** Whether a line begins at the position, or the journal ends there. */
  readonly isPlace: (position: Position) => Promise<boolean>
}

/** A delivery that is not known to be done, and is pending again. */
export interface Uncertain {
  readonly event: string
  readonly handler: string
  /** Why its state is unknown. */
  readonly why: string
}

/** The contents of a repaired file, and what cannot be known. */
export interface Plan {
  readonly rows: readonly PlannedRow[]
  /** Where following continues. If it is `undefined`, DISPATCH_FROM must say it. */
  readonly position: Position | undefined
  readonly isPositionRead: boolean
  /** Deliveries that may have run already, and will run again. */
  readonly again: readonly Uncertain[]
  /** Deliveries that cannot run, because neither the journal nor a row has their event. */
  readonly gone: readonly Uncertain[]
}

export interface PlannedRow {
  /** The sort key of the row. A row that is inserted between two others has a fraction. */
  readonly place: number
  /** The row's key in the damaged file, if it had one. */
  readonly key: number | undefined
  readonly values: Readonly<Record<string, SQLOutputValue>>
}

const states = new Set(['blocked', 'ready', 'running', 'waiting', 'done', 'coalesced', 'dead'])
const endStates = new Set(['done', 'coalesced', 'dead'])

/**
 * Plans the contents of the new file. A delivery is done only if its readable row says so and its index does not name
 * another delivery in its place. Any other delivery that was pending is pending again.
 */
export async function planRebuild(found: Salvage, journal: JournalIndex): Promise<Plan> {
  const again: Uncertain[] = []
  const gone: Uncertain[] = []
  const rows: PlannedRow[] = []
  const missing = new Map<number, Named>()
  /** Rows whose index names another delivery, if either of the two may be right. */
  const disputed: { readonly key: number; readonly row: Row; readonly named: Named }[] = []
  /** The deliveries that such rows name, if the row may be the intact part. */
  const doubtful: (readonly [key: number, named: Named])[] = []
  /** Keys that no row and no index assigns to a delivery. */
  const nameless: number[] = []
  const handlers = found.handlers.flatMap(({ name, events, ordered, debounce }) =>
    typeof name === 'string' ? [{ name, events: readNames(events), ordered, debounce: Number(debounce ?? 0) }] : [],
  )
  const handlerNames = new Set(handlers.map(({ name }) => name))

  const keys = new Set([...found.deliveries.keys(), ...found.named.keys(), ...found.lost])
  // Keys have no gaps, so a missing row may have been on a lost page that SQLite does not report. A row that was
  // deleted on purpose has no event in the journal any more, or its handler is not registered. A dead delivery that was
  // dropped counts as one that runs again.
  const lastKey = [...found.deliveries.keys()].reduce((max, key) => Math.max(max, key), 0)
  for (let key = 1; key < lastKey; key++) keys.add(key)
  for (const key of keys) {
    const row = found.deliveries.get(key)
    const named = found.named.get(key)
    if (row === undefined || !isRow(row)) {
      if (named) missing.set(key, named)
      else nameless.push(key)
    } else if (named === undefined || idOf(namedBy(row)) === idOf(named))
      rows.push({ place: key, key, values: keepRow(row) })
    else if (!isKnown(namedBy(row))) missing.set(key, named)
    else if (isKnown(named)) disputed.push({ key, row, named })
    else rows.push({ place: key, key, values: keepRow(row) })
  }
  const sure = new Set(rows.map(({ values }) => idOf(namedBy(values))))
  for (const { key, row, named } of disputed) {
    const isOwn = !sure.has(idOf(namedBy(row)))
    // Another row has the delivery that the index names, so the index is damaged.
    if (sure.has(idOf(named)) && isOwn) rows.push({ place: key, key, values: keepRow(row) })
    else {
      missing.set(key, named)
      if (isOwn) doubtful.push([key, namedBy(row)])
    }
  }
  function isKnown({ event, handler }: Named): boolean {
    return journal.places.has(event) && (handlerNames.size === 0 || handlerNames.has(handler))
  }

  /** The place of a delivery's event in the journal. A replay says nothing about it. */
  const orderOf = ({ values }: PlannedRow) =>
    values['run'] === 1 ? journal.places.get(String(values['event_id']))?.order : undefined
  /** The last event with a known delivery. The journal was followed at least up to it. */
  const last = rows.reduce((max, row) => Math.max(max, orderOf(row) ?? -1), -1)
  const stored = positionOf(found.position)
  const readPosition = stored && (await journal.isPlace(stored)) ? stored : undefined
  /** Events behind this place are followed after the repair, again if necessary. */
  const followed = readPosition === undefined ? last : orderBefore(readPosition)

  function orderBefore({ segment, offset }: Position): number {
    let order = -1
    for (const { at, order: one } of journal.places.values())
      if (at.segment < segment || (at.segment === segment && at.offset < offset)) order = Math.max(order, one)
    return order
  }

  const wanted = new Map<number, { readonly named: Named; readonly place: number; readonly why: string }[]>()
  const have = new Set(rows.map(({ values }) => idOf(namedBy(values))))
  const want = (named: Named, place: number, why: string) => {
    if (have.has(idOf(named))) return
    have.add(idOf(named))
    const order = journal.places.get(named.event)?.order
    if (order === undefined)
      gone.push({ event: named.event, handler: named.handler, why: `${why}, and its event is not in the journal` })
    else wanted.set(order, [...(wanted.get(order) ?? []), { named, place, why }])
  }
  for (const [key, named] of missing) want(named, key, 'its row cannot be read')
  for (const [key, named] of doubtful) want(named, key, 'its row and the index of it name two deliveries')
  for (const one of inGaps()) want(one.named, one.place, 'its row cannot be read, nor what its index said')

  /**
   * For a delivery that no index names, only its neighbours are known. Rows are in the order of the journal, so the
   * candidates are each handler's events between the neighbours' events.
   */
  function inGaps(): { named: Named; place: number }[] {
    if (nameless.length === 0) return []
    const known = rows
      .flatMap((row) => {
        const order = orderOf(row)
        return order === undefined ? [] : [{ place: row.place, order }]
      })
      .sort((a, b) => a.place - b.place)
    const byOrder = [...journal.places].map(([event, { order, name }]) => ({ event, order, name }))
    const matchers = patternsOf()
    const gaps = new Map<string, { from: number; to: number; place: number }>()
    let passed = 0
    for (const key of nameless.sort((a, b) => a - b)) {
      while (passed < known.length && (known[passed]?.place ?? 0) < key) passed++
      const [before, after] = [known[passed - 1], known[passed]]
      const gap = { from: before?.order ?? -1, to: after?.order ?? Number.POSITIVE_INFINITY, place: before?.place ?? 0 }
      gaps.set(`${gap.from} ${gap.to}`, gap)
    }
    return [...gaps.values()].flatMap(({ from, to, place }) =>
      byOrder
        .filter(({ order }) => order >= from && order <= to && order <= followed)
        .flatMap(({ event, order, name }) =>
          matchers
            .filter(({ matches }) => matches(name))
            .map(({ handler }) => ({
              named: { event, handler, run: 1 },
              place: place + (order - from) / (byOrder.length + 2),
            })),
        ),
    )
  }

  /** If a handler's patterns cannot be read, the event names of its known deliveries replace them. */
  function patternsOf() {
    const names = new Map<string, Set<string>>()
    for (const { values } of rows) {
      const handler = String(values['handler'])
      names.set(handler, (names.get(handler) ?? new Set()).add(String(values['name'])))
    }
    for (const { handler, event } of found.named.values()) {
      const name = journal.places.get(event)?.name
      if (name !== undefined) names.set(handler, (names.get(handler) ?? new Set()).add(name))
    }
    for (const { name, events } of handlers) if (events) names.set(name, new Set(events))
    return [...names].map(([handler, events]) => ({ handler, matches: matcherOf([...events]) }))
  }

  const events = await journal.read(new Set(wanted.keys()))
  // Of deliveries with the same place, the one with the older event comes first.
  for (const [order, ones] of [...wanted].sort(([a], [b]) => a - b)) {
    const placed = events.get(order)
    for (const { named, place, why } of ones) {
      const { event, handler } = named
      if (placed === undefined) gone.push({ event, handler, why: `${why}, and its line cannot be read` })
      else {
        again.push({ event, handler, why })
        rows.push({ place, key: undefined, values: newRow(placed, named) })
      }
    }
  }

  function newRow({ event, at }: Placed, { handler, run }: Named): Record<string, SQLOutputValue> {
    const { ordered, debounce = 0 } = handlers.find(({ name }) => name === handler) ?? {}
    return {
      event_id: event.id,
      handler,
      run,
      ordering_key: ordered === 'none' ? null : orderingKeyOf(event),
      name: event.event,
      event: JSON.stringify(event),
      segment: at.segment,
      state: 'ready',
      attempts: 0,
      debounce,
      created_at: Date.parse(event.time) || 0,
    }
  }

  /** Keeps the row. A run that was under way counts as not begun. */
  function keepRow(row: Row): Record<string, SQLOutputValue> {
    const { key: _, ...values } = row
    const isRunning = row['state'] === 'running'
    return {
      ...values,
      ...(isRunning && { state: 'ready', attempts: Math.max(0, Number(row['attempts']) - 1), quarantined: 1 }),
      ...(!endStates.has(String(row['state'])) && { ordering_key: orderingKeyFor(row), ended_at: null }),
    }
  }

  rows.sort((a, b) => a.place - b.place)
  // Adding an existing delivery again adds nothing.
  const position = readPosition ?? [...journal.places.values()].find(({ order }) => order === last)?.at
  return { rows: orderOrderingKeys(rows), position, isPositionRead: readPosition !== undefined, again, gone }
}

/** The ordering key comes from the event, because the column may be damaged. */
function orderingKeyFor(row: Row): SQLOutputValue {
  if (row['ordering_key'] === null) return null
  const stored = storedOf({ ...row, ordering_key: null })
  return stored && 'event' in stored ? orderingKeyOf(stored.event) : String(row['ordering_key'])
}

/** Makes the first delivery of each ordering key the head, and blocks the others behind it; see schema.ts. */
function orderOrderingKeys(rows: readonly PlannedRow[]): readonly PlannedRow[] {
  const taken = new Set<string>()
  return rows.map((row) => {
    const { state, ordering_key: orderingKey, handler } = row.values
    if (endStates.has(String(state))) return row
    const id = JSON.stringify([handler, orderingKey])
    const isHead = typeof orderingKey !== 'string' || !taken.has(id)
    if (typeof orderingKey === 'string') taken.add(id)
    if (isHead && state !== 'blocked') return row
    return { ...row, values: { ...row.values, state: isHead ? 'ready' : 'blocked', since: null, due: null } }
  })
}

function isRow(row: Row): boolean {
  const { key, event_id, handler, run, name, segment, state, event = null, ordering_key: orderingKey = null } = row
  const areNumbers = [key, run, segment, row['attempts'], row['created_at']].every((value) =>
    Number.isSafeInteger(value),
  )
  const areTexts = [event_id, handler, name].every((value) => typeof value === 'string' && value !== '')
  if (!areNumbers || !areTexts || !states.has(String(state))) return false
  if (event !== null && typeof event !== 'string') return false
  // A finished delivery has no event, because the journal has it. Any other delivery needs its event.
  const isEnded = state === 'done' || state === 'coalesced'
  return (orderingKey === null || typeof orderingKey === 'string') && isEnded === (event === null)
}

function namedBy(row: Row): Named {
  return { event: String(row['event_id']), handler: String(row['handler']), run: Number(row['run']) }
}

function idOf({ event, handler, run }: Named): string {
  return JSON.stringify([event, handler, run])
}

function positionOf(row: Row | undefined): Position | undefined {
  if (!row || !Number.isSafeInteger(row['segment']) || !Number.isSafeInteger(row['offset'])) return undefined
  return { segment: Number(row['segment']), offset: Number(row['offset']) }
}
