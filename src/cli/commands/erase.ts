import { existsSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { readSettings } from '../../config/config.ts'
import { type FoundLines, findLines, overwrite } from '../../journal/erase.ts'
import { dropErasure, type Erasure, readErasure, writeErasure } from '../../journal/erasure.ts'
import { findHolder, lockDataDir } from '../../journal/lock.ts'
import { isBefore, type Position } from '../../journal/position.ts'
import { messageOf } from '../../lib/error-text.ts'
import { type Deliveries, type DeliveryRecord, RunNotEnded } from '../../queue/deliveries.ts'
import { queuePath } from '../../queue/sqlite/queue.ts'
import { defineCommand } from '../command.ts'
import { confirm } from '../confirm.ts'
import { count } from '../count.ts'
import { findDataDir, isFollowed, withDeliveries } from '../data.ts'
import { exitCodes } from '../exit-codes.ts'
import type { Printer } from '../printer.ts'
import { UsageError } from '../usage-error.ts'

/** Milliseconds: the maximum wait for a run or a dispatcher that is behind, and the time between two checks. */
const [timeout, interval] = [30_000, 200]

/** Removes personal data from one object's events. */
export const erase = defineCommand({
  name: 'erase',
  usage: '[--object OBJECT]',
  summary: "overwrites what one object's events hold, in the journal and in the queue",
  notes: [
    'The lines stay, with their ids, times and length; what else they hold is overwritten. Pending and dead deliveries are',
    'listed, and dropped only with --force. The receiver may run meanwhile. One that was cut off is finished by the next start',
    'of the receiver, or by the next erase; without --object that is all that is done. What it does not reach, such as backups',
    'and the log, is in docs/operations.md.',
  ],
  options: {
    object: { type: 'string', value: 'OBJECT', description: 'whose events, such as contact:17' },
    member: {
      type: 'string',
      value: 'MEMBER',
      description: 'of this portal, by member_id or domain, if there are several',
    },
    force: { type: 'boolean', description: 'drop what is pending or dead about it' },
    yes: { type: 'boolean', short: 'y', description: 'do not ask' },
  },
  examples: ['erase --object contact:17', 'erase --object contact:17 --member a223c6b3710f85df22e9377d6c4f7553 --yes'],
  args: 0,
  async run({ options: { object, member, force, yes }, print }) {
    if (object !== undefined && !/^[a-z]\w*:\S+$/i.test(object))
      throw new UsageError(`--object ${object} is not an object such as contact:17`)
    const dataDir = findDataDir()
    const lock = lockDataDir(dataDir, 'erase')
    try {
      const pending = await readErasure(dataDir)
      if (pending) await finish(dataDir, pending, print)
      if (object === undefined) {
        if (pending === undefined) throw new UsageError('no erasure was cut off: name an object, --object contact:17')
        return undefined
      }
      const erasure = await prepare(dataDir, { object, member, before: Date.now() }, force, print)
      if (erasure === undefined) return exitCodes.failed
      const { events, overwrites } = erasure
      const what = `${count(events.length, 'event')} about ${object} will lose what they hold, for good`
      if (!(await confirm(print, what, yes))) return exitCodes.failed
      await writeErasure(dataDir, { ...erasure, overwrites })
      await finish(dataDir, erasure, print)
      return erasure.damaged.length > 0 ? exitCodes.failed : undefined
    } finally {
      lock.release()
    }
  },
})

/** @returns `undefined` if something prevents the erasure, which was printed */
async function prepare(
  dataDir: string,
  target: Pick<Erasure, 'object' | 'member' | 'before'>,
  isForced: boolean,
  print: Printer,
): Promise<(Erasure & { damaged: readonly string[] }) | undefined> {
  print.progress('reading the journal')
  const { damaged, ...lines } = await findLines(dataDir, target)
  if (lines.portals.length > 1)
    throw new Error(`${target.object} is on several portals: choose one with --member: ${lines.portals.join(', ')}`)
  for (const place of damaged)
    print.note(`${place}: the line names ${target.object} and cannot be read, so it stays; remove its segment yourself`)
  for (const name of await otherFiles(dataDir))
    print.note(`${join(dataDir, name)} may hold it, too, and stays: remove it when you need it no longer`)
  const erasure = { ...target, events: lines.events, overwrites: lines.overwrites, damaged }
  if (!isFollowed(dataDir)) return erasure
  return withDeliveries(dataDir, 'read', async (deliveries) => {
    const found = await deliveries.ofObject(erasure)
    const open = found.filter(({ state }) => state !== 'done' && state !== 'coalesced')
    const unread = await notFollowed(deliveries, lines)
    if (open.length + unread === 0 || isForced) return erasure
    for (const one of open) await print.result(toJson(one), `${one.event} ${one.handler}: ${one.state}`)
    if (unread > 0) print.note(`${unread} of its events were not followed yet: no handler has seen them`)
    print.note(`nothing was erased: wait until they are handled, or drop them with --force`)
    return undefined
  })
}

function toJson({ event, handler, state }: DeliveryRecord) {
  return { event, handler, state }
}

async function notFollowed(deliveries: Deliveries, { places }: Pick<FoundLines, 'places'>): Promise<number> {
  const position = await deliveries.position()
  return position === undefined ? 0 : places.filter((place) => !isBefore(place, position)).length
}

/** Copies of the queue that a repair or a migration has left. */
async function otherFiles(dataDir: string): Promise<readonly string[]> {
  const names = await readdir(dataDir)
  const isCopy = (name: string) => /^dispatch\.db\.(damaged|moved|salvage|new)/.test(name)
  const isLeft = readSettings(process.env, 'databaseUrl').databaseUrl !== undefined && existsSync(queuePath(dataDir))
  return names.filter((name) => isCopy(name) || (isLeft && name === 'dispatch.db'))
}

/** From here on, the erasure may only be completed: it needs no further confirmation. */
async function finish(dataDir: string, erasure: Erasure, print: Printer): Promise<void> {
  const { object, events, overwrites } = erasure
  print.progress('overwriting')
  await overwrite(dataDir, overwrites)
  const dropped = isFollowed(dataDir) ? await eraseInQueue(dataDir, erasure) : 0
  await dropErasure(dataDir)
  const lines = overwrites.filter(({ line }) => line !== undefined).length
  await print.result(
    { object, events: events.length, lines, dropped },
    `${object}: ${count(lines, 'line was', 'lines were')} overwritten, ${count(dropped, 'pending or dead delivery was', 'pending or dead deliveries were')} dropped`,
  )
}

async function eraseInQueue(dataDir: string, erasure: Erasure): Promise<number> {
  return withDeliveries(dataDir, 'write', async (deliveries) => {
    const end = Date.now() + timeout
    for (;;) {
      const isAtWork = findHolder(dataDir, 'dispatcher') !== undefined
      // The dispatcher may have read a line before it was overwritten, without having added its deliveries yet.
      const isBehind = isAtWork && (await notFollowed(deliveries, { places: placesOf(erasure) })) > 0
      try {
        if (!isBehind) return await deliveries.erase(erasure, !isAtWork)
        if (Date.now() > end)
          throw new Error('the dispatcher has not followed the journal to the events that were erased')
      } catch (error) {
        if (!(error instanceof RunNotEnded) || Date.now() > end) throw unfinished(error)
      }
      await sleep(interval)
    }
  })
}

function unfinished(error: unknown): Error {
  const what = 'The journal is overwritten, the queue is not: run "b24-receiver erase" again to finish it'
  return new Error(`${messageOf(error)}. ${what}`, { cause: error })
}

function placesOf({ overwrites }: Erasure): readonly Position[] {
  return overwrites.flatMap(({ file, offset, line }) => {
    const segment = Number(/^\d{12}(?=-[\d-]+\.ndjson$)/.exec(file)?.[0])
    return line === undefined || Number.isNaN(segment) ? [] : [{ segment, offset }]
  })
}
