import { join } from 'node:path'
import { readIfExists, writeFileAtomic } from '../lib/atomic-file.ts'
import { isObject } from '../lib/is-object.ts'
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
  const text = readIfExists(copyPath(dataDir))
  if (text === undefined) return copies
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

export async function writeCopies(dataDir: string, copies: PublishedCopies): Promise<void> {
  await writeFileAtomic(copyPath(dataDir), `${JSON.stringify(Object.fromEntries(copies), undefined, 2)}\n`)
}
