import { existsSync } from 'node:fs'
import { readDatabaseUrl, readSettings } from '../config.ts'
import type { Deliveries } from '../dispatch/deliveries.ts'
import { heartbeatOf, readIdentity } from '../dispatch/identity.ts'
import { openSqliteDeliveries } from '../dispatch/sqlite-deliveries.ts'
import { queuePath } from '../dispatch/sqlite-queue.ts'
import { journalDir } from '../journal/segments.ts'

/** The data directory of the environment. @throws when no receiver has written there */
export function findDataDir(): string {
  const { DATA_DIR: dataDir } = readSettings(process.env, 'DATA_DIR')
  if (existsSync(journalDir(dataDir))) return dataDir
  throw new Error(`there is no journal in ${dataDir}: set DATA_DIR to the receiver's`)
}

/** @param mode `write` to change something */
export async function openDeliveries(dataDir: string, mode: 'read' | 'write'): Promise<Deliveries> {
  const url = readDatabaseUrl(process.env)
  if (url === undefined) return openSqliteDeliveries({ path: queuePath(dataDir), mode })
  const identity = readIdentity(dataDir)
  if (identity === undefined) throw new Error(`${dataDir} was never a receiver's with DATABASE_URL: start that first`)
  const { openPgDeliveries } = await import('../dispatch/pg-deliveries.ts')
  const { HANDLER_STALL: stall } = readSettings(process.env, 'HANDLER_STALL')
  return openPgDeliveries({ url, receiver: identity.id, heartbeat: heartbeatOf(stall) })
}

/** Whether anybody ever followed the journal. */
export function isFollowed(dataDir: string): boolean {
  return readDatabaseUrl(process.env) === undefined
    ? existsSync(queuePath(dataDir))
    : readIdentity(dataDir) !== undefined
}
