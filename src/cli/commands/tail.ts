import { follow, type JournalledEvent } from '../../journal/follow.ts'
import { defineCommand } from '../command.ts'
import { findDataDir } from '../data.ts'
import { readLastEvents } from '../last-events.ts'
import { createNoteLog } from '../note-log.ts'
import { parseCount, parseSelection, selectionOptions, startOf } from '../selection.ts'

/** The last events of the journal, and with `-f` every one that comes until the terminal says stop. */
export const tail = defineCommand({
  name: 'tail',
  usage: '[-f]',
  summary: 'the last events of the journal, also from the segments before the current one; -f waits for more',
  notes: ['Times are those of this machine; with --json the lines are as they stand in the journal.'],
  options: {
    follow: { type: 'boolean', short: 'f', about: 'wait for more, until Ctrl-C' },
    lines: { type: 'string', short: 'n', value: 'N', about: 'so many of them (10; all with --since)' },
    ...selectionOptions,
  },
  examples: [
    'tail -f',
    "tail -f --event 'ONCRMDEAL*'",
    'tail --object deal:662 --since 1h',
    'tail -n 1000 --json | jq .data',
  ],
  words: 0,
  async run({ options, print }) {
    const selection = parseSelection(options)
    const count =
      options.lines === undefined ? (selection.since === undefined ? 10 : undefined) : parseCount(options.lines)
    const dataDir = findDataDir()
    const stop = new AbortController()
    process.once('SIGINT', () => stop.abort())
    const log = createNoteLog(print)
    // The other commands start without it.
    const { createPretty } = await import('../../lib/pretty.ts')
    const pretty = createPretty({
      colorize: process.stdout.isTTY,
      singleLine: true,
      translateTime: 'SYS:yyyy-mm-dd HH:MM:ss',
    })
    const show = (event: JournalledEvent) =>
      // A line that no receiver wrote may lack it.
      print.pretty(event, pretty({ ...event, msg: event.msg ?? event.event }).trimEnd())

    let from = await startOf(dataDir, selection, count)
    // All that there are need not be kept to know the last.
    if (count !== undefined && !selection.isAll) {
      const last = await readLastEvents({ dataDir, selection, count, signal: stop.signal, log })
      for (const event of last.events) await show(event)
      if (!options.follow) return undefined
      from = last.position
    }
    const { needle } = selection
    for await (const { entries } of follow({ dataDir, from, signal: stop.signal, wait: options.follow, needle, log }))
      for (const { event } of entries) {
        // Ctrl-C means now, not after the rest of what was read.
        if (stop.signal.aborted) return undefined
        if (selection.matches(event)) await show(event)
      }
    return undefined
  },
})
