import { once } from 'node:events'
import { printable, printableColours, printableLines } from '../lib/printable.ts'

/** The output of a command: results on stdout, everything else on stderr. */
export interface Printer {
  /** `--json`: a result is one line of JSON. */
  readonly json: boolean
  /** The results go to a terminal. */
  readonly isTerminal: boolean
  /**
   * Resolves when there is space for more. A slow reader slows the command down, and the output does not fill the
   * memory.
   */
  line(text: string): Promise<void>
  /** Prints the value with `--json`, otherwise the text. */
  result(value: unknown, text: string): Promise<void>
  /** Does the same for a text of createPretty, and keeps its colours. */
  pretty(value: unknown, text: string): Promise<void>
  /** Prints the values with `--json`, otherwise their columns; prints `none` on stderr if there are no values. */
  table<T>(values: readonly T[], columns: Readonly<Record<string, (value: T) => string>>, none: string): Promise<void>
  /** For a person, beside the result. */
  note(text: string): void
  /** Shows the progress, on a terminal only. Each text replaces the one before. */
  progress(text: string): void
}

const clearLine = '\r\u001b[K'

export function createPrinter({ json }: { readonly json: boolean }): Printer {
  let hasProgress = false

  async function write(text: string): Promise<void> {
    if (hasProgress) progress('')
    if (!process.stdout.write(`${text}\n`)) await once(process.stdout, 'drain')
  }

  // This also applies to JSON: its escaped form keeps the meaning.
  const line = (text: string) => write(printableLines(text))

  function progress(text: string): void {
    if (!process.stderr.isTTY || (text === '' && !hasProgress)) return
    process.stderr.write(`${clearLine}${printable(text)}`)
    hasProgress = text !== ''
  }

  const note = (text: string) => {
    progress('')
    process.stderr.write(`${printableLines(text)}\n`)
  }

  return {
    json,
    isTerminal: process.stdout.isTTY,
    line,
    note,
    progress,
    result: (value, text) => line(json ? JSON.stringify(value) : text),
    pretty: (value, text) => (json ? line(JSON.stringify(value)) : write(printableColours(text))),
    async table(values, columns, none) {
      if (json) {
        for (const value of values) await line(JSON.stringify(value))
        return
      }
      if (values.length === 0) return note(none)
      const heads = Object.keys(columns)
      const rows = values.map((value) => Object.values(columns).map((column) => printable(column(value))))
      // Not `Math.max(…rows)`, which accepts only some 100,000 arguments.
      const widths = heads.map((head, at) =>
        rows.reduce((width, row) => Math.max(width, row[at]?.length ?? 0), head.length),
      )
      for (const row of [heads, ...rows])
        await line(
          row
            .map((cell, at) => (at === row.length - 1 ? cell : cell.padEnd(widths[at] ?? 0)))
            .join('  ')
            .trimEnd(),
        )
    },
  }
}
