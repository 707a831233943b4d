import { stat, statfs } from 'node:fs/promises'
import type { JournalledEvent } from '../../events/event.ts'
import { lastEvent } from '../../journal/follow.ts'
import { findHolder, type Holder } from '../../journal/lock.ts'
import type { Position } from '../../journal/position.ts'
import { listSegments } from '../../journal/segments.ts'
import { messageOf } from '../../lib/error-text.ts'
import { isObject } from '../../lib/is-object.ts'
import { printable } from '../../lib/printable.ts'
import type { QueueState } from '../../queue/queue.ts'
import { askAdmin } from '../admin.ts'
import { defineCommand } from '../command.ts'
import { explainData, findDataDir, isFollowed, openDeliveries } from '../data.ts'
import { exitCodes } from '../exit-codes.ts'
import { localTime } from '../local-time.ts'
import { type HandlerState, readHandlerStates } from './handlers.ts'

/** As the queue engine counts them. */
interface Pending extends Omit<QueueState, 'oldestAt'> {
  /** ISO 8601. */
  readonly oldestAt: string | undefined
}

interface Status {
  readonly dataDir: string
  /** `null` if none runs. */
  readonly receiver: Holder | null
  /** The private listener's answer, or the reason why it did not answer; `null` if no receiver runs. */
  readonly readyz: Readonly<Record<string, unknown>> | null
  readonly journal: {
    readonly segments: number
    readonly bytes: number
    /** Bytes that the dispatcher has not followed yet; `null` if no dispatcher ever has. */
    readonly behind: number | null
    readonly last: JournalledEvent | null
  }
  readonly deliveries: Pending | null
  /** Unreadable files, each with what to do. The other values are reported anyway. */
  readonly unreadable: readonly string[]
  readonly handlers: readonly HandlerState[]
  readonly disk: { readonly freeBytes: number; readonly bytes: number }
}

/** Shows the state of the receiver, whether it runs or not. */
export const status = defineCommand({
  name: 'status',
  usage: '',
  summary: 'how it is: the receiver, its journal, what is pending for the handlers, the disk',
  notes: [
    'Exits with 1 when no receiver runs, or /readyz of the one that does is not "ready"; ADMIN_HOST and ADMIN_PORT say where',
    'that is.',
  ],
  options: {},
  examples: ['status', 'status --json'],
  args: 0,
  async run({ print }) {
    const found = await readStatus(findDataDir())
    if (print.json) await print.line(JSON.stringify(found))
    else for (const [head, text] of rowsOf(found)) await print.line(`${head.padEnd(11)} ${printable(text)}`)
    return found.readyz?.['status'] === 'ready' && found.unreadable.length === 0 ? exitCodes.done : exitCodes.failed
  },
})

async function readStatus(dataDir: string): Promise<Status> {
  const unreadable: string[] = []
  const note = (error: unknown) => void unreadable.push(messageOf(explainData(error)))
  const receiver = await orNote(() => findHolder(dataDir, 'receiver'), note)
  const { bavail, blocks, bsize } = await statfs(dataDir)
  const isKnown = isFollowed(dataDir)
  const known = isKnown ? await orNote(() => readDeliveries(dataDir), note) : undefined
  const handlers = isKnown ? await orNote(() => readHandlerStates((reason) => void unreadable.push(reason)), note) : []
  return {
    dataDir,
    receiver: receiver ?? null,
    readyz: receiver ? await readReadiness() : null,
    journal: await readJournal(dataDir, known?.position),
    deliveries: known?.state ?? null,
    handlers: handlers ?? [],
    unreadable: [...new Set(unreadable)],
    disk: { freeBytes: bavail * bsize, bytes: blocks * bsize },
  }
}

/** A damaged file only removes the values that need it. */
async function orNote<T>(read: () => T | Promise<T>, note: (error: unknown) => void): Promise<T | undefined> {
  try {
    return await read()
  } catch (error) {
    note(error)
    return undefined
  }
}

async function readReadiness(): Promise<Record<string, unknown>> {
  try {
    const { body } = await askAdmin('/readyz')
    return isObject(body) ? { ...body } : { status: 'unknown' }
  } catch (error) {
    return { status: 'unknown', reason: error instanceof Error ? error.message : String(error) }
  }
}

async function readDeliveries(dataDir: string) {
  const deliveries = await openDeliveries(dataDir, 'read')
  try {
    const { oldestAt, ...counts } = await deliveries.state()
    const oldest = oldestAt === undefined ? undefined : new Date(oldestAt).toISOString()
    return { state: { ...counts, oldestAt: oldest }, position: await deliveries.position() }
  } finally {
    await deliveries.close()
  }
}

async function readJournal(dataDir: string, position: Position | undefined): Promise<Status['journal']> {
  const segments = await listSegments(dataDir)
  // A segment may have been removed meanwhile.
  const sizes = await Promise.all(
    segments.map(({ path }) =>
      stat(path).then(
        ({ size }) => size,
        () => 0,
      ),
    ),
  )
  const behind = segments.map(({ number }, at) => {
    if (position === undefined || number < position.segment) return 0
    return (sizes[at] ?? 0) - (number === position.segment ? position.offset : 0)
  })
  const sum = (numbers: readonly number[]) => numbers.reduce((total, number) => total + Math.max(0, number), 0)
  return {
    segments: segments.length,
    bytes: sum(sizes),
    behind: position === undefined ? null : sum(behind),
    last: (await lastEvent(dataDir)) ?? null,
  }
}

function rowsOf({
  receiver,
  readyz,
  journal,
  deliveries,
  handlers,
  disk,
  dataDir,
  unreadable,
}: Status): [string, string][] {
  const { status, ...reasons } = readyz ?? {}
  const told = Object.entries(reasons).map(([name, reason]) => `${name}: ${toText(reason)}`)
  return [
    [
      'receiver',
      receiver
        ? `runs as pid ${receiver.pid} on ${receiver.host} since ${localTime(receiver.startedAt)}`
        : 'does not run',
    ],
    ...(readyz ? [pair('readyz', [toText(status), ...told].join('; '))] : []),
    [
      'journal',
      `${journal.segments} ${journal.segments === 1 ? 'segment' : 'segments'}, ${toSize(journal.bytes)}, in ${dataDir}`,
    ],
    ['last event', journal.last ? `${localTime(journal.last.time)} ${journal.last.msg}` : 'none'],
    [
      'dispatcher',
      journal.behind === null
        ? 'has followed nothing yet'
        : journal.behind === 0
          ? 'has followed all of it'
          : `has ${toSize(journal.behind)} to follow`,
    ],
    ...(deliveries ? [pair('deliveries', tellPending(deliveries))] : []),
    ['handlers', handlers.map(({ name, state }) => `${name} (${state})`).join(', ') || 'none'],
    ...unreadable.map((reason) => pair('unreadable', reason)),
    ['disk', `${toSize(disk.freeBytes)} free of ${toSize(disk.bytes)}`],
  ]
}

function pair(head: string, text: string): [string, string] {
  return [head, text]
}

function tellPending({ ready, running, waiting, blocked, dead, oldestAt }: Pending): string {
  const oldest = oldestAt === undefined ? '' : `, the oldest from ${localTime(oldestAt)}`
  const counts = `${running} running, ${ready} ready, ${waiting} waiting, ${blocked} behind others of their object`
  return `${counts}${oldest}; ${dead} dead`
}

function toText(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value)
}

function toSize(bytes: number): string {
  const power = bytes >= 1024 ** 3 ? 3 : bytes >= 1024 ** 2 ? 2 : 1
  return `${(bytes / 1024 ** power).toFixed(1)} ${['B', 'KB', 'MB', 'GB'][power]}`
}
