#!/usr/bin/env -S node --disable-warning=ExperimentalWarning
import { readFileSync } from 'node:fs'
import { call } from './call.ts'
import { demo } from './demo.ts'
import { tail } from './tail.ts'

/** sysexits.h: EX_USAGE. */
const EX_USAGE = 64

const commands = new Map<string, (args: string[]) => Promise<void>>([
  ['tail', tail],
  ['call', call],
  ['demo', demo],
])

const help = `b24-receiver: the tools of bitrix24-webhook-receiver

  b24-receiver tail [-f] [-n 10] [--json]   the last events of the journal; -f waits for more
  b24-receiver call METHOD [KEY=VALUE …]    calls Bitrix24 through B24_HOOK and prints the result
      --hook NAME   which one, where B24_HOOK has several
      --all         of a list all pages, not only the first
      --json        one line of JSON, with --all one for each row
      KEY[NAME]=VALUE or KEY.NAME=VALUE nests, KEY[]=VALUE adds to a list, and after := the value is JSON
  b24-receiver demo                         a receiver in a temporary folder, with a few events posted at it
  b24-receiver --version

Settings come from the environment, as for the receiver; tail needs DATA_DIR only, and call B24_HOOK.

Examples
  b24-receiver tail -f
  b24-receiver tail -n 1000 --json | grep deal:662
  b24-receiver call crm.contact.get ID=42
  b24-receiver call crm.item.update entityTypeId=2 id=662 'fields[title]=Boat'
  b24-receiver call crm.item.list entityTypeId=2 'select:=["id","title"]' 'filter[>=createdTime]=2026-01-01' --all --json
`

// `| head` closes our stdout: there is nobody left to tell.
process.stdout.on('error', () => process.exit(0))

const [name = '', ...args] = process.argv.slice(2)
const command = commands.get(name)
const isHelpWanted = ['-h', '--help'].some((word) => args.includes(word))
if (command && !isHelpWanted) {
  try {
    await command(args)
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    process.stderr.write(`b24-receiver ${name}: ${message.replaceAll(/\s+/g, ' ')}\n`)
    process.exitCode = isUsage(error) ? EX_USAGE : 1
  }
} else if (isHelpWanted || ['', 'help', '-h', '--help'].includes(name)) {
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
