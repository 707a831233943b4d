import { statfs } from 'node:fs/promises'
import { hostname } from 'node:os'
import { createAlerts } from '../alerts/alerts.ts'
import { createConditions, type Disk } from '../alerts/conditions.ts'
import { postAlert } from '../alerts/post-alert.ts'
import type { ToAlerter } from '../alerts/sample.ts'
import { type Config, readConfig } from '../config/config.ts'
import { exitAtStart } from '../config/explain-start.ts'
import { openParent } from '../lib/child-process.ts'
import { createLog } from '../lib/log.ts'
import { readTimes } from '../lib/times.ts'

const config = readSettings()
const { log, close: closeLog } = createLog(config.logLevel, 'alerter')
let url = urlOf(config)
const lookAt = createConditions(config)
const alerts = createAlerts({ host: hostname(), post: (alert) => postAlert(url, alert), log })
const { alerterSpeed = 1 } = readTimes()
const startedAt = Date.now()
let disk: Disk | undefined
let isLookingAtDisk = false

const parent = openParent<ToAlerter, never>()
parent.events.on('message', (message) => {
  if (message.type === 'reload') return reload()
  const { sample } = message
  if (sample.journal) void lookAtDisk()
  const at = startedAt + (Date.now() - startedAt) * alerterSpeed
  alerts.update(lookAt(sample, disk, at), at)
})
// Signals of the terminal reach this process, too. The parent process decides what they mean.
process.on('SIGINT', () => undefined)
process.on('SIGHUP', () => undefined)
parent.events.on('close', () => void closeLog().then(() => process.exit(0)))

/** Does not start a second check while the disk does not answer the first. */
async function lookAtDisk(): Promise<void> {
  if (isLookingAtDisk) return
  isLookingAtDisk = true
  try {
    const { bavail, blocks, bsize } = await statfs(config.dataDir)
    disk = { free: bavail * bsize, size: blocks * bsize }
  } catch {
    // The journal reports whether the disk can be written.
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
    exitAtStart(error)
  }
}
