import { join } from 'node:path'
import { readIfExists, writeFileAtomicSync } from '../lib/atomic-file.ts'
import { isObject } from '../lib/is-object.ts'

/** Which portal has which address. A portal may be renamed; its `member_id` stays. */
export interface Members {
  /** Returns the `member_id` for the host of an incoming webhook. */
  readonly of: (host: string) => string | undefined
  /** @returns whether this is new */
  readonly learn: (host: string, member: string) => boolean
}

export interface MembersDeps {
  readonly known?: Iterable<readonly [host: string, member: string]>
  /** Called after something new was learnt. */
  readonly save?: (known: ReadonlyMap<string, string>) => void
}

export function createMembers({ known = [], save = () => undefined }: MembersDeps = {}): Members {
  const members = new Map(known)
  return {
    of: (host) => members.get(host),
    learn(host, member) {
      if (members.get(host) === member) return false
      members.set(host, member)
      save(members)
      return true
    },
  }
}

/**
 * Opens the file in the data folder, which is the same for both queue engines. Without it, an event that waits since
 * before a renaming waits longer: for the next event of that portal.
 *
 * @param onError called if the file cannot be read or written
 */
export function openMembers(dataDir: string, onError: (error: unknown) => void): Members {
  const path = join(dataDir, 'portals.json')
  return createMembers({
    known: readKnown(path, onError),
    save(known) {
      try {
        writeFileAtomicSync(path, `${JSON.stringify(Object.fromEntries(known))}\n`)
      } catch (error) {
        onError(error)
      }
    },
  })
}

function readKnown(path: string, onError: (error: unknown) => void): [string, string][] {
  try {
    const known: unknown = JSON.parse(readIfExists(path) ?? '{}')
    if (!isObject(known)) throw new Error(`${path} is not what a dispatcher wrote: delete it`)
    return Object.entries(known).flatMap(([host, member]) => (typeof member === 'string' ? [[host, member]] : []))
  } catch (error) {
    onError(error)
    return []
  }
}
