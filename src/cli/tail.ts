import { once } from 'node:events'
import { parseArgs } from 'node:util'
import { pino } from 'pino'
import { prettyFactory } from 'pino-pretty'
import { readDataDir } from '../config.ts'
import { follow, positionOfLast } from '../journal/follow.ts'
import { UsageError } from './usage-error.ts'

/** The last events of the journal, and with `-f` every one that comes until the terminal says stop. */
export async function tail(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      follow: { type: 'boolean', short: 'f', default: false },
      lines: { type: 'string', short: 'n', default: '10' },
      json: { type: 'boolean', default: false },
    },
  })
  if (!/^\d{1,9}$/.test(values.lines)) throw new UsageError('-n takes a whole number')
  const dataDir = readDataDir(process.env)
  const stop = new AbortController()
  process.once('SIGINT', () => stop.abort())

  const pretty = prettyFactory({
    colorize: process.stdout.isTTY,
    singleLine: true,
    translateTime: 'SYS:yyyy-mm-dd HH:MM:ss',
  })
  const from = await positionOfLast(dataDir, Number(values.lines))
  const log = pino({ base: null }, process.stderr)
  for await (const { entries } of follow({ dataDir, from, signal: stop.signal, wait: values.follow, log }))
    for (const { event } of entries) {
      const line = values.json ? `${JSON.stringify(event)}\n` : pretty(event)
      // A slow reader holds us, not our memory.
      if (!process.stdout.write(line)) await once(process.stdout, 'drain')
    }
}
