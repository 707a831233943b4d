import { pino } from 'pino'
import { prettyFactory } from 'pino-pretty'
import { follow, oldest, type Position, positionBefore, positionOfLast } from '../journal/follow.ts'
import { defineCommand } from './command.ts'
import { findDataDir } from './data.ts'
import { parseSelection, type Selection, selectionOptions } from './selection.ts'
import { UsageError } from './usage-error.ts'

/** The last events of the journal, and with `-f` every one that comes until the terminal says stop. */
export const tail = defineCommand({
  name: 'tail',
  usage: '[-f]',
  summary: 'the last events of the journal, also from the segments before the current one; -f waits for more',
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
    const lines = parseLines(options.lines) ?? (selection.since === undefined ? 10 : undefined)
    const dataDir = findDataDir()
    const stop = new AbortController()
    process.once('SIGINT', () => stop.abort())
    const pretty = prettyFactory({
      colorize: process.stdout.isTTY,
      singleLine: true,
      translateTime: 'SYS:yyyy-mm-dd HH:MM:ss',
    })
    const log = pino({ base: null }, process.stderr)
    const read = (from: Position, wait: boolean) =>
      follow({ dataDir, from, signal: stop.signal, wait, needle: selection.needle, log })
    const show = (event: object) => print.line(print.json ? JSON.stringify(event) : pretty(event).trimEnd())

    let position = await startOf(dataDir, selection, lines)
    // Of those that are chosen the last few are known only at the end.
    if (lines !== undefined && !selection.isAll) {
      const last: object[] = []
      for await (const batch of read(position, false)) {
        position = batch.position
        for (const { event } of batch.entries.filter(({ event }) => selection.matches(event)))
          if (last.push(event) > lines) last.shift()
      }
      for (const event of last) await show(event)
      if (!options.follow) return undefined
    }
    for await (const { entries } of read(position, options.follow))
      for (const { event } of entries) if (selection.matches(event)) await show(event)
    return undefined
  },
})

/** How many of the last are wanted; `undefined` for all that are chosen. */
function parseLines(text: string | undefined): number | undefined {
  if (text !== undefined && !/^\d{1,9}$/.test(text)) throw new UsageError('-n takes a whole number')
  return text === undefined ? undefined : Number(text)
}

function startOf(
  dataDir: string,
  { since, isAll }: Selection,
  lines: number | undefined,
): Promise<Position> | Position {
  if (since !== undefined) return positionBefore(dataDir, since)
  return isAll ? positionOfLast(dataDir, lines ?? 0) : oldest
}
