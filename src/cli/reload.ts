import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { readSettings } from '../config.ts'
import { type LoadReport, readLoadReport } from '../dispatch/load-report.ts'
import { findHolder } from '../journal/lock.ts'
import { defineCommand } from './command.ts'
import { findDataDir } from './data.ts'
import { exitCodes } from './exit-codes.ts'

/** Milliseconds that it may take beyond HANDLER_LOAD_TIMEOUT and the end of those that run. */
const patience = 15_000

const never: LoadReport = { at: 0, loaded: [], broken: [] }

/** Tells the running receiver to load handlers and secrets anew, and how that went. */
export const reload = defineCommand({
  name: 'reload',
  usage: '',
  summary: 'lets the running receiver load its handlers and read its secret files anew, as SIGHUP does',
  notes: [
    'Waits until a dispatcher has loaded them, and exits with 1 when a file is broken: then the old handlers go on.',
  ],
  options: { 'no-wait': { type: 'boolean', about: 'only tell it' } },
  examples: ['reload'],
  words: 0,
  async run({ options, print }) {
    const dataDir = findDataDir()
    const settings = readSettings(process.env, 'SHUTDOWN_GRACE', 'HANDLER_LOAD_TIMEOUT', 'DISPATCHER')
    const { SHUTDOWN_GRACE: grace, HANDLER_LOAD_TIMEOUT: timeout, DISPATCHER } = settings
    const holder = findHolder(dataDir, 'receiver')
    if (holder === undefined) throw new Error(`no receiver runs on ${dataDir}`)
    if (holder.host !== hostname())
      throw new Error(`the receiver runs on ${holder.host}, as pid ${holder.pid}: run this there`)
    const told = Date.now()
    // Not SIGHUP, which stops a receiver at a terminal: that may be closed.
    process.kill(holder.pid, 'SIGUSR2')
    if (options['no-wait'] || DISPATCHER === 'off') {
      await print.result({ pid: holder.pid }, `pid ${holder.pid} was told`)
      return undefined
    }
    for (const end = told + grace + timeout + patience; Date.now() < end; await sleep(100)) {
      const { at, loaded, broken, trouble, loading } = readLoadReport(dataDir) ?? never
      if (at >= told && loading === undefined) {
        if (trouble !== undefined) throw new Error(trouble)
        for (const { file, place, error } of broken)
          await print.result({ broken: file, place, error }, `${place}: ${error}`)
        if (broken.length > 0) return exitCodes.failed
        await print.result({ pid: holder.pid, loaded }, `loaded: ${loaded.join(', ') || 'no handler is there'}`)
        return undefined
      }
      print.progress('waiting for the handlers to be loaded')
    }
    const { at, loading = [] } = readLoadReport(dataDir) ?? never
    if (at >= told && loading.length > 0)
      throw new Error(
        `${loading.join(' or ')} ended the process that loaded it, or runs for ever: the old handlers go on, if any ran`,
      )
    throw new Error(`pid ${holder.pid} was told, but no dispatcher has loaded the handlers: its log says why`)
  },
})
