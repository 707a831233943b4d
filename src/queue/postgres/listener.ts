import { setTimeout as sleep } from 'node:timers/promises'
import { type ClientConfig, default as pg } from 'pg'
import type { Logger } from 'pino'
import { messageOf } from '../../lib/error-text.ts'

export interface ListenerDeps {
  readonly config: ClientConfig
  readonly channel: string
  /** Called on each notification, and after every gap in listening. */
  readonly heard: () => void
  readonly log: Logger
}

export interface Listener {
  close(): Promise<void>
}

/** Milliseconds, like all of these. */
const heartbeatMs = 10_000
const minPauseMs = 1_000
const maxPauseMs = 30_000

/**
 * One connection that listens, and reconnects by itself.
 *
 * The listener of pg-boss is not usable: it removes its `error` listener at the first error. PgBouncer passes on
 * Postgres's final error (57P01) and adds its own (08P01). That second error has no listener, and would end the
 * process.
 */
export function createListener({ config, channel, heard, log }: ListenerDeps): Listener {
  const closing = new AbortController()
  const { signal } = closing

  /** Resolves to the reason why listening ended. Calls back once it listens. */
  async function listenOnce(listening: () => void): Promise<string> {
    const client = new pg.Client(config)
    const lost = Promise.withResolvers<string>()
    client.on('error', ({ message }) => lost.resolve(message))
    client.on('end', () => lost.resolve('the connection was closed'))
    client.on('notification', heard)
    const close = () => lost.resolve('closed')
    signal.addEventListener('abort', close)
    let heartbeat: NodeJS.Timeout | undefined
    try {
      await client.connect()
      await client.query(`LISTEN "${channel}"`)
      const check = async () => {
        const { rows } = await client.query('SELECT FROM pg_listening_channels() AS one WHERE one = $1', [channel])
        if (rows.length === 0) throw new Error('another session listens: is PgBouncer in transaction mode?')
      }
      await check()
      heartbeat = setInterval(() => {
        check().catch((error: unknown) => lost.resolve(String(error)))
      }, heartbeatMs)
      listening()
      return await lost.promise
    } catch (error) {
      return messageOf(error)
    } finally {
      clearInterval(heartbeat)
      signal.removeEventListener('abort', close)
      // A frozen connection never reports its end.
      client.end().catch(() => undefined)
    }
  }

  async function listen(): Promise<void> {
    let pauseMs = minPauseMs
    let logged: string | undefined
    while (!signal.aborted) {
      const reason = await listenOnce(() => {
        pauseMs = minPauseMs
        if (logged !== undefined) log.info('new deliveries are heard of again')
        logged = undefined
        heard()
      })
      if (signal.aborted) return
      if (logged !== reason) log.warn({ reason }, 'new deliveries are not heard of, and are looked for every second')
      logged = reason
      await sleep(pauseMs, undefined, { signal }).catch(() => undefined)
      pauseMs = Math.min(2 * pauseMs, maxPauseMs)
    }
  }

  const ended = listen()
  return {
    async close() {
      closing.abort()
      await ended
    },
  }
}
