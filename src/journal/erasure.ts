import { existsSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { readIfExists, syncPath, writeFileAtomic } from '../lib/atomic-file.ts'
import { isObject } from '../lib/is-object.ts'
import { parseJson } from '../lib/json.ts'
import type { ErasureTarget, Overwrite } from './erase.ts'

/** A confirmed erasure: everything that is needed to finish it, and nothing personal except the object's number. */
export interface Erasure extends ErasureTarget {
  /** The ids of the events. */
  readonly events: readonly string[]
  readonly overwrites: readonly Overwrite[]
}

function pathOf(dataDir: string): string {
  return join(dataDir, 'erase.json')
}

/** Returns whether an erasure was interrupted. */
export function isErasurePending(dataDir: string): boolean {
  return existsSync(pathOf(dataDir))
}

/** @throws if the file is not what `erase` wrote */
export async function readErasure(dataDir: string): Promise<Erasure | undefined> {
  const text = readIfExists(pathOf(dataDir))
  if (text === undefined) return undefined
  const found = parse(text)
  if (found === undefined)
    throw new Error(`${pathOf(dataDir)} is not what "b24-receiver erase" wrote: remove it, and run erase again`)
  return found
}

function parse(text: string): Erasure | undefined {
  const found = parseJson(text)
  if (!isObject(found)) return undefined
  const { object, member, before, events, overwrites } = found
  if (typeof object !== 'string' || (member !== undefined && typeof member !== 'string')) return undefined
  if (typeof before !== 'number' || !Array.isArray(events) || !Array.isArray(overwrites)) return undefined
  if (!events.every((id) => typeof id === 'string') || !overwrites.every(isOverwrite)) return undefined
  return { object, member, before, events, overwrites }
}

function isOverwrite(value: unknown): value is Overwrite {
  if (!isObject(value)) return false
  const { file, offset, length, line, id } = value
  const isName = typeof file === 'string' && /^[\w.-]+$/.test(file)
  const isTextOrNone = (one: unknown) => one === undefined || typeof one === 'string'
  return (
    isName && Number.isSafeInteger(offset) && Number.isSafeInteger(length) && isTextOrNone(line) && isTextOrNone(id)
  )
}

/** The erasure is on disk when the promise resolves. From then on it will be finished, even after a crash. */
export async function writeErasure(dataDir: string, erasure: Erasure): Promise<void> {
  await writeFileAtomic(pathOf(dataDir), JSON.stringify(erasure))
}

/** Removes the record of a finished erasure. */
export async function dropErasure(dataDir: string): Promise<void> {
  await rm(pathOf(dataDir), { force: true })
  await syncPath(dataDir)
}
