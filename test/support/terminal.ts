import { spawn, spawnSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import { stripVTControlCharacters } from 'node:util'
import { onTestFinished } from 'vitest'
import { collect } from './cli.ts'
import { shared } from './receiver.ts'

export const hasTerminals = spawnSync('script', ['--version']).status === 0

/** A script of ours as a person runs it: at a terminal, which script(1) of util-linux makes. */
export function atTerminal(env: Readonly<Record<string, string>>, script: string, ...args: readonly string[]) {
  const words = [process.execPath, '--disable-warning=ExperimentalWarning', script, ...args]
  const command = `exec ${words.map((word) => `'${word}'`).join(' ')}`
  const child = spawn('script', ['--quiet', '--return', '--command', command, '/dev/null'], {
    cwd: tmpdir(),
    env: {
      PATH: process.env['PATH'],
      TERM: 'xterm-256color',
      SHELL: '/bin/sh',
      TZ: 'UTC',
      ...shared,
      ...env,
    },
  })
  // The terminal goes with it, and its processes get a hang-up.
  onTestFinished(() => void child.kill('SIGKILL'))
  child.stdin.on('error', () => undefined)
  return { child, ...collect(child), type: (keys: string) => void child.stdin.write(keys) }
}

/** A text with nothing in it that a terminal obeys, that turns the direction of others, or that ends a line by surprise. */
export const harmless = /^(?:\n|[^\p{Cc}\p{Bidi_Control}\u2028\u2029])*$/u

const clearLine = '\r\u001b[K'

/** What is left to be read on the screen, without colours. */
export function screen(text: string): string[] {
  return text
    .split('\n')
    .map((line) => stripVTControlCharacters(line.split(clearLine).at(-1) ?? '').trimEnd())
    .filter((line) => line !== '')
}
