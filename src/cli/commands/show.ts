import { once } from 'node:events'
import { isBefore, oldest, type Position } from '../../journal/position.ts'
import { printable } from '../../lib/printable.ts'
import type { Deliveries } from '../../queue/deliveries.ts'
import { defineCommand } from '../command.ts'
import { findDataDir, openDeliveriesIfPossible, withDeliveries } from '../data.ts'
import { type DeliveryStory, readStory, storyToJson, storyToText } from '../delivery-story.ts'
import { exitCodes } from '../exit-codes.ts'
import { type Found, findEvents, isIdStart } from '../find-event.ts'
import { localTime } from '../local-time.ts'
import { createNoteLog } from '../note-log.ts'
import type { Printer } from '../printer.ts'
import { createProgress } from '../progress.ts'
import { UsageError } from '../usage-error.ts'

/** Shows one event and its deliveries. */
export const show = defineCommand({
  name: 'show',
  usage: 'ID',
  summary: 'one event, with its deliveries, their attempts, errors and times',
  notes: [
    'ID may be the beginning of an id, 8 characters or more. It is made of the time: events that came together begin',
    'alike. Times are those of this machine, and with --json ISO 8601 in UTC.',
  ],
  options: {
    raw: { type: 'boolean', description: 'the bytes that a delivery keeps as its event, also where they are not one' },
  },
  examples: [
    'show 019aaf6e-1c2b-7a10-8f5e-3b6c1d2e4f50',
    'show 019aaf6e-1c2b',
    'show 019aaf6e-1c2b --json | jq .deliveries',
  ],
  args: 1,
  async run({ options, args: [word = ''], print }) {
    const id = word.toLowerCase()
    if (!isIdStart(id)) throw new UsageError('show takes the id of an event, or how it begins, 8 characters or more')
    const dataDir = findDataDir()
    if (options.raw) return showRaw(dataDir, id, print)
    const onRead = await createProgress(dataDir, print)
    const found = await findEvents({ dataDir, id, log: createNoteLog(print), onRead })
    if (found.count > 1) return listFound(found, id, print)
    const [entry] = found.entries
    const deliveries = await openDeliveriesIfPossible(dataDir, print)
    // The queue keeps the events of pending and dead deliveries for longer than the journal does.
    const event = entry?.event ?? (await deliveries?.keptEvent(id))
    if (event === undefined && (await deliveries?.keptBytes(id)))
      throw new Error(
        `the event cannot be read, and is not in the journal: b24-receiver show ${id} --raw prints what is kept`,
      )
    if (event === undefined) throw new Error('no event has this id; RETENTION_DAYS may have removed it')
    if (entry === undefined) print.note('it is no longer in the journal: a delivery has kept it')
    const stories: DeliveryStory[] = []
    if (deliveries)
      for (const record of await deliveries.ofEvent(event.id)) stories.push(await readStory(deliveries, record))
    await print.result(
      { event, deliveries: deliveries && stories.map(storyToJson) },
      JSON.stringify(event, undefined, 2),
    )
    if (!print.json) {
      for (const story of stories) await print.line(`\n${storyToText(story)}`)
      if (deliveries && stories.length === 0) await print.line(`\n${await whyNone(deliveries, entry?.at)}`)
    }
    await deliveries?.close()
    return exitCodes.done
  },
})

/**
 * Prints the bytes unchanged, so that a program can search them for readable parts. On a terminal, control characters
 * are escaped.
 */
async function showRaw(dataDir: string, id: string, print: Printer): Promise<number> {
  return withDeliveries(dataDir, 'read', async (deliveries) => {
    const bytes = await deliveries.keptBytes(id)
    if (bytes === undefined) throw new Error(`no delivery keeps an event under ${id}: --raw takes a whole id`)
    if (print.json) await print.line(JSON.stringify({ id, base64: Buffer.from(bytes).toString('base64') }))
    else if (print.isTerminal) await print.line(printable(Buffer.from(bytes).toString('latin1')))
    else if (!process.stdout.write(bytes)) await once(process.stdout, 'drain')
    return exitCodes.done
  })
}

async function listFound({ entries, count }: Found, id: string, print: Printer): Promise<number> {
  await print.table(
    entries.map(({ event }) => event),
    {
      time: ({ time }) => localTime(time),
      id: (event) => event.id,
      event: ({ event }) => event,
      object: ({ object = '–' }) => object,
    },
    '',
  )
  const which = count > entries.length ? `; these are the first ${entries.length}` : ''
  print.note(`${count} events begin with ${id}${which}: give more of the id`)
  return exitCodes.failed
}

async function whyNone(deliveries: Deliveries, at: Position | undefined): Promise<string> {
  const isFollowed = at === undefined || isBefore(at, (await deliveries.position()) ?? oldest)
  return isFollowed
    ? 'No deliveries: no handler was there for it when it was followed.'
    : 'No deliveries yet: the journal was not followed so far.'
}
