import { accessSync, constants, existsSync } from 'node:fs'
import { readSettings } from '../config/config.ts'
import { journalDir } from '../journal/segments.ts'
import { codeOf } from '../lib/error-code.ts'
import { messageOf } from '../lib/error-text.ts'
import type { Deliveries } from '../queue/deliveries.ts'
import { heartbeatOf, readIdentity } from '../queue/identity.ts'
import { openSqliteDeliveries } from '../queue/sqlite/deliveries.ts'
import { explainQueueFile } from '../queue/sqlite/integrity.ts'
import { queuePath } from '../queue/sqlite/queue.ts'
import type { Printer } from './printer.ts'

/**
 * Returns the data directory from the environment. @throws if no receiver has written there, or if this user may not
 * read it
 */
export function findDataDir(): string {
  const { dataDir } = readSettings(process.env, 'dataDir')
  try {
    accessSync(journalDir(dataDir), constants.R_OK | constants.X_OK)
  } catch (error) {
    const code = codeOf(error)
    if (code === 'EACCES') throw new Error(`this user may not read ${journalDir(dataDir)}`, { cause: error })
    if (code !== 'ENOENT') throw error
    throw new Error(`there is no journal in ${dataDir}: set DATA_DIR to the receiver's`, { cause: error })
  }
  return dataDir
}

/** Deliveries in one transaction of a command: a running dispatcher waits for its end. */
export const maxInTransaction = 500

/** Opens the deliveries for as long as `use` runs. @param mode `write` to change something */
export async function withDeliveries<T>(
  dataDir: string,
  mode: 'read' | 'write',
  use: (deliveries: Deliveries) => Promise<T>,
): Promise<T> {
  const deliveries = await openDeliveries(dataDir, mode)
  try {
    return await use(deliveries)
  } finally {
    await deliveries.close()
  }
}

export async function openDeliveries(dataDir: string, mode: 'read' | 'write'): Promise<Deliveries> {
  const { databaseUrl: url } = readSettings(process.env, 'databaseUrl')
  if (url === undefined) return openSqliteDeliveries({ path: queuePath(dataDir), mode })
  const identity = readIdentity(dataDir)
  if (identity === undefined) throw new Error(`${dataDir} was never a receiver's with DATABASE_URL: start that first`)
  const { openPgDeliveries } = await import('../queue/postgres/deliveries.ts')
  const { handlerStall: stall } = readSettings(process.env, 'handlerStall')
  return openPgDeliveries({ url, mode, receiver: identity.id, heartbeat: heartbeatOf(stall) })
}

/** Returns the error with the name of the faulty file added, if that file is `dispatch.db`. */
export function explainData(error: unknown): unknown {
  const { dataDir } = readSettings(process.env, 'dataDir')
  return explainQueueFile(error, queuePath(dataDir))
}

/** Returns whether a dispatcher ever followed the journal. */
export function isFollowed(dataDir: string): boolean {
  return readSettings(process.env, 'databaseUrl').databaseUrl === undefined
    ? existsSync(queuePath(dataDir))
    : readIdentity(dataDir) !== undefined
}

/** Returns the place of the deliveries, for people. */
export function nameOfQueue(dataDir: string): string {
  return readSettings(process.env, 'databaseUrl').databaseUrl === undefined
    ? queuePath(dataDir)
    : 'the database of DATABASE_URL'
}

/** For a command that also works without deliveries: it prints why they cannot be opened. */
export async function openDeliveriesIfPossible(dataDir: string, print: Printer): Promise<Deliveries | undefined> {
  try {
    return await openDeliveries(dataDir, 'read')
  } catch (error) {
    print.note(`the deliveries cannot be read: ${messageOf(explainData(error))}`)
    return undefined
  }
}
