import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import { type Receiver, shared, TOKEN } from './receiver.ts'

export const cliScript = fileURLToPath(new URL('../../src/bin/cli.ts', import.meta.url))

export interface CliOptions {
  readonly env?: Readonly<Record<string, string>>
  /** Somebody else than the owner of the data; only root may choose it. */
  readonly uid?: number
  readonly input?: string
  /** A folder without a `.env` by default. */
  readonly cwd?: string
}

/** `b24-receiver …` as its user runs it, with nothing but this in its environment; it must never print the token. */
export async function runCli(options: CliOptions, ...args: readonly string[]) {
  return spawnCli(options, ...args).result
}

/** One that goes on until the test ends it, or ends itself. */
export function spawnCli({ env, uid, input, cwd = tmpdir() }: CliOptions, ...args: readonly string[]) {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', cliScript, ...args], {
    cwd,
    env: {
      PATH: process.env['PATH'],
      TZ: 'UTC',
      ...shared,
      ...env,
    },
    ...(uid !== undefined && { uid, gid: uid }),
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  // Whoever reads no input may be gone.
  child.stdin.on('error', () => undefined).end(input ?? '')
  return { child, ...collect(child) }
}

/** What a process says, and how it ends. */
export function collect(child: ChildProcess) {
  const said = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const)
    child[name]?.setEncoding('utf8').on('data', (text: string) => {
      said[name] += text
    })
  const result = once(child, 'close').then(() => {
    if ((said.stdout + said.stderr).includes(TOKEN)) throw new Error('it printed the token')
    return { code: child.exitCode, ...said }
  })
  return { said, result }
}

/** Where a receiver of a test keeps its data, and how it is reached. */
export function envOf({ dataDir, handlersDir, port, adminPort }: Receiver): Record<string, string> {
  return {
    DATA_DIR: dataDir,
    HANDLERS_DIR: handlersDir,
    HOST: '127.0.0.1',
    PORT: String(port),
    ADMIN_PORT: String(adminPort),
    B24_APPLICATION_TOKEN: TOKEN,
  }
}

/** The lines of `--json`. */
export function jsonLines(text: string): Record<string, unknown>[] {
  return linesOf(text).map((line): Record<string, unknown> => JSON.parse(line))
}

/** Of a text that still comes, the lines that are whole. */
export function linesOf(text: string): string[] {
  return text
    .split('\n')
    .slice(0, -1)
    .filter((line) => line !== '')
}
