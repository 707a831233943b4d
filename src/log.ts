import { type Logger, pino } from 'pino'
import pretty from 'pino-pretty'

/** What may wait for a reader of stdout that does not read; the rest is dropped. 4 MB is some 20,000 lines. */
const longestBacklog = 4 * 1024 ** 2

/** How a line looks to people. */
export const onTerminal = { singleLine: true, translateTime: 'SYS:HH:MM:ss.l' } as const

/**
 * The diagnostic log on stdout: for people on a terminal, JSON elsewhere. Written in the background, because a reader
 * that stalls must not hold an answer, and one that is gone must not end the process.
 *
 * @param part which of the processes speaks
 */
export function createLog(level: string, part: 'receiver' | 'dispatcher'): Logger {
  const options = { level, base: { part }, timestamp: pino.stdTimeFunctions.isoTime }
  if (process.stdout.isTTY) return pino(options, pretty({ sync: true, ...onTerminal }))
  const stdout = pino.destination({ fd: 1, sync: false, maxLength: longestBacklog })
  // Nobody reads (EPIPE): there is nowhere to say so.
  stdout.on('error', () => undefined)
  return pino(options, stdout)
}
