import { execFileSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { freePort } from '../src/cli/free-port.ts'
import { journalDir } from '../src/journal/segments.ts'
import { queuePath } from '../src/queue/sqlite/queue.ts'
import { childrenOf, cpuOf, loadCore, type Running, remove, startServer, temporaryFolder } from './processes.ts'

export interface Receiver extends Running {
  readonly dataDir: string
  /** Undefined without handlers. */
  dispatcherPid(): number | undefined
}

export interface ReceiverDeps {
  /** File name → source. */
  readonly handlers?: Readonly<Record<string, string>>
  readonly env?: Readonly<Record<string, string>>
  /** A program that starts it, such as strace. */
  readonly under?: readonly string[]
  readonly dataDir?: string
}

export const emptyHandler = {
  'empty.ts': `import { defineHandler } from 'bitrix24-webhook-receiver'\nexport default defineHandler('*', () => {})\n`,
}

/** A handlers folder below this one. */
export function writeHandlers(folder: string, handlers: Readonly<Record<string, string>>): string {
  const dir = mkdtempSync(join(folder, 'handlers-'))
  for (const [name, source] of Object.entries(handlers)) writeFileSync(join(dir, name), source)
  return dir
}

/** Starts our receiver as a user would, but for a log that only warns. */
export async function startReceiver({
  handlers = {},
  env = {},
  under = [],
  dataDir,
}: ReceiverDeps = {}): Promise<Receiver> {
  const folder = temporaryFolder()
  const handlersDir = writeHandlers(folder, handlers)
  const output = openSync(join(folder, 'log'), 'a')
  const data = dataDir ?? join(folder, 'data')
  const server = await startServer(
    [...under, process.execPath, fileURLToPath(new URL('../src/bin/receiver.ts', import.meta.url))],
    {
      path: '/bitrix24',
      output,
      env: {
        HOST: '127.0.0.1',
        ADMIN_PORT: String(await freePort()),
        DATA_DIR: data,
        HANDLERS_DIR: handlersDir,
        LOG_LEVEL: 'warn',
        ...env,
      },
    },
  )
  closeSync(output)
  // Under strace it is a child.
  const pid = under.length > 0 ? (childrenOf(server.pid)[0] ?? server.pid) : server.pid
  const dispatcher = () => childrenOf(pid)[0]
  while (dispatcher() === undefined && env['DISPATCHER'] !== 'off') await sleep(20)
  const own = dispatcher()
  if (own !== undefined) execFileSync('taskset', ['-acp', String(loadCore), String(own)])
  return {
    ...server,
    pid,
    dataDir: data,
    cpu: () => cpuOf([pid]),
    dispatcherPid: dispatcher,
    settled: () => allHandled(data),
    async stop() {
      if (under.length > 0) process.kill(pid, 'SIGTERM')
      await server.stop()
      remove(folder)
    },
  }
}

/** Events of the journal, and deliveries, that no handler has had yet: whether there are any, and how many of the latter. */
export function backlogOf(dataDir: string): { isEmpty: boolean; deliveries: number } {
  const db = new DatabaseSync(queuePath(dataDir), { readOnly: true })
  try {
    const { pending = 0 } =
      db
        .prepare(`SELECT (SELECT count(*) FROM delivery WHERE state = 'blocked') +
          (SELECT count(*) FROM delivery WHERE state IN ('ready', 'running', 'waiting')) AS pending`)
        .get() ?? {}
    const { segment = 0, offset = 0 } = db.prepare('SELECT segment, offset FROM position').get() ?? {}
    const isFollowed = segmentsOf(dataDir).every(({ number, size }) =>
      number > Number(segment) ? size === 0 : number < Number(segment) || size <= Number(offset),
    )
    return { isEmpty: isFollowed && pending === 0, deliveries: Number(pending) }
  } finally {
    db.close()
  }
}

/** Resolves when every event of the journal was handled. */
export async function allHandled(dataDir: string): Promise<void> {
  while (!backlogOf(dataDir).isEmpty) await sleep(50)
}

export function countLines(dataDir: string): number {
  let lines = 0
  for (const { path } of segmentsOf(dataDir)) for (const byte of readFileSync(path)) if (byte === 0x0a) lines++
  return lines
}

function segmentsOf(dataDir: string) {
  const dir = journalDir(dataDir)
  return readdirSync(dir)
    .filter((name) => name.endsWith('.ndjson'))
    .map((name) => ({ path: join(dir, name), number: Number.parseInt(name, 10), size: statSync(join(dir, name)).size }))
}
