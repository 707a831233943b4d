import { type FileHandle, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { newline, readBlocks } from '../lib/blocks.ts'
import { isObject } from '../lib/is-object.ts'
import { parseJson } from '../lib/json.ts'
import { eraseLine } from './erased-line.ts'
import type { Position } from './position.ts'
import { journalDir, listSegments, openIfExists } from './segments.ts'

/** The object whose events are to be erased. */
export interface ErasureTarget {
  /** Such as `contact:17`. */
  readonly object: string
  /** The portal's `member_id` or domain. It is required if several portals have such an object. */
  readonly member: string | undefined
  /** Unix milliseconds. Later events stay. */
  readonly before: number
}

/**
 * A range of bytes to overwrite. It holds no personal data, because it stays on disk until all ranges are
 * overwritten.
 */
export interface Overwrite {
  /** Relative to the journal's folder. */
  readonly file: string
  readonly offset: number
  readonly length: number
  /** The new line without its newline. If it is absent, the bytes are not a complete line and become spaces. */
  readonly line?: string
  /** The id of the line's event. The bytes to overwrite must contain it. */
  readonly id?: string
}

/** The journal's lines about an object. */
export interface FoundLines {
  readonly overwrites: readonly Overwrite[]
  /** From all lines, including those that are already erased. */
  readonly events: readonly string[]
  /** The `member_id` or domain of each portal. */
  readonly portals: readonly string[]
  /** Lines in the segments whose events are not erased yet. */
  readonly places: readonly Position[]
  /** Unreadable lines that name the object, as FILE:BYTE. */
  readonly damaged: readonly string[]
}

const readSize = 1024 ** 2

/** Reads the segments, and the files that hold what was cut off their ends. */
export async function findLines(dataDir: string, target: ErasureTarget): Promise<FoundLines> {
  const needle = Buffer.from(JSON.stringify({ object: target.object }).slice(1, -1))
  const overwrites: Overwrite[] = []
  const events = new Set<string>()
  const portals = new Set<string>()
  const places: Position[] = []
  const damaged: string[] = []
  const segments = await listSegments(dataDir)
  const names = await readdir(journalDir(dataDir))
  for (const { path, number } of segments) await readFile(path.slice(journalDir(dataDir).length + 1), number)
  for (const name of names.filter((one) => one.endsWith('.cut'))) await readFile(name, undefined)
  return { overwrites, events: [...events], portals: [...portals], places, damaged }

  /** @param segment its number; `undefined` for a file of cut bytes */
  async function readFile(file: string, segment: number | undefined): Promise<void> {
    const handle = await openIfExists({ path: join(journalDir(dataDir), file) })
    if (handle === undefined) return
    try {
      const blocks = readBlocks(handle, 0, readSize)
      for (let block = await blocks.next(); block !== undefined; block = await blocks.next())
        for (let at = block.bytes.indexOf(needle); at !== -1; ) {
          const start = block.bytes.lastIndexOf(newline, at) + 1
          const end = block.bytes.indexOf(newline, at)
          takeLine({ file, offset: block.offset + start, segment }, block.bytes.subarray(start, end))
          at = block.bytes.indexOf(needle, end)
        }
      const rest = blocks.rest()
      // In the newest segment this may be the line that is being written.
      const isOver = segment === undefined || segments.some(({ number }) => number > segment)
      if (isOver && rest.bytes.includes(needle))
        overwrites.push({ file, offset: rest.offset, length: rest.bytes.length })
    } finally {
      await handle.close()
    }
  }

  function takeLine(
    { file, offset, segment }: { file: string; offset: number; segment: number | undefined },
    bytes: Buffer,
  ): void {
    const line = parse(bytes)
    if (line === undefined) {
      // Cut bytes are not part of the journal.
      if (segment === undefined) overwrites.push({ file, offset, length: bytes.length })
      else damaged.push(`${join(journalDir(dataDir), file)}:${offset}`)
      return
    }
    const { id, object, auth, time } = line
    const { member_id: memberId, domain } = isObject(auth) ? auth : {}
    if (object !== target.object || Date.parse(String(time)) > target.before) return
    if (target.member !== undefined && ![memberId, domain].includes(target.member)) return
    events.add(String(id))
    portals.add([memberId, domain].find((one) => typeof one === 'string') ?? '')
    if (line['erased'] === true) return
    const text = eraseLine(line, bytes.length).toString()
    overwrites.push({ file, offset, length: bytes.length, id: String(id), line: text.replace(/ +\}$/, '}') })
    if (segment !== undefined) places.push({ segment, offset })
  }
}

function parse(bytes: Buffer): Record<string, unknown> | undefined {
  const line = parseJson(bytes.toString())
  return isObject(line) && typeof line['id'] === 'string' ? line : undefined
}

/**
 * Overwrites in place, also while a receiver runs: a complete line is never written again, and the receiver only
 * appends. After an interruption at any point it may run again, because a half-written line keeps its id and its
 * newline. The result is on disk when the promise resolves.
 */
export async function overwrite(dataDir: string, overwrites: readonly Overwrite[]): Promise<void> {
  for (const [file, some] of Map.groupBy(overwrites, (one) => one.file)) {
    const handle = await openIfExists({ path: join(journalDir(dataDir), file) }, 'r+')
    // The retention removed the file.
    if (handle === undefined) continue
    try {
      for (const one of some) await overwriteOne(handle, one)
      await handle.datasync()
    } finally {
      await handle.close()
    }
  }
}

async function overwriteOne(handle: FileHandle, { offset, length, line, id }: Overwrite): Promise<void> {
  const { buffer: there, bytesRead } = await handle.read(Buffer.alloc(length + 1), 0, length + 1, offset)
  // The receiver has cut these bytes after a failed write of its own.
  if (bytesRead < length) return
  const isThere = id === undefined || (there[length] === newline && there.includes(`"id":${JSON.stringify(id)}`))
  if (!isThere) return
  const bytes = Buffer.alloc(length, ' ')
  if (line !== undefined) {
    bytes.write(line.slice(0, -1))
    bytes.write('}', length - 1)
  }
  for (let done = 0; done < length; )
    done += (await handle.write(bytes, done, length - done, offset + done)).bytesWritten
}
