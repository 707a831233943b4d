import type { Logger } from 'pino'
import { startChild } from '../lib/child-process.ts'
import type { Sample, ToAlerter } from './sample.ts'

export interface AlerterDeps {
  /** Returns the current state. */
  readonly sample: () => Sample
  readonly log: Logger
}

export interface Alerter {
  /** Makes the alerter read ALERT_URL_FILE again. */
  reload(): void
  /** Resolves when the alerter is gone, after `grace` milliseconds at most. */
  stop(grace: number): Promise<void>
}

const sampleIntervalMs = 1_000

/** Milliseconds until an alerter that ended is started again. */
const restartDelayMs = 5_000

/** Milliseconds until an alerter that was asked to stop is killed. It has no data to lose. */
const maxEndMs = 1_000

/**
 * Keeps a process running that sends alerts, and sends it a sample every second. The next sample is sent only when the
 * last one was taken, so an alerter that is stuck cannot fill this process's memory.
 */
export function startAlerter({ sample, log }: AlerterDeps): Alerter {
  let isStopping = false
  let isSending = false
  let restart: NodeJS.Timeout | undefined
  let child = start()
  const sampling = setInterval(() => {
    if (!isSending) sendSample()
  }, sampleIntervalMs)

  function start() {
    const fresh = startChild<never, ToAlerter>({ script: new URL('../bin/alerter.ts', import.meta.url) })
    void fresh.exited.then(({ code, signal, error }) => again(error ? { err: error } : { exit_code: code, signal }))
    return fresh
  }

  function again(why: Record<string, unknown>): void {
    isSending = false
    if (isStopping || restart !== undefined) return
    log.warn({ ...why, again_in_ms: restartDelayMs }, 'the alerter ended; no alert is sent meanwhile')
    restart = setTimeout(() => {
      restart = undefined
      child = start()
      sendSample()
    }, restartDelayMs)
  }

  function sendSample(): void {
    isSending = true
    child.channel.send({ type: 'snapshot', sample: sample() }, () => {
      isSending = false
    })
  }

  // The first sample is the base of the counters: events before the alerter listens must count as growth.
  sendSample()

  return {
    reload: () => child.channel.send({ type: 'reload' }),
    async stop(grace) {
      isStopping = true
      clearInterval(sampling)
      clearTimeout(restart)
      await child.end(Math.min(grace, maxEndMs), child.channel.close)
    },
  }
}
