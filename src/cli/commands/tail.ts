import type { JournalledEvent } from '../../events/event.ts'
import { follow, readJournal } from '../../journal/follow.ts'
import { defineCommand } from '../command.ts'
import { findDataDir } from '../data.ts'
import { readLastEvents } from '../last-events.ts'
import { createNoteLog } from '../note-log.ts'
import { parseCount, parseSelection, selectionOptions, startOf } from '../selection.ts'

/** Shows the last events of the journal. With `-f` it also shows every new one until it is interrupted. */
export const tail = defineCommand({
  name: 'tail',
  usage: '[-f]',
  summary: 'the last events of the journal, also from the segments before the current one; -f waits for more',
  notes: ['Times are those of this machine; with --json the lines are as they stand in the journal.'],
  options: {
    follow: { type: 'boolean', short: 'f', description: 'wait for more, until Ctrl-C' },
    lines: { type: 'string', short: 'n', value: 'N', description: 'so many of them (10; all with --since)' },
    ...selectionOptions,
  },
  examples: [
    'tail -f',
    "tail -f --event 'ONCRMDEAL*'",
    'tail --object deal:662 --since 1h',
    'tail -n 1000 --json | jq .data',
  ],
  args: 0,
  async run({ options, print }) {
    const selection = parseSelection(options)
    const count =
      options.lines === undefined ? (selection.since === undefined ? 10 : undefined) : parseCount(options.lines)
    const dataDir = findDataDir()
    const stop = new AbortController()
    process.once('SIGINT', () => stop.abort())
    const log = createNoteLog(print)
    // The other commands start without this module.
    const { createPretty } = await import('../../lib/pretty.ts')
    const pretty = createPretty({
      colorize: process.stdout.isTTY,
      singleLine: true,
      translateTime: 'SYS:yyyy-mm-dd HH:MM:ss',
    })
    const show = (event: JournalledEvent) =>
      // A line that no receiver wrote may lack the field.
      print.pretty(event, pretty({ ...event, msg: event.msg ?? event.event }).trimEnd())

    let from = await startOf(dataDir, selection, count)
    // To find the last events, it is not necessary to keep all of them.
    if (count !== undefined && !selection.isAll) {
      const last = await readLastEvents({ dataDir, selection, count, signal: stop.signal, log })
      for (const event of last.events) await show(event)
      if (!options.follow) return undefined
      from = last.position
    }
    const read = options.follow ? follow : readJournal
    for await (const { entries } of read({ dataDir, from, signal: stop.signal, needle: selection.needle, log }))
      for (const { event } of entries) {
        // Ctrl-C stops at once, before the rest of the current chunk.
        if (stop.signal.aborted) return undefined
        if (selection.matches(event)) await show(event)
      }
    return undefined
  },
})
