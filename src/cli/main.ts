#!/usr/bin/env -S node --disable-warning=ExperimentalWarning
import { readFileSync } from 'node:fs'
import { demo } from './demo.ts'
import { tail } from './tail.ts'

/** sysexits.h: EX_USAGE. */
const EX_USAGE = 64

const commands = new Map<string, (args: string[]) => Promise<void>>([
  ['tail', tail],
  ['demo', demo],
])

const help = `b24-receiver: the tools of bitrix24-webhook-receiver

  b24-receiver tail [-f] [-n 10] [--json]   the last events of the journal; -f waits for more
  b24-receiver demo                         a receiver in a temporary folder, with a few events posted at it
  b24-receiver --version

Settings come from the environment, as for the receiver; tail needs DATA_DIR only.

Examples
  b24-receiver tail -f
  b24-receiver tail -n 1000 --json | grep deal:662
`

// `| head` closes our stdout: there is nobody left to tell.
process.stdout.on('error', () => process.exit(0))

const [name = '', ...args] = process.argv.slice(2)
const command = commands.get(name)
if (command) {
  try {
    await command(args)
  } catch (error) {
    process.stderr.write(`b24-receiver ${name}: ${error instanceof Error ? error.message : String(error)}\n`)
    process.exitCode = isUsage(error) ? EX_USAGE : 1
  }
} else if (['', 'help', '-h', '--help'].includes(name)) {
  process.stdout.write(help)
  process.exitCode = name === '' ? EX_USAGE : 0
} else if (name === '--version') {
  const manifest: { version: string } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
  process.stdout.write(`${manifest.version}\n`)
} else {
  process.stderr.write(`b24-receiver: there is no command "${name}"; see b24-receiver --help\n`)
  process.exitCode = EX_USAGE
}

/** What node:util's parseArgs throws for words it does not know. */
function isUsage(error: unknown): boolean {
  return error instanceof Error && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS')
}
