import { accessSync, constants, existsSync, readFileSync } from 'node:fs'
import { findCommand, helpOf, loadCommands } from '../cli/commands.ts'
import { exitCodes } from '../cli/exit-codes.ts'
import { ConfigError } from '../config/config.ts'
import { messageOf } from '../lib/error-text.ts'
import { printable, printableLines } from '../lib/printable.ts'

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  // `| head` closes stdout, which is not an error of the command.
  process.exit(error.code === 'EPIPE' ? exitCodes.done : fail(`b24-receiver: ${error.message}`, exitCodes.failed))
})
// `2>&1 | head` closes stderr, too. The command must still finish its work.
process.stderr.on('error', () => undefined)

process.exitCode = await main(process.argv.slice(2))

async function main([name = '', ...args]: readonly string[]): Promise<number> {
  const command = await findCommand(name)
  if (command === undefined) return mainWithout(name, args)
  if (args.includes('--help') || args.includes('-h')) return say(command.help)
  try {
    readEnvFile()
    return await command.run(args)
  } catch (error) {
    const named = error instanceof ConfigError ? error : await explain(error)
    const message = messageOf(named).replaceAll(/\s+/g, ' ')
    return fail(`b24-receiver ${name}: ${printable(message)}`, exitCodeOf(error))
  }
}

/** Adds the file to an error of SQLite, which names none. The import is lazy because most commands touch no data. */
async function explain(error: unknown): Promise<unknown> {
  if (!(error instanceof Error && 'errcode' in error)) return error
  const { explainData } = await import('../cli/data.ts')
  return explainData(error)
}

/**
 * Reads `.env` as `npm start` does; variables that are already set win. An unreadable file is not an error: it holds
 * secrets, and a user who may only read the data need not have access.
 */
function readEnvFile(): void {
  if (!existsSync('.env')) return
  try {
    accessSync('.env', constants.R_OK)
  } catch {
    process.stderr.write('b24-receiver: this user may not read .env, so settings come from the environment alone\n')
    return
  }
  process.loadEnvFile('.env')
}

async function mainWithout(name: string, [wanted = '']: readonly string[]): Promise<number> {
  if (['help', '-h', '--help'].includes(name)) return say((await findCommand(wanted))?.help ?? (await help()))
  if (name === '') return fail((await help()).trimEnd(), exitCodes.usage)
  if (name !== '--version')
    return fail(`b24-receiver: there is no command "${name}"; see b24-receiver --help`, exitCodes.usage)
  const manifest: { version: string } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
  return say(`${manifest.version}\n`)
}

async function help(): Promise<string> {
  return helpOf(await loadCommands())
}

function say(text: string): number {
  process.stdout.write(text)
  return exitCodes.done
}

function fail(text: string, code: number): number {
  process.stderr.write(`${printableLines(text)}\n`)
  return code
}

function exitCodeOf(error: unknown): number {
  if (error instanceof ConfigError) return exitCodes.config
  // Both node:util's parseArgs, for unknown arguments, and UsageError throw such a code.
  const isUsage = error instanceof Error && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS')
  return isUsage ? exitCodes.usage : exitCodes.failed
}
