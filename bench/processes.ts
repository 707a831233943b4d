import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../src/cli/free-port.ts'

/** The servers have one core and the generator the other; a dispatcher has the generator's, as it would have one of its own. */
export const serverCore = 0
export const loadCore = 1

export const token = 'bench0token0bench0token0bench0to'

const sample = new URL('../test/fixtures/samples/webhook/ONCRMDEALUPDATE.body', import.meta.url)

/** What Bitrix24 posts when a deal was changed, byte for byte, with the token of the servers here. */
export const dealBody = readFileSync(sample, 'utf8').replace(/(application_token%5D=)[^&]*/, `$1${token}`)

export interface Running {
  readonly url: string
  readonly pid: number
  /** Microseconds of CPU that it and its workers have used. */
  cpu(): number
  /** Resolves when nothing of what it was given is left to do, which would take the cores from the next. */
  settled?(): Promise<void>
  /** Stops it and removes its files. */
  stop(): Promise<void>
}

/** Whether a program is there; the benches say what they leave out without it. */
export function isInstalled(...programs: string[]): boolean {
  return programs.every((program) => spawnSync('sh', ['-c', `command -v ${program}`]).status === 0)
}

const folders = new Set<string>()
const groups = new Set<number>()
process.on('exit', () => {
  for (const group of groups) signal(-group, 'SIGKILL')
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})
for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => process.exit(1))

/** Gone when the bench ends, or before. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'b24-bench-'))
  folders.add(folder)
  return folder
}

export function remove(folder: string): void {
  rmSync(folder, { recursive: true, force: true })
  folders.delete(folder)
}

/** Starts a program on one core, in a process group of its own. */
export function spawnPinned(
  command: readonly string[],
  env: Readonly<Record<string, string>>,
  output: 'ignore' | number = 'ignore',
  core = loadCore,
) {
  const child = spawn('taskset', ['-c', String(core), ...command], {
    detached: true,
    stdio: ['ignore', output, output === 'ignore' ? 'inherit' : output],
    env: { PATH: process.env['PATH'], ...env },
  })
  const pid = child.pid ?? 0
  groups.add(pid)
  return {
    child,
    pid,
    stop: async () => {
      // Some leave the group.
      const family = isAlive(child) ? familyOf(pid) : []
      const gone = once(child, 'exit')
      if (isAlive(child) && child.kill('SIGTERM')) await gone
      for (const one of [-pid, ...family]) signal(one, 'SIGKILL')
      groups.delete(pid)
    },
  }
}

/** Starts a server of the bench, or another program that listens on `PORT`, on the servers' core. */
export async function startServer(
  command: readonly string[],
  { env = {}, output = 'ignore' as 'ignore' | number, path = '/' } = {},
): Promise<Running> {
  const port = await freePort()
  const { child, pid, stop } = spawnPinned(
    command,
    { B24_APPLICATION_TOKEN: token, PORT: String(port), ...env },
    output,
    serverCore,
  )
  await listening(port, child)
  return { url: `http://127.0.0.1:${port}${path}`, pid, cpu: () => cpuOf(familyOf(pid)), stop }
}

/** Bytes of memory that a process holds. */
export function rssOf(pid: number): number {
  const kilobytes = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  return Number(kilobytes) * 1024
}

/** Since their start, in microseconds; the kernel counts in hundredths of a second. */
export function cpuOf(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    const fields = (readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1] ?? '').split(' ')
    return sum + (Number(fields[11]) + Number(fields[12])) * 10_000
  }, 0)
}

export function childrenOf(pid: number): number[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((task) =>
    readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
  )
}

function familyOf(pid: number): number[] {
  return [pid, ...childrenOf(pid).flatMap(familyOf)]
}

async function listening(port: number, child: ChildProcess): Promise<void> {
  for (;;) {
    if (child.exitCode !== null) throw new Error(`${child.spawnargs.join(' ')} ended with ${child.exitCode}`)
    const socket = connect(port, '127.0.0.1')
    const isThere = await once(socket, 'connect').then(
      () => true,
      () => false,
    )
    socket.destroy()
    if (isThere) return
    await sleep(20)
  }
}

function isAlive(child: ChildProcess): boolean {
  return child.exitCode === null && child.signalCode === null
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch {
    // It is gone already.
  }
}
