import { readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { codeOf } from '../lib/error-code.ts'
import { isObject } from '../lib/is-object.ts'
import { fileMode } from '../lib/private-files.ts'
import { readAddresses } from './published-list.ts'

/** A list of addresses with its last known content. */
export interface PublishedCopy {
  /** ISO 8601. */
  readonly fetchedAt: string
  readonly addresses: readonly string[]
}

export type PublishedCopies = ReadonlyMap<string, PublishedCopy>

export function copyPath(dataDir: string): string {
  return join(dataDir, 'allowed-ips.json')
}

/**
 * Reads the copies on disk, by the URL of their list. A list without a usable copy is absent.
 *
 * @throws {Error} if the file exists but cannot be read or is not JSON
 */
export async function readCopies(dataDir: string, urls: readonly string[]): Promise<Map<string, PublishedCopy>> {
  const copies = new Map<string, PublishedCopy>()
  let text: string
  try {
    text = await readFile(copyPath(dataDir), 'utf8')
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return copies
    throw error
  }
  const file: unknown = JSON.parse(text)
  for (const [url, value] of Object.entries(isObject(file) ? file : {})) {
    const copy = readCopy(value)
    if (copy !== undefined && urls.includes(url)) copies.set(url, copy)
  }
  return copies
}

function readCopy(value: unknown): PublishedCopy | undefined {
  const { fetchedAt, addresses: list } = isObject(value) ? value : {}
  const addresses = readAddresses(list)
  if (typeof fetchedAt !== 'string' || Number.isNaN(Date.parse(fetchedAt)) || !addresses?.length) return undefined
  return { fetchedAt, addresses }
}

/** The file is complete at every moment: either the old one or the new one. */
export async function writeCopies(dataDir: string, copies: PublishedCopies): Promise<void> {
  const path = copyPath(dataDir)
  const next = `${path}.next`
  const text = `${JSON.stringify(Object.fromEntries(copies), undefined, 2)}\n`
  await writeFile(next, text, { flush: true, mode: fileMode(path) })
  await rename(next, path)
}
