import type { Logger } from 'pino'
import type { JournalledEvent } from '../../events/event.ts'
import { isEventId } from '../../journal/event-id.ts'
import { positionBefore, readJournal } from '../../journal/follow.ts'
import { isBefore, oldest, type Position } from '../../journal/position.ts'
import { matcherOf } from '../../lib/pattern.ts'
import type { HandlerRecord, KnownHandler, NewDelivery } from '../../queue/queue.ts'
import { defineCommand } from '../command.ts'
import { confirm } from '../confirm.ts'
import { count } from '../count.ts'
import { findDataDir, maxInTransaction, withDeliveries } from '../data.ts'
import { exitCodes } from '../exit-codes.ts'
import { positionBeforeIds } from '../find-event.ts'
import { createNoteLog } from '../note-log.ts'
import { parseSelection, selectionOptions } from '../selection.ts'
import { UsageError } from '../usage-error.ts'

/** Delivers events again, each to its matching handlers. */
export const replay = defineCommand({
  name: 'replay',
  usage: '[ID …]',
  summary: 'delivers events again, by their ids or as chosen; says first how many',
  notes: [
    'Each gets a run of its own for each handler that is for it, behind what waits for its object. The events are chosen by id,',
    'or by the options; without --handler every handler that is loaded gets them. On a stopped receiver they wait for its start.',
  ],
  options: {
    ...selectionOptions,
    handler: { type: 'string', multiple: true, value: 'NAME', description: 'only to this handler; may be given again' },
    'dry-run': { type: 'boolean', description: 'only say how many' },
    yes: { type: 'boolean', short: 'y', description: 'do not ask' },
  },
  examples: [
    'replay 019aaf6e-1c2b-7a10-8f5e-3b6c1d2e4f50',
    'replay --object deal:662 --since 1d --dry-run',
    'replay --event ONCRMLEADADD --since 2026-11-23T08:00:00Z --until 2026-11-23T12:00:00Z --handler leads --yes',
  ],
  async run({ options, args: ids, print }) {
    const selection = parseSelection(options)
    if (ids.length > 0 && !selection.isAll) throw new UsageError('choose by ids or by options, not by both')
    if (ids.length === 0 && selection.isAll)
      throw new UsageError('choose events: by ids, or by --event, --object, --webhook, --since or --until')
    const dataDir = findDataDir()
    return withDeliveries(dataDir, 'write', async (deliveries) => {
      const handlers = chooseHandlers(await deliveries.handlers(), options.handler)
      const wanted = new Set(ids)
      const matches = (event: JournalledEvent) => (ids.length > 0 ? wanted.has(event.id) : selection.matches(event))
      const needle = ids.length === 1 ? `"id":"${ids[0]}"` : selection.needle
      const from = await startOf(dataDir, ids, selection.since)
      const log = createNoteLog(print)

      const found = new Set<string>()
      const runsOf = new Map<string, number>()
      let events = 0
      let runs = 0
      let end = from
      for await (const { entries, position } of readAll({ dataDir, from, needle, log })) {
        for (const { event } of entries.filter(({ event }) => matches(event))) {
          if (wanted.has(event.id)) found.add(event.id)
          events++
          for (const { name } of handlers.filter((handler) => handler.matches(event))) {
            runs++
            runsOf.set(name, (runsOf.get(name) ?? 0) + 1)
          }
        }
        end = position
        print.progress(`looking: ${events} events`)
      }
      const missing = ids.filter((id) => !found.has(id))
      if (missing.length > 0)
        throw new Error(`the journal has no event ${missing.join(', ')}: nothing is delivered again`)

      const names = handlers.map(({ name }) => name).filter((name) => runsOf.has(name))
      const to = runs === 0 ? ': no handler is for them' : ` to ${names.join(', ')}`
      const what = `${count(events, 'event')}, ${count(runs, 'delivery', 'deliveries')}${to}`
      if (options['dry-run'] || runs === 0) {
        await print.result({ events, deliveries: runs, handlers: names, added: 0 }, what)
        return undefined
      }
      // A user who named each event needs no confirmation.
      if (!(await confirm(print, what, options.yes || ids.length > 0))) return exitCodes.failed

      let added = 0
      let waiting: NewDelivery[] = []
      const add = async () => {
        await deliveries.replay(waiting)
        added += waiting.length
        waiting = []
        print.progress(`${added} of ${runs}`)
      }
      // Events that arrived during the confirmation are not replayed.
      for await (const { entries } of readAll({ dataDir, from, needle, log, end }))
        for (const { event, at } of entries.filter(({ event }) => matches(event)))
          for (const { name, order, debounce } of handlers.filter((handler) => handler.matches(event)))
            if (waiting.push({ handler: name, event, segment: at.segment, order, debounce }) >= maxInTransaction)
              await add()
      await add()
      const summary = { events, deliveries: runs, handlers: names, added }
      await print.result(summary, `${count(added, 'delivery was', 'deliveries were')} added`)
      return undefined
    })
  },
})

interface Target extends Omit<KnownHandler, 'onChange'> {
  readonly matches: (event: JournalledEvent) => boolean
}

/** Returns the handlers of the last load, or the named handlers. */
function chooseHandlers(known: readonly HandlerRecord[], names: readonly string[]): Target[] {
  const last = Math.max(...known.map(({ loadedAt = 0 }) => loadedAt))
  for (const name of names)
    if (!known.some((handler) => handler.name === name))
      throw new Error(`no handler "${name}" was ever loaded; there are ${known.map((one) => one.name).join(', ')}`)
  return known
    .filter(({ name, loadedAt }) => (names.length > 0 ? names.includes(name) : loadedAt === last))
    .map(({ name, events, order = 'object', debounce = 0 }) => {
      if (events === undefined) throw new Error(`what "${name}" handles is not known: let this version load it once`)
      const matches = matcherOf(events)
      // A named handler is chosen on purpose, also for an event that was for another handler.
      const isMeant = ({ handler }: JournalledEvent) => names.length > 0 || handler === undefined || handler === name
      return { name, events, order, debounce, matches: (event) => isMeant(event) && matches(event.event) }
    })
}

function startOf(dataDir: string, ids: readonly string[], since: Date | undefined): Promise<Position> | Position {
  for (const id of ids) if (!isEventId(id)) throw new UsageError(`"${id}" is no id of an event`)
  if (ids.length > 0) return positionBeforeIds(dataDir, ids)
  return since === undefined ? oldest : positionBefore(dataDir, since)
}

interface Reading {
  readonly dataDir: string
  readonly from: Position
  readonly needle: string | undefined
  readonly log: Logger
  /** Reading stops at this position. */
  readonly end?: Position
}

async function* readAll({ end, ...reading }: Reading) {
  for await (const { entries, position } of readJournal(reading)) {
    const isWanted = (at: Position) => end === undefined || isBefore(at, end)
    yield { entries: entries.filter(({ at, event }) => isWanted(at) && event.erased !== true), position }
    if (!isWanted(position)) return
  }
}
