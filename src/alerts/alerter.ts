import { statfs } from 'node:fs/promises'
import { hostname } from 'node:os'
import type { Logger } from 'pino'
import { readTimes } from '../lib/times.ts'
import { createAlerts } from './alerts.ts'
import { createConditions, type Disk } from './conditions.ts'
import { postAlert } from './post-alert.ts'
import type { Sample } from './sample.ts'

export interface AlerterDeps {
  /** Returns the current state of this process. */
  readonly sample: () => Sample
  readonly dataDir: string
  /** Where alerts are posted; `undefined`: none are. */
  readonly alertUrl: URL | undefined
  /** Milliseconds without an event until the alert; `undefined` for no such alert. */
  readonly alertAfterSilence: number | undefined
  readonly log: Logger
}

export interface Alerter {
  /** Posts to this URL from now on. Without one, alerts go where they went. */
  reload(alertUrl: URL | undefined): void
  stop(): void
}

const sampleIntervalMs = 1_000

/**
 * Looks at the state every second, and posts the alerts. Nothing waits for it: a target that does not answer is given up
 * after ten seconds, and a disk that does not answer is not asked again meanwhile.
 */
export function startAlerter({ sample, dataDir, alertUrl, alertAfterSilence, log }: AlerterDeps): Alerter | undefined {
  if (alertUrl === undefined) return undefined
  const conditionsOf = createConditions({ alertAfterSilence })
  const { alerterSpeed = 1 } = readTimes()
  const startedAt = Date.now()
  let url = alertUrl
  const alerts = createAlerts({ host: hostname(), post: (alert) => postAlert(url, alert), log })
  const disk = watchDisk(dataDir)

  let hasFailed = false

  /** An error here must not end the process, which takes posts. */
  function check(): void {
    try {
      const current = sample()
      const at = startedAt + (Date.now() - startedAt) * alerterSpeed
      alerts.update(conditionsOf(current, current.journal && disk(), at), at)
      hasFailed = false
    } catch (error) {
      if (!hasFailed) log.error({ err: error }, 'no alert is sent: the state cannot be read')
      hasFailed = true
    }
  }

  // The first sample is the base of the counters: later events must count as growth.
  check()
  const timer = setInterval(check, sampleIntervalMs).unref()
  return {
    reload(next) {
      if (next === undefined) log.error('ALERT_URL is not set any more: alerts go where they went')
      else url = next
    },
    stop: () => clearInterval(timer),
  }
}

/** Returns a function that gives what was last known of the disk and asks again, unless the last question is open. */
function watchDisk(path: string): () => Disk | undefined {
  let disk: Disk | undefined
  let isAsking = false

  async function ask(): Promise<void> {
    isAsking = true
    try {
      const { bavail, blocks, bsize } = await statfs(path)
      disk = { free: bavail * bsize, size: blocks * bsize }
    } catch {
      // The journal reports whether the disk can be written.
      disk = undefined
    } finally {
      isAsking = false
    }
  }

  return () => {
    if (!isAsking) void ask()
    return disk
  }
}
