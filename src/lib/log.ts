import { setTimeout as sleep } from 'node:timers/promises'
import { type Logger, pino } from 'pino'
import { createOutput } from './async-writer.ts'
import { createPretty, onTerminal } from './pretty.ts'
import { printableJson } from './printable.ts'

/** What may wait for a reader of stdout that does not read; the rest is dropped and counted. 4 MB is some 20,000 lines. */
const longestBacklog = 4 * 1024 ** 2

/** How long the last lines may take to leave, in milliseconds. */
const patience = 500

export interface Log {
  readonly log: Logger
  /** Lets the last lines leave, if somebody reads them. Nothing may be logged after it. */
  readonly close: () => Promise<void>
}

/**
 * The diagnostic log on stdout: for people on a terminal, JSON elsewhere. Written in the background, because a reader
 * that stalls must not hold an answer, and one that is gone must not end the process.
 *
 * @param part which of the processes speaks
 */
export function createLog(level: string, part: 'receiver' | 'dispatcher' | 'worker' | 'alerter'): Log {
  const options = { level, base: { part }, timestamp: pino.stdTimeFunctions.isoTime }
  if (process.stdout.isTTY) {
    const terminal = pino.destination({ fd: 1, sync: true })
    const pretty = createPretty(onTerminal)
    return {
      log: pino(options, { write: (line) => void terminal.write(pretty(line)) }),
      close: () => Promise.resolve(),
    }
  }

  let dropped = 0
  const stdout = createOutput({
    fd: 1,
    longestBacklog,
    onDrained: () => {
      const lines = dropped
      dropped = 0
      if (lines > 0) log.warn({ lines }, 'lines of this log were dropped: its reader was too slow')
    },
  })
  const log = pino(options, {
    write: (line) => {
      if (!stdout.write(printableJson(line))) dropped++
    },
  })
  return {
    log,
    close: () => Promise.race([stdout.flush(), sleep(patience)]),
  }
}
