import { createReadStream } from 'node:fs'
import type { Logger } from 'pino'
import { readConfig } from '../../config/config.ts'
import type { Event } from '../../events/event.ts'
import { maxBytesAtOnce, maxEventsAtOnce, maxLineBytes } from '../../intake/import-route.ts'
import { parseRefusedLines } from '../../intake/refused-line.ts'
import { createRobotPath } from '../../intake/robot-path.ts'
import { readJournal } from '../../journal/follow.ts'
import { readLines } from '../../lib/lines.ts'
import { openAppender } from '../appender.ts'
import { defineCommand } from '../command.ts'
import { findDataDir } from '../data.ts'
import { positionBeforeIds } from '../find-event.ts'
import { createNoteLog } from '../note-log.ts'
import { UsageError } from '../usage-error.ts'

/** Imports events that went to stderr because the journal could not be written, or that were cut from it. */
export const importCommand = defineCommand({
  name: 'import',
  usage: 'FILE|-',
  summary: 'brings back events that went to stderr while the journal could not be written, or that were cut from it',
  notes: [
    'FILE is what collected stderr, a .cut beside a segment, or a damaged segment. Lines that are no events are passed over, and so are events that the journal has. It works',
    'through the receiver that runs (ADMIN_HOST, ADMIN_PORT, B24_APPLICATION_TOKEN), or takes the place of one that is stopped.',
  ],
  options: { 'dry-run': { type: 'boolean', description: 'only say how many' } },
  examples: ['import stderr.log --dry-run', 'import stderr.log', 'import -   # from stdin'],
  args: 1,
  async run({ options, args: [file], print }) {
    if (file === undefined) throw new UsageError('name the file that holds the lines, or - for stdin')
    const config = readConfig(process.env)
    const dataDir = findDataDir()
    const held = [...config.tokens.map(({ value }) => value), ...createRobotPath(config.robotPath).values]
    const maxBytes = maxLineBytes(config.bodyLimit)
    const found = new Map<string, Event>()
    for await (const line of readLines(file === '-' ? process.stdin : createReadStream(file), maxBytes)) {
      if (line === undefined) print.note(`a line of more than ${maxBytes} bytes is no event of BODY_LIMIT: passed over`)
      // A line may contain several joined lines. Each of their events counts.
      for (const event of line ? parseRefusedLines(line.toString(), held) : []) found.set(event.id, event)
      print.progress(`${found.size} events found`)
    }
    const known = await journalled(dataDir, found, createNoteLog(print))
    const events = [...found.values()].filter(({ id }) => !known.has(id))
    const summary = { found: found.size, known: known.size, imported: options['dry-run'] ? 0 : events.length }
    if (!options['dry-run']) {
      const appender = await openAppender(config, createNoteLog(print))
      try {
        let appended = 0
        for (const batch of batchesOf(events)) {
          await appender.append(batch)
          appended += batch.length
          print.progress(`${appended} of ${events.length}`)
        }
      } finally {
        await appender.close()
      }
    }
    const verb = options['dry-run'] ? 'to import' : 'imported'
    await print.result(
      summary,
      `${found.size} events found, ${known.size} of them in the journal, ${events.length} ${verb}`,
    )
    return undefined
  },
})

function* batchesOf(events: readonly Event[]): Generator<Event[]> {
  let batch: Event[] = []
  let size = 0
  for (const event of events) {
    const { length } = JSON.stringify(event)
    if (batch.length === maxEventsAtOnce || (batch.length > 0 && size + length > maxBytesAtOnce)) {
      yield batch
      batch = []
      size = 0
    }
    batch.push(event)
    size += length
  }
  if (batch.length > 0) yield batch
}

/** Returns the ids of the events that are already in the journal. */
async function journalled(dataDir: string, events: ReadonlyMap<string, Event>, log: Logger): Promise<Set<string>> {
  const known = new Set<string>()
  if (events.size === 0) return known
  const from = await positionBeforeIds(dataDir, events.keys())
  for await (const { entries } of readJournal({ dataDir, from, log }))
    for (const { event } of entries) if (events.has(event.id)) known.add(event.id)
  return known
}
