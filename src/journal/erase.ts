import { type FileHandle, open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { isObject } from '../lib/is-object.ts'
import { newline, readBlocks } from '../lib/blocks.ts'
import { eraseLine } from './erased-line.ts'
import type { Position } from './follow.ts'
import { journalDir, listSegments, openToRead } from './segments.ts'

/** Whose events are to be erased. */
export interface ErasureTarget {
  /** Such as `contact:17`. */
  readonly object: string
  /** The portal's `member_id`, or its domain; needed where several have such an object. */
  readonly member: string | undefined
  /** Unix milliseconds: what came later stays. */
  readonly before: number
}

/** Bytes of a file that are overwritten. Nothing of it is personal: it is kept on disk until all are. */
export interface Overwrite {
  /** In the folder of the journal. */
  readonly file: string
  readonly offset: number
  readonly length: number
  /** The line, without its newline; absent where the bytes are no whole line: they become spaces. */
  readonly line?: string
  /** The event of the line: what stands there must have it. */
  readonly id?: string
}

/** What the journal holds about an object. */
export interface FoundLines {
  readonly overwrites: readonly Overwrite[]
  /** Of all lines, also of those that are erased already. */
  readonly events: readonly string[]
  /** `member_id` or domain of each. */
  readonly portals: readonly string[]
  /** Lines of events that are not erased yet, in the segments. */
  readonly places: readonly Position[]
  /** Lines that name the object and cannot be read: FILE:BYTE. */
  readonly damaged: readonly string[]
}

const readSize = 1024 ** 2

/** Reads the segments, and beside them what was cut off their ends. */
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

  /** @param segment its number; none of what was cut off */
  async function readFile(file: string, segment: number | undefined): Promise<void> {
    const handle = await openToRead({ path: join(journalDir(dataDir), file) })
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
      // In the newest segment it may be the line that is being written.
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
      // What was cut off is no part of the journal.
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
  try {
    const line: unknown = JSON.parse(bytes.toString())
    return isObject(line) && typeof line['id'] === 'string' ? line : undefined
  } catch {
    return undefined
  }
}

/**
 * Overwrites in place, also beside a receiver: a line that is whole is never written again, and the receiver appends. It may
 * be done again after it was cut off anywhere: a line that was half written has its id, and its newline. On disk when it
 * resolves.
 */
export async function overwrite(dataDir: string, overwrites: readonly Overwrite[]): Promise<void> {
  for (const [file, some] of Map.groupBy(overwrites, (one) => one.file)) {
    const handle = await openToWrite(join(journalDir(dataDir), file))
    // The retention removed it.
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
  // A failed write of the receiver's, which it has cut off.
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

async function openToWrite(path: string): Promise<FileHandle | undefined> {
  // Never one of the names that another segment may have meanwhile: a segment's name is used once.
  const there = await openToRead({ path })
  if (there === undefined) return undefined
  await there.close()
  return open(path, 'r+')
}
