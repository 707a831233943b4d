import { existsSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { readConfig } from '../../config/config.ts'
import type { JournalledEvent } from '../../events/event.ts'
import { isHandlerFile } from '../../handler/handler-files.ts'
import { matcherOf } from '../../lib/pattern.ts'
import { printable } from '../../lib/printable.ts'
import { defineCommand } from '../command.ts'
import { findDataDir, openDeliveriesIfPossible } from '../data.ts'
import { findEvents, isIdStart } from '../find-event.ts'
import { findNewest } from '../newest-event.ts'
import { createNoteLog } from '../note-log.ts'
import type { Printer } from '../printer.ts'
import { createProgress } from '../progress.ts'
import { runInChild } from '../try/child.ts'
import type { LoadedMessage } from '../try/messages.ts'
import { createReport } from '../try/report.ts'
import { UsageError } from '../usage-error.ts'

/** Runs a handler once on an event of the journal, and shows the effects. */
export const tryCommand = defineCommand({
  name: 'try',
  usage: 'HANDLER_FILE',
  summary: 'runs a handler once, here and now, on a recorded event; leaves no delivery behind',
  notes: [
    'Shows its log, its calls of Bitrix24, what it returned or threw, and what the receiver would have done then; exits with 1',
    'when it threw. It runs as in the receiver, with the same settings, in a process of its own, and for an event that it does',
    'not handle, too. What it prints itself goes to stderr. Ctrl-C aborts its signal; again, and it is killed.',
    'With --dry-run what context.bitrix24 would write is shown and not sent: add gives the id 999999999, all else true or the',
    'given fields. What is not known to read is taken for a write. What a handler does by other means is done.',
  ],
  options: {
    event: {
      type: 'string',
      value: 'ID|last',
      default: 'last',
      description: 'on this event; last is the newest that it handles',
    },
    'dry-run': { type: 'boolean', description: 'writes to Bitrix24 are shown, not sent' },
  },
  examples: [
    'try handlers/ONCRMDEALUPDATE.ts',
    'try handlers/ONCRMDEALUPDATE.ts --dry-run',
    'try ONCRMDEALUPDATE.ts --event 019aaf6e-1c2b-7a10-8f5e-3b6c1d2e4f50   # from HANDLERS_DIR',
  ],
  args: 1,
  async run({ options, args: [word], print }) {
    if (word === undefined) throw new UsageError('name the file of a handler')
    const config = readConfig(process.env, 'dispatcher')
    const file = findFile(word, config.handlersDir)
    const dataDir = findDataDir()
    const report = createReport({ print, retryFor: config.retryFor })

    async function choose({ name, events }: LoadedMessage): Promise<JournalledEvent> {
      const matches = matcherOf(events)
      if (options.event === 'last') {
        const newest = await findNewest({ dataDir, matches: ({ event }) => matches(event), log: createNoteLog(print) })
        if (newest) return newest
        throw new Error(
          `the journal has no event that ${name} handles (${events.join(', ')}): name one with --event, or post one with b24-receiver send`,
        )
      }
      const event = await findEvent(dataDir, options.event.toLowerCase(), print)
      if (!matches(event.event)) print.note(`${name} does not handle ${printable(event.event)}: it is run all the same`)
      return event
    }

    return runInChild({
      file,
      config,
      onLoaded: async (loaded) => {
        for (const { event, nearest } of loaded.unknown)
          print.note(`the documentation does not know ${event}${nearest === undefined ? '' : `: is it ${nearest}?`}`)
        const event = await choose(loaded)
        await report.start(loaded.name, event)
        return { type: 'run', event, isDry: options['dry-run'] }
      },
      onMessage: (message) => report.message(message),
    })
  },
})

function findFile(word: string, handlersDir: string): string {
  const file = [resolve(word), join(handlersDir, word)].find((path) => existsSync(path))
  if (file === undefined) throw new UsageError(`there is no file ${word}, here or in ${handlersDir}`)
  if (!isHandlerFile(basename(file)))
    throw new UsageError(`${basename(file)} is no handler to the receiver: see its rules for names in docs/handlers.md`)
  return file
}

async function findEvent(dataDir: string, id: string, print: Printer): Promise<JournalledEvent> {
  if (!isIdStart(id))
    throw new UsageError('--event takes last, or the id of an event or how it begins, 8 characters or more')
  const onRead = await createProgress(dataDir, print)
  const { entries, count } = await findEvents({ dataDir, id, log: createNoteLog(print), onRead })
  if (count > 1) throw new Error(`${count} events begin with ${id}: name more of its id`)
  const [entry] = entries
  if (entry) return entry.event
  // The queue keeps the events of pending and dead deliveries for longer than the journal does.
  const deliveries = await openDeliveriesIfPossible(dataDir, print)
  try {
    const kept = await deliveries?.keptEvent(id)
    if (kept) return kept
  } finally {
    await deliveries?.close()
  }
  throw new Error(`the journal has no event ${id}`)
}
