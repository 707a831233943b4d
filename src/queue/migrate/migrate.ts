import { pino } from 'pino'
import { createDatabase } from '../postgres/database.ts'

export interface MoveDeps {
  readonly dataDir: string
  readonly url: string
  /** Milliseconds, see ../identity.ts. */
  readonly heartbeat: number
}

export interface Moved {
  readonly deliveries: number
  /** The deliveries among these that still wait to run. */
  readonly pending: number
}

/** The columns of a delivery that have the same name in both engines, except its key. */
export const columns = `event_id, handler, run, ordering_key, name, event, segment, state, attempts, quarantined,
  coalesced, coalesced_into, postponed, debounce, created_at, first_run_at, since, due, ended_at, error, spent_ms`

/** A delivery in one of these states is pending. */
export const pendingStates = ['blocked', 'ready', 'running', 'waiting']

/** A command fails at once if the database is not there. */
export async function openNow(url: string) {
  const database = createDatabase({ url, log: pino({ level: 'silent' }) })
  database.failFast()
  await database.persist(() => database.start())
  return database
}
