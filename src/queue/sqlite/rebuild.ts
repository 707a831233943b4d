import { DatabaseSync, type SQLOutputValue } from 'node:sqlite'
import type { JournalledEvent } from '../../events/event.ts'
import { orderingKeyOf } from '../../events/ordering-key.ts'
import type { Position } from '../../journal/position.ts'

import { matcherOf } from '../../lib/pattern.ts'
import { readNames, readSnapshotFields, readStoredEvent } from '../stored.ts'
import { openSqliteQueue } from './queue.ts'
import type { Named, Row, Salvage } from './salvage.ts'
import { inTransaction } from './schema.ts'

/** An event of the journal, and its place in the order of all events. */
export interface Placed {
  readonly event: JournalledEvent
  readonly at: Position
  readonly order: number
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

  for (const [key, row] of found.deliveries) {
    const named = found.named.get(key)
    if (!isRow(row)) {
      if (named) missing.set(key, named)
      else nameless.push(key)
    } else if (named === undefined || isSame(row, named)) rows.push({ place: key, key, values: keepRow(row) })
    else if (!isKnown(namedBy(row))) missing.set(key, named)
    else if (isKnown(named)) disputed.push({ key, row, named })
    else rows.push({ place: key, key, values: keepRow(row) })
  }
  const sure = new Set(rows.map(({ values }) => idIn(namedBy(values))))
  for (const { key, row, named } of disputed) {
    const isOwn = !sure.has(idIn(namedBy(row)))
    // Another row has the delivery that the index names, so the index is damaged.
    if (sure.has(idIn(named)) && isOwn) rows.push({ place: key, key, values: keepRow(row) })
    else {
      missing.set(key, named)
      if (isOwn) doubtful.push([key, namedBy(row)])
    }
  }
  for (const key of found.lost) {
    const named = found.named.get(key)
    if (named) missing.set(key, named)
    else nameless.push(key)
  }
  // Keys have no gaps, so a missing row may have been on a lost page that SQLite does not report. A row that was
  // deleted on purpose has no event in the journal any more, or its handler is not registered. A dead delivery that was
  // dropped counts as one that runs again.
  const lastKey = [...found.deliveries.keys()].reduce((most, key) => Math.max(most, key), 0)
  const lost = new Set(found.lost)
  for (let key = 1; key < lastKey; key++)
    if (!found.deliveries.has(key) && !found.named.has(key) && !lost.has(key)) nameless.push(key)
  // An index may have entries for rows that the table silently lost.
  for (const [key, named] of found.named) if (!found.deliveries.has(key) && !missing.has(key)) missing.set(key, named)

  function isKnown({ event, handler }: Named): boolean {
    return journal.places.has(event) && (handlerNames.size === 0 || handlerNames.has(handler))
  }

  /** The last event with a known delivery. The journal was followed at least up to it. */
  const last = rows.reduce(
    (most, { values }) =>
      values['run'] === 1 ? Math.max(most, journal.places.get(String(values['event_id']))?.order ?? -1) : most,
    -1,
  )
  const told = positionOf(found.position)
  const isPositionRead = told !== undefined && (await journal.isPlace(told))
  const readPosition = isPositionRead ? told : undefined
  /** Events behind this place are followed after the repair, again if necessary. */
  const followed = readPosition === undefined ? last : orderBefore(readPosition)

  function orderBefore({ segment, offset }: Position): number {
    let order = -1
    for (const { at, order: one } of journal.places.values())
      if ((at.segment < segment || (at.segment === segment && at.offset < offset)) && one > order) order = one
    return order
  }

  const wanted = new Map<number, { readonly named: Named; readonly place: number; readonly why: string }[]>()
  const have = new Set(
    rows.map(({ values }) => idOf(String(values['event_id']), String(values['handler']), Number(values['run']))),
  )
  const want = (named: Named, place: number, why: string) => {
    const id = idOf(named.event, named.handler, named.run)
    if (have.has(id)) return
    have.add(id)
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
      .flatMap(({ place, values }) => {
        const order = values['run'] === 1 ? journal.places.get(String(values['event_id']))?.order : undefined
        return order === undefined ? [] : [{ place, order }]
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
  for (const [order, ones] of wanted) {
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
      orderingKey: ordered === 'none' ? null : orderingKeyOf(event),
      name: event.event,
      event: JSON.stringify(event),
      segment: at.segment,
      state: 'ready',
      attempts: 0,
      quarantined: 0,
      coalesced: 1,
      coalesced_into: null,
      postponed: 0,
      debounce,
      created_at: Date.parse(event.time) || 0,
      first_run_at: null,
      since: null,
      due: null,
      ended_at: null,
      error: null,
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
  let position = readPosition
  if (position === undefined && last >= 0) {
    // Adding an existing delivery again adds nothing.
    for (const { order, at } of journal.places.values()) if (order === last) position = at
  }
  return { rows: orderOrderingKeys(rows), position, isPositionRead, again, gone }
}

/** The ordering key comes from the event, because the column may be damaged. */
function orderingKeyFor(row: Row): SQLOutputValue {
  if (row['ordering_key'] === null) return null
  const about = { id: String(row['event_id']), name: String(row['name']), orderingKey: null }
  const stored = readStoredEvent(row['event'], about)
  return 'event' in stored ? orderingKeyOf(stored.event) : String(row['ordering_key'])
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

function isSame(row: Row, { event, handler, run }: Named): boolean {
  return row['event_id'] === event && row['handler'] === handler && row['run'] === run
}

function namedBy(row: Row): Named {
  return { event: String(row['event_id']), handler: String(row['handler']), run: Number(row['run']) }
}

function idOf(event: string, handler: string, run: number): string {
  return JSON.stringify([event, handler, run])
}

function idIn({ event, handler, run }: Named): string {
  return idOf(event, handler, run)
}

function positionOf(row: Row | undefined): Position | undefined {
  if (!row || !Number.isSafeInteger(row['segment']) || !Number.isSafeInteger(row['offset'])) return undefined
  return { segment: Number(row['segment']), offset: Number(row['offset']) }
}

/** Writes the plan, and the other readable data, into a new file. */
export function writeRebuilt(path: string, plan: Plan, found: Salvage): void {
  const { position } = plan
  const queue = openSqliteQueue({ path })
  if (position) void queue.add([], position)
  void queue.close()
  const db = new DatabaseSync(path)
  try {
    inTransaction(db, () => fill(db, plan, found))
    db.exec('PRAGMA wal_checkpoint(TRUNCATE)')
  } finally {
    db.close()
  }
}

/** Values of columns that an older version does not have. */
const defaults: Readonly<Record<string, SQLOutputValue>> = {
  quarantined: 0,
  coalesced: 1,
  postponed: 0,
  debounce: 0,
  spent_ms: 0,
}

function fill(db: DatabaseSync, { rows, again }: Plan, found: Salvage): void {
  const columns = db
    .prepare('SELECT name FROM pragma_table_info(?)')
    .all('delivery')
    .map((row) => String(row['name']))
  const known = columns.filter((name) => name !== 'key')
  const insert = db.prepare(
    `INSERT INTO delivery (key, ${known.join(', ')}) VALUES (?, ${known.map(() => '?').join(', ')}) ON CONFLICT DO NOTHING`,
  )
  const keys = new Map<number, number>()
  for (const [at, { key, values }] of rows.entries()) {
    insert.run(at + 1, ...known.map((name) => values[name] ?? defaults[name] ?? null))
    if (key !== undefined) keys.set(key, at + 1)
  }
  const into = db.prepare('UPDATE delivery SET coalesced_into = ? WHERE key = ?')
  for (const [at, { values }] of rows.entries())
    if (values['coalesced_into'] !== null) into.run(keys.get(Number(values['coalesced_into'])) ?? null, at + 1)
  const addFailure = db.prepare('INSERT INTO failure (delivery, attempt, at, error) VALUES (?, ?, ?, ?)')
  for (const { delivery = null, attempt = null, at = null, error = null } of found.failures) {
    const owner = keys.get(Number(delivery))
    if (owner !== undefined && typeof error === 'string' && Number.isSafeInteger(at) && Number.isSafeInteger(attempt))
      addFailure.run(owner, attempt, at, error)
  }
  const addHandler = db.prepare(
    'INSERT INTO handler (name, events, ordered, debounce, loaded_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING',
  )
  for (const { name, events, ordered, debounce, loaded_at } of found.handlers)
    if (typeof name === 'string' && name !== '')
      addHandler.run(
        name,
        readNames(events) ? String(events) : null,
        ordered === 'object' || ordered === 'none' ? ordered : null,
        Number.isSafeInteger(debounce) ? Number(debounce) : null,
        Number.isSafeInteger(loaded_at) ? Number(loaded_at) : null,
      )
  // A handler without a file must still be listed.
  for (const { values } of rows) addHandler.run(values['handler'] ?? null, null, null, null, null)
  const addSnapshot = db.prepare(
    'INSERT INTO snapshot (handler, ordering_key, fields, dirty) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING',
  )
  // Deliveries that run again may have changed the object, so a snapshot must not count as unchanged.
  const isDoubtful = again.length > 0 || Object.values(found.whole).includes(false)
  for (const { handler, ordering_key: orderingKey, fields, dirty } of found.snapshot)
    if (typeof handler === 'string' && typeof orderingKey === 'string' && readSnapshotFields(fields))
      addSnapshot.run(handler, orderingKey, String(fields), isDoubtful || dirty !== 0 ? 1 : 0)
}
