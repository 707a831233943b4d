import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { readSettings } from '../../config/config.ts'
import { type LoadReport, readLoadReport } from '../../dispatch/load-report.ts'
import { findHolder } from '../../journal/lock.ts'
import { type ReloadReport, readReloadReport } from '../../receiver/reload-report.ts'
import { defineCommand } from '../command.ts'
import { findDataDir } from '../data.ts'
import { exitCodes } from '../exit-codes.ts'

/** Milliseconds that a reload may take in addition to HANDLER_LOAD_TIMEOUT and the end of the current runs. */
const extraTimeoutMs = 15_000

const never: LoadReport = { at: 0, loaded: [], broken: [] }

/** Makes the running receiver load handlers and secrets again, and shows the result. */
export const reload = defineCommand({
  name: 'reload',
  usage: '',
  summary: 'lets the running receiver load its handlers and read its secret files again, as SIGHUP does',
  notes: [
    'Waits until a dispatcher has loaded them, and exits with 1 when a file is broken: then the old handlers go on. With 1',
    'also when a setting is wrong, such as a secret file that is missing or empty: then everything stays as it was.',
  ],
  options: { 'no-wait': { type: 'boolean', description: 'do not wait for the result' } },
  examples: ['reload'],
  args: 0,
  async run({ options, print }) {
    const dataDir = findDataDir()
    const settings = readSettings(process.env, 'shutdownGrace', 'handlerLoadTimeout', 'dispatcher')
    const { shutdownGrace: grace, handlerLoadTimeout: timeout, dispatcher } = settings
    const holder = findHolder(dataDir, 'receiver')
    if (holder === undefined) throw new Error(`no receiver runs on ${dataDir}`)
    if (holder.host !== hostname())
      throw new Error(`the receiver runs on ${holder.host}, as pid ${holder.pid}: run this there`)
    const sentAt = Date.now()
    // Not SIGHUP: a terminal sends it when it closes, and it stops the receiver.
    process.kill(holder.pid, 'SIGUSR2')
    if (options['no-wait']) {
      await print.result({ pid: holder.pid }, `pid ${holder.pid} has the signal to reload`)
      return undefined
    }
    const end = sentAt + grace + timeout + extraTimeoutMs
    const { problems, warnings } = await settingsOf(dataDir, sentAt, end)
    for (const warning of warnings) print.note(warning)
    for (const problem of problems) {
      const text = problem.replace(/\s+/g, ' ')
      await print.result({ problem: text }, text)
    }
    if (problems.length > 0) {
      print.note('nothing was reloaded: the receiver goes on with the tokens, webhooks and handlers that it has')
      return exitCodes.failed
    }
    if (!dispatcher) {
      await print.result({ pid: holder.pid }, `pid ${holder.pid} has read its settings again`)
      return undefined
    }
    for (; Date.now() < end; await sleep(100)) {
      const { at, loaded, broken, trouble, loading, leftOut = [] } = readLoadReport(dataDir) ?? never
      if (at >= sentAt && loading === undefined) {
        if (trouble !== undefined) throw new Error(trouble)
        for (const { file, place, error } of broken)
          await print.result({ broken: file, place, error }, `${place}: ${error}`)
        for (const { file, reason } of leftOut) print.note(`${file} is left out: ${reason}`)
        if (broken.length > 0) return exitCodes.failed
        await print.result({ pid: holder.pid, loaded }, `loaded: ${loaded.join(', ') || 'no handler is there'}`)
        return undefined
      }
      print.progress('waiting for the handlers to be loaded')
    }
    const { at, loading = [] } = readLoadReport(dataDir) ?? never
    if (at >= sentAt && loading.length > 0)
      throw new Error(
        `${loading.join(' or ')} ended the process that loaded it, or runs for ever: the old handlers go on, if any ran`,
      )
    throw new Error(
      `pid ${holder.pid} has the signal to reload, but no dispatcher has loaded the handlers: its log says why`,
    )
  },
})

/** Returns the receiver's report about its new settings. */
async function settingsOf(dataDir: string, sentAt: number, end: number): Promise<ReloadReport> {
  for (; Date.now() < end; await sleep(50)) {
    const report = readReloadReport(dataDir)
    if (report !== undefined && report.at >= sentAt) return report
  }
  throw new Error('the receiver has the signal to reload, but has not read its settings: its log says why')
}
