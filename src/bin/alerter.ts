import { statfs } from 'node:fs/promises'
import { hostname } from 'node:os'
import { type Config, readConfig } from '../config/config.ts'
import { createLog } from '../lib/log.ts'
import { printableLines } from '../lib/printable.ts'
import { openParent } from '../lib/child-process.ts'
import { explainStart } from '../lib/start-error.ts'
import { createAlerts } from '../alerts/alerts.ts'
import { createConditions, type Disk } from '../alerts/conditions.ts'
import { postAlert } from '../alerts/post-alert.ts'
import type { ToAlerter } from '../alerts/snapshot.ts'

const config = readSettings()
const { log, close: closeLog } = createLog(config.logLevel, 'alerter')
let url = urlOf(config)
const lookAt = createConditions(config)
const alerts = createAlerts({ host: hostname(), post: (alert) => postAlert(url, alert), log })
let disk: Disk | undefined
let isLookingAtDisk = false

const parent = openParent<ToAlerter, never>()
parent.events.on('message', (message) => {
  if (message.type === 'reload') return reload()
  const { snapshot } = message
  if (snapshot.journal) void lookAtDisk()
  const at = Date.now()
  alerts.update(lookAt(snapshot, disk, at), at)
})
// Signals of the terminal reach us, too; who started us decides what they mean.
process.on('SIGINT', () => undefined)
process.on('SIGHUP', () => undefined)
parent.events.on('close', () => void closeLog().then(() => process.exit(0)))

/** A disk that does not answer is asked once. */
async function lookAtDisk(): Promise<void> {
  if (isLookingAtDisk) return
  isLookingAtDisk = true
  try {
    const { bavail, blocks, bsize } = await statfs(config.dataDir)
    disk = { free: bavail * bsize, size: blocks * bsize }
  } catch {
    // Whether it can be written is what the journal tells.
    disk = undefined
  } finally {
    isLookingAtDisk = false
  }
}

function reload(): void {
  try {
    url = urlOf(readConfig(process.env, 'dispatcher'))
  } catch (error) {
    log.error({ err: error }, 'the settings are wrong: alerts go where they went')
  }
}

function urlOf({ alertUrl }: Config): URL {
  if (alertUrl === undefined) throw new Error('an alerter without ALERT_URL')
  return alertUrl
}

function readSettings(): Config {
  try {
    return readConfig(process.env, 'dispatcher')
  } catch (error) {
    const { text, exitCode } = explainStart(error)
    process.stderr.write(`${printableLines(text)}\n`)
    process.exit(exitCode)
  }
}
