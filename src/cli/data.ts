import { accessSync, constants, existsSync } from 'node:fs'
import { readDatabaseUrl, readSettings } from '../config/config.ts'
import type { Deliveries } from '../queue/deliveries.ts'
import { heartbeatOf, readIdentity } from '../queue/identity.ts'
import { explainQueueFile } from '../queue/sqlite/integrity.ts'
import { openSqliteDeliveries } from '../queue/sqlite/deliveries.ts'
import { queuePath } from '../queue/sqlite/queue.ts'
import { codeOf } from '../lib/error-code.ts'
import { journalDir } from '../journal/segments.ts'
import type { Printer } from './printer.ts'

/** The data directory of the environment. @throws when no receiver has written there, or this user may not read it */
export function findDataDir(): string {
  const { DATA_DIR: dataDir } = readSettings(process.env, 'DATA_DIR')
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

/** @param mode `write` to change something */
export async function openDeliveries(dataDir: string, mode: 'read' | 'write'): Promise<Deliveries> {
  const url = readDatabaseUrl(process.env)
  if (url === undefined) return openSqliteDeliveries({ path: queuePath(dataDir), mode })
  const identity = readIdentity(dataDir)
  if (identity === undefined) throw new Error(`${dataDir} was never a receiver's with DATABASE_URL: start that first`)
  const { openPgDeliveries } = await import('../queue/postgres/deliveries.ts')
  const { HANDLER_STALL: stall } = readSettings(process.env, 'HANDLER_STALL')
  return openPgDeliveries({ url, mode, receiver: identity.id, heartbeat: heartbeatOf(stall) })
}

/** An error with the name of the file that is to blame, where that is `dispatch.db`. */
export function explainData(error: unknown): unknown {
  const { DATA_DIR: dataDir } = readSettings(process.env, 'DATA_DIR')
  return explainQueueFile(error, queuePath(dataDir))
}

/** Whether anybody ever followed the journal. */
export function isFollowed(dataDir: string): boolean {
  return readDatabaseUrl(process.env) === undefined
    ? existsSync(queuePath(dataDir))
    : readIdentity(dataDir) !== undefined
}

/** Where deliveries are, for people. */
export function nameOfQueue(dataDir: string): string {
  return readDatabaseUrl(process.env) === undefined ? queuePath(dataDir) : 'the database of DATABASE_URL'
}

/** For a command that shows what it can without them, and says why. */
export async function openDeliveriesIfPossible(dataDir: string, print: Printer): Promise<Deliveries | undefined> {
  try {
    return await openDeliveries(dataDir, 'read')
  } catch (error) {
    const reason = explainData(error)
    print.note(`the deliveries cannot be read: ${reason instanceof Error ? reason.message : String(reason)}`)
    return undefined
  }
}
