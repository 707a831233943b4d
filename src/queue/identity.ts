import { randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { readIfExists, writeFileAtomicSync } from '../lib/atomic-file.ts'
import { isObject } from '../lib/is-object.ts'
import { parseJson } from '../lib/json.ts'
import { uuidVersion } from '../lib/uuid.ts'

/** The name under which Postgres knows a data directory. */
export interface Identity {
  readonly id: string
  /** No event of this journal was forwarded yet, so following begins at its start. */
  readonly isNew: boolean
}

/**
 * Milliseconds without a heartbeat after which a process counts as dead. A process with a blocked event loop is killed
 * sooner.
 *
 * @param stall milliseconds, `HANDLER_STALL`
 */
export function heartbeatOf(stall: number): number {
  return stall + 15_000
}

function pathOf(dataDir: string): string {
  return join(dataDir, 'identity.json')
}

/** The name under which Postgres knows the data directory is unknown. */
export class IdentityError extends Error {
  override readonly name = 'IdentityError'
}

/** @throws {IdentityError} if the file exists and cannot be read */
export function readIdentity(dataDir: string): Identity | undefined {
  const text = readIfExists(pathOf(dataDir))
  if (text === undefined) return undefined
  const found = parse(text)
  if (found === undefined)
    throw new IdentityError(
      `${pathOf(dataDir)} is not what a receiver wrote, so it is unknown whose position in Postgres is this journal's. Posts are accepted meanwhile. Put the file back from a backup, or write the id that is in b24_receiver.position into it: {"id":"…"}; or remove it, and start with DISPATCH_FROM`,
    )
  return found
}

function parse(text: string): Identity | undefined {
  const found = parseJson(text)
  // A wrong id would belong to another receiver, so only an exact format is accepted.
  if (!isObject(found) || typeof found['id'] !== 'string' || uuidVersion(found['id']) === undefined) return undefined
  if (found['isNew'] !== undefined && typeof found['isNew'] !== 'boolean') return undefined
  return { id: found['id'], isNew: found['isNew'] === true }
}

/**
 * If the journal is empty, following begins at its start. This fact is on disk before the first post is accepted, so a
 * position that later is missing from Postgres is known to be lost.
 */
export function initIdentity(dataDir: string, isJournalEmpty: boolean): Identity {
  const found = readIdentity(dataDir)
  if (found && (found.isNew || !isJournalEmpty)) return found
  return writeIdentity(dataDir, { id: found?.id ?? randomUUID(), isNew: isJournalEmpty })
}

/**
 * Does the same as `initIdentity`, for the receiver. The dispatcher reports a broken file that was already there, and
 * the receiver accepts posts without it.
 */
export function initFirstIdentity(dataDir: string, isJournalEmpty: boolean): void {
  const wasThere = existsSync(pathOf(dataDir))
  try {
    initIdentity(dataDir, isJournalEmpty)
  } catch (error) {
    if (!wasThere) throw error
  }
}

/** From now on the position is in Postgres. */
export function markKnown(dataDir: string, { id }: Identity): Identity {
  return writeIdentity(dataDir, { id, isNew: false })
}

function writeIdentity(dataDir: string, identity: Identity): Identity {
  writeFileAtomicSync(pathOf(dataDir), `${JSON.stringify(identity)}\n`)
  return identity
}
