import { once } from 'node:events'
import type { Logger } from 'pino'
import { type Child, isAlive, startChild } from '../lib/child-process.ts'
import type { Snapshot, ToAlerter } from './snapshot.ts'

export interface AlerterParts {
  /** What is known now. */
  readonly snapshot: () => Snapshot
  readonly log: Logger
}

export interface Alerter {
  /** ALERT_URL_FILE is read again. */
  reload(): void
  /** Resolves when it is gone, after `grace` milliseconds at most. */
  stop(grace: number): Promise<void>
}

const interval = 1_000

/** Milliseconds until one that ended is started again. */
const pause = 5_000

/** Milliseconds that one that is to end may take: it has nothing to lose. */
const longestEnd = 1_000

/**
 * Keeps a process running that sends alerts, and tells it every second what is known here. Whatever it meets, it takes
 * nothing from us but these messages: one that does not read them gets no more.
 */
export function startAlerter({ snapshot, log }: AlerterParts): Alerter {
  let isStopping = false
  let isTelling = false
  let restart: NodeJS.Timeout | undefined
  let child = start()
  const telling = setInterval(() => {
    if (!isTelling) tellSnapshot()
  }, interval)

  function start(): Child<never, ToAlerter> {
    const fresh: Child<never, ToAlerter> = startChild(new URL('../bin/alerter.ts', import.meta.url), [])
    // One that could not be started has no exit.
    fresh.process.once('error', (error) => again({ err: error }))
    fresh.process.once('exit', (code, signal) => again({ exit_code: code, signal }))
    return fresh
  }

  function again(why: Record<string, unknown>): void {
    isTelling = false
    if (isStopping || restart !== undefined) return
    log.warn({ ...why, again_in_ms: pause }, 'the alerter ended; no alert is sent meanwhile')
    restart = setTimeout(() => {
      restart = undefined
      child = start()
      tellSnapshot()
    }, pause)
  }

  function tellSnapshot(): void {
    isTelling = true
    child.channel.send({ type: 'snapshot', snapshot: snapshot() }, () => {
      isTelling = false
    })
  }

  // The counters begin here: what they grow by until it listens is told it as growth.
  tellSnapshot()

  return {
    reload: () => child.channel.send({ type: 'reload' }),
    async stop(grace) {
      isStopping = true
      clearInterval(telling)
      clearTimeout(restart)
      if (!isAlive(child)) return
      const gone = once(child.process, 'exit')
      child.channel.close()
      const killer = setTimeout(() => child.process.kill('SIGKILL'), Math.min(grace, longestEnd))
      await gone
      clearTimeout(killer)
    },
  }
}
