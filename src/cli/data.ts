import { existsSync } from 'node:fs'
import { readSettings } from '../config.ts'
import type { Deliveries } from '../dispatch/deliveries.ts'
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
export function openDeliveries(dataDir: string, mode: 'read' | 'write'): Deliveries {
  return openSqliteDeliveries({ path: queuePath(dataDir), mode })
}
