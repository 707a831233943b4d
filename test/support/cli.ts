import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'

export const cliScript = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))

export interface CliOptions {
  readonly env?: Readonly<Record<string, string>>
  /** Somebody else than the owner of the data; only root may choose it. */
  readonly uid?: number
  readonly cwd?: string
}

/** `b24-receiver …` as a process of its own, with nothing but this in its environment. It ends with the test. */
export function spawnCli(args: readonly string[], { env = {}, uid, cwd }: CliOptions = {}) {
  // As the first line of the script starts it.
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', cliScript, ...args], {
    ...(uid !== undefined && { uid, gid: uid }),
    ...(cwd !== undefined && { cwd }),
    env: { PATH: process.env['PATH'], NODE_COMPILE_CACHE: join(tmpdir(), 'b24-compile-cache'), TZ: 'UTC', ...env },
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  return { child, ...collect(child) }
}

export interface CliResult {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs it to its end. */
export async function runCli(args: readonly string[], options?: CliOptions): Promise<CliResult> {
  return spawnCli(args, options).result
}

/** What a process says, and how it ends. */
export function collect(child: ChildProcess) {
  const said = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const)
    child[name]?.setEncoding('utf8').on('data', (text: string) => {
      said[name] += text
    })
  const result = once(child, 'close').then((): CliResult => ({ code: child.exitCode, ...said }))
  return { said, result }
}

/** The lines of JSON that a command printed. */
export function jsonLines(stdout: string): Record<string, unknown>[] {
  return linesOf(stdout).map((line): Record<string, unknown> => JSON.parse(line))
}

export function linesOf(stdout: string): string[] {
  return stdout.split('\n').filter((line) => line !== '')
}
