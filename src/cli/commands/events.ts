import type { DeliveryRecord } from '../../queue/deliveries.ts'
import { defineCommand } from '../command.ts'
import { count } from '../count.ts'
import { findDataDir, openDeliveriesIfPossible } from '../data.ts'
import { readLastEvents } from '../last-events.ts'
import { localTime } from '../local-time.ts'
import { createNoteLog } from '../note-log.ts'
import { createProgress } from '../progress.ts'
import { parseCount, parseSelection, selectionOptions } from '../selection.ts'

/** Finds events, and shows the state of their deliveries. */
export const events = defineCommand({
  name: 'events',
  usage: '',
  summary: 'finds events: their ids, and what became of their deliveries; the newest are the last',
  notes: ['Times are those of this machine; with --json the lines are as they stand in the journal.'],
  options: {
    lines: { type: 'string', short: 'n', value: 'N', default: '20', description: 'so many of the newest' },
    ...selectionOptions,
  },
  examples: [
    'events --object deal:662',
    "events --event 'ONCRMDEAL*' --event ONCRMLEADADD --since 2h",
    'events --webhook sales --since 2026-11-23T08:00:00Z --until 2026-11-23T09:00:00Z -n 1000',
    'events --object deal:662 --json | jq -r .id',
  ],
  args: 0,
  async run({ options, print }) {
    const selection = parseSelection(options)
    const wanted = parseCount(options.lines)
    const dataDir = findDataDir()
    const { events: found, total } = await readLastEvents({
      dataDir,
      selection,
      count: wanted,
      log: createNoteLog(print),
      onRead: await createProgress(dataDir, print),
    })
    const deliveries = print.json ? undefined : await openDeliveriesIfPossible(dataDir, print)
    const states = new Map<string, string>()
    for (const { id } of deliveries ? found : []) states.set(id, statesOf((await deliveries?.ofEvent(id)) ?? []))
    await deliveries?.close()
    await print.table(
      found,
      {
        time: ({ time }) => localTime(time),
        id: ({ id }) => id,
        event: ({ event }) => event,
        object: ({ object = '–' }) => object,
        ...(found.some(({ webhook }) => webhook !== undefined) && { webhook: ({ webhook = '–' }) => webhook }),
        ...(deliveries && { deliveries: ({ id }) => states.get(id) ?? '' }),
      },
      'no event fits',
    )
    if (found.length > 0)
      print.note(countOf(found.length, selection.isAll && found.length === wanted ? undefined : total))
    return undefined
  },
})

/**
 * Formats states such as `dead, done ×2`, the worst first. For a dead delivery that was retried only the retry
 * counts.
 */
function statesOf(all: readonly DeliveryRecord[]): string {
  const records = all.filter(({ coalescedInto }) => !all.some(({ key }) => key === coalescedInto))
  const order = ['dead', 'waiting', 'running', 'ready', 'blocked', 'done', 'coalesced'] as const
  const counts = order.map((state) => ({ state, count: records.filter((record) => record.state === state).length }))
  const texts = counts.flatMap(({ state, count }) => (count === 0 ? [] : count === 1 ? state : `${state} ×${count}`))
  return texts.length === 0 ? '–' : texts.join(', ')
}

/** @param total the number of matching events; `undefined` if they were not counted */
function countOf(shown: number, total: number | undefined): string {
  const events = (number: number) => count(number, 'event')
  if (total === undefined) return `the last ${events(shown)}`
  return shown === total ? events(total) : `the last ${shown} of ${events(total)}: -n ${total} shows all of them`
}
