import { accessSync, constants } from 'node:fs'
import { readSettings } from '../config.ts'
import type { Deliveries } from '../dispatch/deliveries.ts'
import { openSqliteDeliveries } from '../dispatch/sqlite-deliveries.ts'
import { queuePath } from '../dispatch/sqlite-queue.ts'
import { codeOf, journalDir } from '../journal/segments.ts'
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
export function openDeliveries(dataDir: string, mode: 'read' | 'write'): Deliveries {
  return openSqliteDeliveries({ path: queuePath(dataDir), mode })
}

/** For a command that shows what it can without them, and says why. */
export function openDeliveriesIfPossible(dataDir: string, print: Printer): Deliveries | undefined {
  try {
    return openDeliveries(dataDir, 'read')
  } catch (error) {
    print.note(`the deliveries cannot be read: ${error instanceof Error ? error.message : String(error)}`)
    return undefined
  }
}
