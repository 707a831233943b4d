import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Event } from '../../src/events/event.ts'
import { linesOf } from './dispatcher.ts'
import type { Postgres } from './postgres.ts'
import { type Receiver, type ReceiverOptions, spawnReceiver, startReceiver, until } from './receiver.ts'

export interface ClusterDeps {
  readonly postgres: Postgres
  /** File name → source. */
  readonly handlers: Record<string, string>
  readonly env?: Record<string, string>
}

/** Receivers and workers on a database of their own, with the same handlers. */
export async function createCluster({ postgres, handlers, env = {} }: ClusterDeps) {
  const database = await postgres.createDatabase()
  const shared = { handlers, env: { DATABASE_URL: postgres.url(database), ...env } }
  return {
    url: postgres.url(database),
    query: (sql: string) => postgres.query(sql, database),
    startReceiver: (more: ReceiverOptions = {}) =>
      startReceiver({ ...shared, ...more, env: { ...shared.env, RUN_HANDLERS: 'off', ...more.env } }),
    startWorker: (more: ReceiverOptions = {}) =>
      startWorker({ ...shared, ...more, env: { ...shared.env, ...more.env } }),
    /** Resolves when nothing is pending any more. */
    async drained(count: number): Promise<void> {
      await until(`${count} deliveries done`, async () => {
        const [tables] = await postgres.query("SELECT to_regclass('b24_receiver.snapshot') AS made", database)
        if (!tables?.['made']) return false
        const [row] = await postgres.query(
          `SELECT count(*) FILTER (WHERE state IN ('done', 'coalesced')) AS done,
               count(*) FILTER (WHERE state NOT IN ('done', 'coalesced')) AS pending FROM b24_receiver.delivery`,
          database,
        )
        return Number(row?.['done']) >= count && Number(row?.['pending']) === 0
      })
    },
  }
}

const cli = fileURLToPath(new URL('../../src/bin/cli.ts', import.meta.url))

async function startWorker(options: ReceiverOptions): Promise<Receiver> {
  const worker = await spawnReceiver({ ...options, script: cli, args: ['worker'] })
  await until(
    () => `ready for deliveries\n${worker.output()}`,
    () => {
      if (worker.child.exitCode !== null) throw new Error(`the worker ended at start:\n${worker.output()}`)
      return worker.output().includes('ready for deliveries')
    },
  )
  return worker
}

/** A line that a handler wrote: when which run of which event began or ended. */
interface Mark {
  readonly what: 'begin' | 'end'
  readonly id: string
  readonly object: string
  readonly attempt: number
  readonly at: number
}

/** A handler that marks the beginning and the end of each run in `runs`, in one folder for all workers. */
export function marking(folder: string, body = ''): string {
  return `import { appendFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
const mark = (what, event, attempt) => appendFileSync(${JSON.stringify(join(folder, 'runs'))},
  JSON.stringify({ what, id: event.id, object: event.object, attempt, pid: process.pid,
    at: performance.timeOrigin + performance.now() }) + '\\n')
export default async (event, { attempt, signal }) => {
  mark('begin', event, attempt)
  ${body}
  mark('end', event, attempt)
}
`
}

export function marksIn(folder: string): Mark[] {
  return linesOf(folder, 'runs').map((line): Mark => JSON.parse(line))
}

/** In the order of the journals, which have to have no object in common. */
export function idsByObject(events: readonly Event[]): Map<string, string[]> {
  const byObject = Map.groupBy(events, ({ object }) => String(object))
  return new Map([...byObject].map(([object, list]) => [object, list.map(({ id }) => id)]))
}

/**
 * What is wrong with what ran: events that never ended, runs of one object that overlapped, events that ended for the first time
 * before one that came earlier.
 *
 * @param events ids in the order in which they have to run, by object
 */
export function violationsOf(marks: readonly Mark[], events: ReadonlyMap<string, readonly string[]>) {
  const lost: string[] = []
  const overlaps: string[] = []
  const disordered: string[] = []
  const byObject = Map.groupBy(marks, ({ object }) => object)
  for (const [object, ids] of events) {
    const ofObject = byObject.get(object) ?? []
    const ended = ofObject.filter(({ what }) => what === 'end').map(({ id }) => id)
    const first = [...new Set(ended)]
    for (const id of ids) if (!first.includes(id)) lost.push(`${object} ${id}`)
    if (first.join() !== ids.filter((id) => first.includes(id)).join()) disordered.push(object)
    let open: Mark | undefined
    for (const mark of ofObject) {
      // A run that was killed has no end; what begins next is the same event again, or after a death of its quarantined deliveries.
      if (mark.what === 'end' && open !== undefined && open.id !== mark.id) overlaps.push(`${object} ${mark.id}`)
      if (mark.what === 'begin' && open !== undefined && open.id !== mark.id) overlaps.push(`${object} ${mark.id}`)
      open = mark.what === 'begin' ? mark : undefined
    }
  }
  return { lost, overlaps, disordered }
}
