import { createInterface } from 'node:readline/promises'
import type { Printer } from './printer.ts'
import { UsageError } from './usage-error.ts'

/** Says what would be done, and continues only with a confirmation at the terminal or `--yes`. */
export async function confirm(print: Printer, what: string, isAgreed: boolean): Promise<boolean> {
  print.note(what)
  if (isAgreed) return true
  if (!process.stdin.isTTY) throw new UsageError('not a terminal: pass --yes')
  const asking = createInterface({ input: process.stdin, output: process.stderr })
  try {
    return /^y(es)?$/i.test((await asking.question('Go on? [y/N] ')).trim())
  } finally {
    asking.close()
  }
}
