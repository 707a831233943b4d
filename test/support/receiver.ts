import { spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import type { Event } from '../../src/events/event.ts'
import { listSegments } from '../../src/journal/segments.ts'
import { timesOption } from '../../src/lib/times.ts'
import { post } from '../../src/simulator/post.ts'
import { webhookBody } from '../../src/simulator/webhook-body.ts'
import { parseExposition } from './exposition.ts'

export const TOKEN = 'test0token0test0token0test0token'

/** What every process of ours has in its environment. */
export const shared = {
  // At the end of the run it goes, with what a killed process has left there.
  TMPDIR: tmpdir(),
  // Hundreds of processes start in the suite; the time goes into compiling the same files.
  NODE_COMPILE_CACHE: fileURLToPath(new URL('../../node_modules/.cache/compile', import.meta.url)),
}

/** A folder that goes with the test. */
export function temporaryFolder(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `b24-${name}-`))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/**
 * Resolves when `state` gives something; fails with `what`, as it is then, when it never does. The bound only ends what
 * hangs: do not give a shorter one.
 */
export async function until<T>(
  what: string | (() => string),
  state: () => T | Promise<T>,
  ms = process.env['ROUNDS'] ? 3_600_000 : 300_000,
): Promise<NonNullable<T>> {
  const end = Date.now() + ms
  for (;;) {
    const value = await state()
    if (value) return value
    if (Date.now() > end) throw new Error(`never happened: ${typeof what === 'string' ? what : what()}`)
    await sleep(20)
  }
}

// Below those that the kernel gives to connections: one that was just free could be the source of somebody's post a moment
// later.
const [firstPort, ports] = [10_000, 20_000]
let nextPort = Math.floor(Math.random() * ports)

/** A free port, which no other process of tests gets before this one ends. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = firstPort + (nextPort++ % ports)
    if (!(await claim(port))) continue
    const probe = createServer().listen(port, '127.0.0.1')
    const isFree = await once(probe, 'listening').then(
      () => true,
      () => false,
    )
    probe.close()
    if (isFree) return port
  }
}

/** By the same port of UDP, which leaves that of TCP free. */
async function claim(port: number): Promise<boolean> {
  const socket = createSocket('udp4').unref()
  socket.bind({ port, address: '127.0.0.1', exclusive: true })
  try {
    await once(socket, 'listening')
    return true
  } catch {
    socket.close()
    return false
  }
}

export { post }

/** The post of a deal's update. */
export function dealBody(
  id: number | string,
  { token = TOKEN, member = 'a223c6b3710f85df22e9377d6c4f7553', domain = 'example.bitrix24.com' } = {},
): string {
  const portal = { domain, memberId: member, token }
  return webhookBody({ event: 'ONCRMDEALUPDATE', id, ts: 1736405807, portal })
}

export interface ReceiverOptions {
  readonly dataDir?: string
  /** File name → source. */
  readonly handlers?: Record<string, string>
  readonly env?: Record<string, string>
  readonly args?: readonly string[]
  readonly uid?: number
  readonly script?: string
  /** A command that starts it, such as `['prlimit', '--fsize=1000']`; it must keep the process id. */
  readonly under?: readonly string[]
}

/** The arguments of a receiver that soon probes an incoming webhook again. */
export const quickProbes = [timesOption({ probes: { probeEvery: 300 } })]

/** Starts the receiver as a user would, in a process group of its own, and ends it with the test. */
export async function startReceiver(options: ReceiverOptions = {}) {
  const receiver = await spawnReceiver(options)
  await until(
    () => `ready for events\n${receiver.output()}`,
    async () => {
      if (receiver.child.exitCode !== null) throw new Error(`the receiver ended at start:\n${receiver.output()}`)
      return receiver.output().includes('ready for events') && (await fetch(`${receiver.origin}/healthz`)).ok
    },
  )
  return receiver
}

export type Receiver = Awaited<ReturnType<typeof startReceiver>>

export async function spawnReceiver(options: ReceiverOptions = {}) {
  const dataDir = options.dataDir ?? temporaryFolder('data')
  const handlersDir = temporaryFolder('handlers')
  chmodSync(handlersDir, 0o755)
  for (const [name, source] of Object.entries(options.handlers ?? {})) writeFileSync(join(handlersDir, name), source)
  const port = Number(options.env?.['PORT'] ?? (await freePort()))
  const adminPort = Number(options.env?.['ADMIN_PORT'] ?? (await freePort()))
  const script = options.script ?? fileURLToPath(new URL('../../src/bin/receiver.ts', import.meta.url))
  const [command = '', ...args] = [...(options.under ?? []), process.execPath, script, ...(options.args ?? [])]
  const child = spawn(command, args, {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(options.uid !== undefined && { uid: options.uid }),
    env: {
      PATH: process.env['PATH'],
      ...shared,
      B24_APPLICATION_TOKEN: TOKEN,
      HOST: '127.0.0.1',
      PORT: String(port),
      ADMIN_PORT: String(adminPort),
      DATA_DIR: dataDir,
      HANDLERS_DIR: handlersDir,
      ...options.env,
    },
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    // Whole lines only: what comes in two pieces may have one of the other stream's between them.
    let rest = ''
    const take = (text: string) => {
      const end = (rest + text).lastIndexOf('\n') + 1
      output += (rest + text).slice(0, end)
      rest = (rest + text).slice(end)
    }
    stream.setEncoding('utf8').on('data', take)
    stream.on('end', () => {
      output += rest
    })
  }
  const exited = once(child, 'close').then(() => ({ code: child.exitCode, signal: child.signalCode }))
  const killGroup = (signal: NodeJS.Signals) => {
    try {
      // A process group of our own making: the receiver and its dispatcher.
      if (child.pid !== undefined) process.kill(-child.pid, signal)
    } catch {
      // It is gone already.
    }
  }
  onTestFinished(async () => {
    killGroup('SIGKILL')
    await exited
  })
  const scrape = async () => (await fetch(`http://127.0.0.1:${adminPort}/metrics`)).text()
  const origin = `http://127.0.0.1:${port}`
  const url = `${origin}${options.env?.['WEBHOOK_PATH'] ?? '/bitrix24'}`
  return {
    child,
    dataDir,
    handlersDir,
    origin,
    url,
    port,
    adminPort,
    exited,
    killGroup,
    readyz: async () => (await fetch(`http://127.0.0.1:${adminPort}/readyz`)).json(),
    /** What a scrape is answered. */
    scrape,
    metrics: async () => parseExposition(await scrape()),
    /** Every line that it wrote to stdout and stderr, and that came. */
    output: () => output,
    /** The log's lines that have this message. */
    logged: (msg: string) => logLines(output).filter((line) => line['msg'] === msg),
    post: (body: string, headers?: Record<string, string>) => post(url, body, headers),
    journal: () => readJournal(dataDir),
    stop() {
      child.kill('SIGTERM')
      return exited
    },
  }
}

function logLines(output: string): Record<string, unknown>[] {
  return output
    .split('\n')
    .slice(0, -1)
    .filter((line) => line.startsWith('{') && line.endsWith('}'))
    .map((line) => JSON.parse(line))
}

/** Every whole line of every segment, in order; one that is no JSON fails the test. */
export async function readJournal(dataDir: string): Promise<Event[]> {
  const segments = await listSegments(dataDir)
  return segments.flatMap(({ path }) =>
    readFileSync(path, 'utf8')
      .split('\n')
      .slice(0, -1)
      .map((line): Event => JSON.parse(line)),
  )
}

/** Appends each event it gets, as a line of JSON, to `seen`. */
export function recorder(seen: string, events = '*'): string {
  return `import { appendFileSync } from 'node:fs'
import { defineHandler } from 'bitrix24-webhook-receiver'
export default defineHandler(${JSON.stringify(events)}, (event) => appendFileSync(${JSON.stringify(seen)}, JSON.stringify(event) + '\\n'))
`
}

export function readRecorded(seen: string): Event[] {
  if (!existsSync(seen)) return []
  // A line that is being written has no end yet.
  const lines = readFileSync(seen, 'utf8').split('\n').slice(0, -1)
  return lines.map((line): Event => JSON.parse(line))
}

export function makeFolder(...parts: string[]): string {
  const folder = join(...parts)
  mkdirSync(folder, { recursive: true })
  return folder
}
