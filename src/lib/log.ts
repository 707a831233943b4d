import { setTimeout as sleep } from 'node:timers/promises'
import { type Logger, pino } from 'pino'
import { createOutput } from './async-writer.ts'
import { printableJson } from './printable.ts'

/** Loaded only for a terminal: it takes memory in every process. */
const pretty = process.stdout.isTTY ? await import('./pretty.ts') : undefined

/**
 * The maximum number of bytes that may wait for a stalled reader of stdout. Further lines are dropped and counted. 4
 * MB is some 20,000 lines.
 */
const maxBacklogBytes = 4 * 1024 ** 2

/** Milliseconds that the last lines may take to leave. */
const flushTimeoutMs = 500

export interface Log {
  readonly log: Logger
  /** Lets the last lines leave, if there is a reader. The log must not be used after it. */
  readonly close: () => Promise<void>
}

/**
 * The diagnostic log on stdout: readable text on a terminal, JSON elsewhere. It is written in the background, because
 * a stalled reader must not delay an answer, and a missing reader must not end the process.
 *
 * @param component the process that logs
 */
export function createLog(level: string, component: 'receiver' | 'dispatcher' | 'worker'): Log {
  const options = { level, base: { component }, timestamp: pino.stdTimeFunctions.isoTime }
  if (pretty !== undefined) {
    const terminal = pino.destination({ fd: 1, sync: true })
    const format = pretty.createPretty(pretty.onTerminal)
    return {
      log: pino(options, { write: (line) => void terminal.write(format(line)) }),
      close: () => Promise.resolve(),
    }
  }

  let dropped = 0
  const stdout = createOutput({
    fd: 1,
    maxBacklogBytes,
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
    close: () => Promise.race([stdout.flush(), sleep(flushTimeoutMs)]),
  }
}
