import { pino } from 'pino'
import { createDatabase } from '../postgres/database.ts'

export interface MoveParts {
  readonly dataDir: string
  readonly url: string
  /** See identity.ts. */
  readonly heartbeat: number
}

export interface Moved {
  readonly deliveries: number
  /** Of these, what still waits to be run. */
  readonly owed: number
}

/** What both engines know of a delivery under the same name. */
export const columns = [
  'event_id',
  'handler',
  'run',
  'lane',
  'name',
  'event',
  'segment',
  'state',
  'attempts',
  'suspect',
  'coalesced',
  'coalesced_into',
  'postponed',
  'settle',
  'created_at',
  'first_run_at',
  'since',
  'due',
  'ended_at',
  'error',
  'spent_ms',
] as const

export const inserted = columns.join(', ')
/** In one of these states it is owed. */
export const owedStates = ['blocked', 'ready', 'running', 'waiting']

/** A tool does not wait for a database that is not there. */
export async function openNow(url: string) {
  const database = createDatabase({ url, log: pino({ level: 'silent' }) })
  database.hurry()
  await database.persist(() => database.start())
  return database
}
