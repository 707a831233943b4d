import { type Logger, pino } from 'pino'
import type { Printer } from './printer.ts'

/** A log for components that report problems in the log: each line becomes a note for a person. */
export function createNoteLog(print: Printer): Logger {
  const write = (line: string) => {
    const { level: _, msg, ...about }: Record<string, unknown> = JSON.parse(line)
    print.note(`${String(msg)}: ${JSON.stringify(about)}`)
  }
  return pino({ level: 'warn', base: null, timestamp: false }, { write })
}
