import { randomUUID } from 'node:crypto'
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { codeOf } from '../error-code.ts'
import { isObject } from '../is-object.ts'

/** By which name Postgres knows a data directory. */
export interface Identity {
  readonly id: string
  /** Nothing of its journal was forwarded yet: following begins at its start. */
  readonly isNew: boolean
}

/**
 * Milliseconds without a sign after which a process counts as dead: one whose event loop does not turn is killed sooner.
 *
 * @param stall milliseconds, `HANDLER_STALL`
 */
export function heartbeatOf(stall: number): number {
  return stall + 15_000
}

function pathOf(dataDir: string): string {
  return join(dataDir, 'identity.json')
}

export function readIdentity(dataDir: string): Identity | undefined {
  try {
    const found: unknown = JSON.parse(readFileSync(pathOf(dataDir), 'utf8'))
    if (!isObject(found) || typeof found['id'] !== 'string')
      throw new Error(`${pathOf(dataDir)} is no identity: was it edited?`)
    return { id: found['id'], isNew: found['isNew'] === true }
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    throw error
  }
}

/**
 * Where the journal is empty, following begins at its start: settled on disk before the first post is accepted, so that a
 * position that is missing from Postgres later is known to be lost.
 */
export function settleIdentity(dataDir: string, isJournalEmpty: boolean): Identity {
  const found = readIdentity(dataDir)
  if (found && (found.isNew || !isJournalEmpty)) return found
  return writeIdentity(dataDir, { id: found?.id ?? randomUUID(), isNew: isJournalEmpty })
}

/** From now on its position is in Postgres. */
export function markKnown(dataDir: string, { id }: Identity): Identity {
  return writeIdentity(dataDir, { id, isNew: false })
}

function writeIdentity(dataDir: string, identity: Identity): Identity {
  const path = pathOf(dataDir)
  sync(`${path}.new`, 'w', (file) => writeSync(file, `${JSON.stringify(identity)}\n`))
  renameSync(`${path}.new`, path)
  sync(dataDir, 'r')
  return identity
}

function sync(path: string, flags: 'r' | 'w', write: (file: number) => unknown = () => undefined): void {
  const file = openSync(path, flags)
  try {
    write(file)
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
}
