import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import { type Receiver, TOKEN } from './receiver.ts'

const script = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))

export interface CliOptions {
  readonly env?: Record<string, string>
  readonly uid?: number
  readonly input?: string
}

/** `b24-receiver …` as its user runs it, with nothing but this in its environment; it must never print the token. */
export async function runCli({ env, uid, input }: CliOptions, ...args: readonly string[]) {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', script, ...args], {
    // A folder without a .env.
    cwd: tmpdir(),
    env: {
      PATH: process.env['PATH'],
      TZ: 'UTC',
      ...(uid === undefined && { NODE_COMPILE_CACHE: join(tmpdir(), 'b24-compile-cache') }),
      ...env,
    },
    ...(uid !== undefined && { uid }),
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  // Whoever reads no input may be gone.
  child.stdin.on('error', () => undefined).end(input ?? '')
  await once(child, 'close')
  if ((stdout + stderr).includes(TOKEN)) throw new Error('it printed the token')
  return { code: child.exitCode, stdout, stderr }
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
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line): Record<string, unknown> => JSON.parse(line))
}
