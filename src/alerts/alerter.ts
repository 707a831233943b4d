import { once } from 'node:events'
import type { Logger } from 'pino'
import { type Child, isAlive, startChild } from '../lib/child-process.ts'
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
const stopTimeoutMs = 1_000

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

  function start(): Child<never, ToAlerter> {
    const fresh: Child<never, ToAlerter> = startChild(new URL('../bin/alerter.ts', import.meta.url), [])
    // A process that could not be started has no `exit` event.
    fresh.process.once('error', (error) => again({ err: error }))
    fresh.process.once('exit', (code, signal) => again({ exit_code: code, signal }))
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
      if (!isAlive(child)) return
      const gone = once(child.process, 'exit')
      child.channel.close()
      const killer = setTimeout(() => child.process.kill('SIGKILL'), Math.min(grace, stopTimeoutMs))
      await gone
      clearTimeout(killer)
    },
  }
}
