import { execFileSync } from 'node:child_process'
import {
  appendFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { setImmediate as tick } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { pino } from 'pino'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import type { Event } from '../../../src/events/event.ts'
import { type Journal, type JournalDeps, type JournalOptions, openJournal } from '../../../src/journal/journal.ts'
import { createSegment, journalDir, listSegments, pointStableName, stableName } from '../../../src/journal/segments.ts'
import { canMount, canTrace, openFiles, smallDisk, stallDisk } from '../../support/faults.ts'
import { readJournal, temporaryFolder, until } from '../../support/receiver.ts'

const log = pino({ level: 'silent' })
const event = (id: number): Event => ({ id: String(id), event: 'ONCRMDEALUPDATE', object: `deal:${id}`, remote: '::1' })
const refused = { name: 'JournalUnavailable' }

/** Opens a journal whose log and stderr fallback are kept. */
async function open(dataDir: string, deps: Partial<JournalOptions & JournalDeps> = {}) {
  const logged: Record<string, unknown>[] = []
  const rescued: Event[] = []
  const journal = await openJournal({
    dataDir,
    segmentSize: 1024 ** 2,
    log: pino({}, { write: (line) => void logged.push(JSON.parse(line)) }),
    stderrFallback: async (lines) => void rescued.push(...lines.map((line): Event => JSON.parse(line))),
    ...deps,
  })
  return { ...journal, logged: (msg: string) => logged.filter((line) => line['msg'] === msg), rescued }
}

async function append(journal: Pick<Journal, 'append'>, ...ids: number[]): Promise<void> {
  for (const id of ids) await journal.append(event(id))
}

const journalled = async (dataDir: string) => (await readJournal(dataDir)).map(({ id }) => Number(id))
const names = async (dataDir: string) => (await listSegments(dataDir)).map(({ path }) => basename(path))
const lastPath = async (dataDir: string) => (await listSegments(dataDir)).at(-1)?.path ?? ''
const count = (length: number, from = 1) => Array.from({ length }, (_, index) => from + index)

test('an event is in the journal when its append resolves', async () => {
  const dataDir = temporaryFolder('journal')
  const journal = await openJournal({ dataDir, segmentSize: 1024 ** 2, log })
  await journal.append(event(1))
  expect((await readJournal(dataDir)).map(({ id }) => id)).toEqual(['1'])
  await journal.close()
})

test('events are kept in the order in which they were appended, however many wait together', async () => {
  const dataDir = temporaryFolder('journal')
  const journal = await openJournal({ dataDir, segmentSize: 1024 ** 2, log })
  const ids = Array.from({ length: 2000 }, (_, index) => index)
  await Promise.all(ids.map((id) => journal.append(event(id))))
  expect((await readJournal(dataDir)).map(({ id }) => Number(id))).toEqual(ids)
  await journal.close()
})

test('a close keeps what was appended before and refuses what comes after', async () => {
  const dataDir = temporaryFolder('journal')
  const journal = await openJournal({ dataDir, segmentSize: 1024 ** 2, log })
  const appended = [1, 2, 3].map((id) => journal.append(event(id)))
  await journal.close()
  await Promise.all(appended)
  await expect(journal.append(event(4))).rejects.toMatchObject(refused)
  expect(await readJournal(dataDir)).toHaveLength(3)
})

test('the stable name is the same file as the segment being written, also when it already was', async () => {
  const dataDir = temporaryFolder('journal')
  const first = await createSegment(dataDir, 1, new Date('2026-11-23T23:59:59Z'))
  const second = await createSegment(dataDir, 2, new Date('2026-11-24T00:00:00Z'))
  for (const segment of [first, second, second, first]) {
    await pointStableName(dataDir, segment)
    expect(statSync(stableName(dataDir)).ino).toBe(statSync(segment.path).ino)
  }
  expect((await listSegments(dataDir)).map(({ path }) => path)).toEqual([
    join(dataDir, 'journal', '000000000001-2026-11-23.ndjson'),
    join(dataDir, 'journal', '000000000002-2026-11-24.ndjson'),
  ])
})

test('a line is what pino-pretty and log shippers read: level, time, message', async () => {
  const dataDir = temporaryFolder('journal')
  const journal = await openJournal({ dataDir, segmentSize: 1024 ** 2, log })
  await journal.append({ ...event(7), data: { NAME: 'Анна\r\n"quoted"' } })
  const text = readFileSync(stableName(dataDir), 'utf8')
  expect(text.endsWith('"msg":"ONCRMDEALUPDATE deal:7"}\n')).toBe(true)
  expect(text.split('\n')).toHaveLength(2)
  expect(JSON.parse(text)).toMatchObject({ level: 30, data: { NAME: 'Анна\r\n"quoted"' } })
  await journal.close()
})

describe('a segment', () => {
  test('is followed by the next when it is full, and the stable name goes with it', async () => {
    const dataDir = temporaryFolder('journal')
    const journal = await open(dataDir, { segmentSize: 1024 })
    for (const id of count(100)) {
      await append(journal, id)
      expect(statSync(stableName(dataDir)).ino).toBe(statSync(await lastPath(dataDir)).ino)
    }
    await journal.close()
    const segments = await listSegments(dataDir)
    expect(segments.length).toBeGreaterThan(10)
    expect(segments.map(({ number }) => number)).toEqual(count(segments.length))
    for (const { path } of segments.slice(0, -1)) {
      expect(statSync(path).size).toBeGreaterThanOrEqual(1024)
      expect(statSync(path).size).toBeLessThan(1024 + 200)
      expect(readFileSync(path, 'utf8').endsWith('\n')).toBe(true)
    }
    expect(await journalled(dataDir)).toEqual(count(100))
  })

  test('ends at midnight UTC, and carries the date of its lines', async () => {
    const dataDir = temporaryFolder('journal')
    let now = new Date('2026-11-23T23:59:59.999Z')
    const journal = await open(dataDir, { now: () => now })
    await append(journal, 1, 2)
    now = new Date('2026-11-24T00:00:00.000Z')
    await append(journal, 3)
    // The clock is put back, and the numbers go on.
    now = new Date('2026-11-23T23:00:00.000Z')
    await append(journal, 4)
    await journal.close()
    expect(await names(dataDir)).toEqual([
      '000000000001-2026-11-23.ndjson',
      '000000000002-2026-11-24.ndjson',
      '000000000003-2026-11-23.ndjson',
    ])
    expect(await journalled(dataDir)).toEqual([1, 2, 3, 4])
  })

  test('that is opened at the stroke of midnight does not carry the date of yesterday for a day', async () => {
    const dataDir = temporaryFolder('journal')
    const noon = Date.parse('2026-11-23T12:00:00Z')
    let looks = 0
    // The second look at the clock, in the middle of opening, is already on the next day.
    const journal = await open(dataDir, { now: () => new Date(noon + (looks++ === 0 ? 0 : 24 * 3_600_000)) })
    await append(journal, 1)
    await journal.close()
    const path = await lastPath(dataDir)
    expect(readFileSync(path, 'utf8')).toContain('"time":"2026-11-24T')
    expect(basename(path)).toBe('000000000002-2026-11-24.ndjson')
  })
})

describe('after a restart', () => {
  const ends: { what: string; tail: string | Buffer; kept: number }[] = [
    { what: 'half a line', tail: '{"level":30,"id":"3"', kept: 0 },
    { what: 'half of the first line of two', tail: '{"level":30,"id":"3"}\n{"lev', kept: 22 },
    { what: 'the NUL bytes of a power cut', tail: Buffer.alloc(5000), kept: 0 },
    { what: 'half a line and NUL bytes', tail: Buffer.from(`{"id":"3${'\0'.repeat(4096)}`), kept: 0 },
    { what: 'NUL bytes and the end of old data', tail: Buffer.from(`${'\0'.repeat(512)}","id":"old"}\n`), kept: 0 },
    { what: 'a line that is damaged', tail: '{"level":30,"id":"3"\0\n', kept: 0 },
    { what: 'a line that is no object', tail: '7\n', kept: 0 },
    { what: 'an empty line', tail: '\n', kept: 0 },
    { what: '64 KB of NUL bytes', tail: Buffer.alloc(64 * 1024), kept: 0 },
    { what: 'one byte', tail: '{', kept: 0 },
  ]
  test.for(ends)('$what at the end of the last segment is cut, kept beside it and reported', async ({ tail, kept }) => {
    const dataDir = temporaryFolder('journal')
    const before = await open(dataDir)
    await append(before, 1, 2)
    await before.close()
    const path = await lastPath(dataDir)
    const whole = readFileSync(path)
    appendFileSync(path, tail)

    const after = await open(dataDir)
    const cut = Buffer.from(tail).subarray(kept)
    expect(readFileSync(path)).toEqual(Buffer.concat([whole, Buffer.from(tail).subarray(0, kept)]))
    expect(readFileSync(`${path}.cut`)).toEqual(cut)
    expect(after.logged('the end of a segment was cut')).toMatchObject([
      { segment: path, bytes: cut.length, kept_in: `${path}.cut` },
    ])
    await append(after, 4)
    await after.close()
    expect(await lastPath(dataDir)).not.toBe(path)
    expect((await journalled(dataDir)).filter((id) => id !== 3)).toEqual([1, 2, 4])
  })

  const damages: { what: string; damage: (line: Buffer) => Buffer }[] = [
    { what: 'a NUL byte', damage: (line) => withByte(line, 40) },
    { what: 'a NUL byte where it begins', damage: (line) => withByte(line, 0) },
    { what: 'NUL bytes all over', damage: (line) => Buffer.concat([Buffer.alloc(line.length - 1), line.subarray(-1)]) },
    { what: 'a byte that is no UTF-8', damage: (line) => withByte(line, 90, 0xff) },
    { what: 'a newline within', damage: (line) => withByte(line, 60, 10) },
    { what: 'no newline at its end', damage: (line) => withByte(line, line.length - 1, 'x'.charCodeAt(0)) },
  ]
  test.for(damages)('$what in a line costs none of those behind it', async ({ damage }) => {
    const dataDir = temporaryFolder('journal')
    const before = await open(dataDir)
    await append(before, ...count(20))
    await before.close()
    const path = await lastPath(dataDir)
    const lines = readFileSync(path, 'latin1').match(/.*\n/g) ?? []
    const damaged = Buffer.concat(
      lines.map((line, index) => (index === 4 ? damage(Buffer.from(line)) : Buffer.from(line))),
    )
    writeFileSync(path, damaged)
    const after = await open(dataDir)
    await append(after, 21)
    await after.close()
    expect(readFileSync(path)).toEqual(damaged)
    expect(readdirSync(journalDir(dataDir)).filter((name) => name.endsWith('.cut'))).toEqual([])
    expect(after.logged('the end of a segment was cut')).toEqual([])
  })

  test('what is cut is named as far as it can be read, and how to bring it back', async () => {
    const dataDir = temporaryFolder('journal')
    const before = await open(dataDir)
    await append(before, ...count(3))
    await before.close()
    const path = await lastPath(dataDir)
    const bytes = readFileSync(path)
    writeFileSync(path, withByte(bytes, bytes.length - 5))
    const after = await open(dataDir)
    await after.close()
    expect(after.logged('the end of a segment was cut')).toMatchObject([
      { events: ['3'], to_bring_back: `b24-receiver import ${path}.cut` },
    ])
  })

  test('a segment that ends well is neither cut nor appended to', async () => {
    const dataDir = temporaryFolder('journal')
    for (const id of count(5)) {
      const sealed = (await segmentsIfAny(dataDir)).map(({ path }) => readFileSync(path))
      const journal = await open(dataDir)
      await append(journal, id)
      await journal.close()
      const segments = await listSegments(dataDir)
      expect(segments).toHaveLength(id)
      for (const [index, bytes] of sealed.entries()) expect(readFileSync(segments[index]?.path ?? '')).toEqual(bytes)
    }
    expect(readdirSync(journalDir(dataDir)).filter((name) => name.endsWith('.cut'))).toEqual([])
    expect(await journalled(dataDir)).toEqual(count(5))
  })

  test('an empty segment goes, its number does not come again', async () => {
    const dataDir = temporaryFolder('journal')
    for (const start of count(4)) {
      const journal = await open(dataDir)
      expect((await listSegments(dataDir)).map(({ number }) => number)).toEqual([start])
      await journal.close()
    }
    const used = await open(dataDir)
    await append(used, 1)
    await used.close()
    await (await open(dataDir)).close()
    const last = await open(dataDir)
    await append(last, 2)
    await last.close()
    expect((await listSegments(dataDir)).map(({ number }) => number)).toEqual([5, 7])
  })

  test.skipIf(!canMount)('nor when the next segment cannot be made (tmpfs)', async () => {
    const dataDir = smallDisk('1M,nr_inodes=12')
    await (await open(dataDir)).close()
    const fillers: string[] = []
    try {
      for (;;) {
        const filler = join(dataDir, `filler-${fillers.length}`)
        writeFileSync(filler, '')
        fillers.push(filler)
      }
    } catch {
      // No inode is left.
    }
    await expect(open(dataDir)).rejects.toMatchObject({ code: 'ENOSPC' })
    for (const filler of fillers) rmSync(filler)
    const journal = await open(dataDir)
    await append(journal, 1)
    await journal.close()
    expect((await listSegments(dataDir)).map(({ number }) => number)).toEqual([2])
  })

  test('a segment of which nothing but half a line is left goes as an empty one does', async () => {
    const dataDir = temporaryFolder('journal')
    await (await open(dataDir)).close()
    appendFileSync(await lastPath(dataDir), '{"half')
    const journal = await open(dataDir)
    await append(journal, 1)
    await journal.close()
    expect(await names(dataDir)).toHaveLength(1)
    expect(await journalled(dataDir)).toEqual([1])
  })

  test('only the last segment is read: what stands in others cannot hold the start', async () => {
    const dataDir = temporaryFolder('journal')
    const first = await createSegment(dataDir, 1, new Date())
    truncateSync(first.path, 8 * 1024 ** 4) // a hole of 8 TB, larger than any memory
    await createSegment(dataDir, 2, new Date())
    const journal = await open(dataDir)
    await append(journal, 1)
    await journal.close()
    expect((await listSegments(dataDir)).map(({ number }) => number)).toEqual([1, 3])
  })
})

describe('many who wait together', () => {
  test.skipIf(!canTrace)('share one fsync (strace)', async () => {
    const folder = temporaryFolder('group')
    const trace = join(folder, 'trace')
    const source = (path: string) => pathToFileURL(join(import.meta.dirname, '../../../src', path)).href
    const script = join(folder, 'append.mjs')
    writeFileSync(
      script,
      `import { openJournal } from ${JSON.stringify(source('journal/journal.ts'))}
const log = { info() {}, warn() {}, error() {} }
const journal = await openJournal({ dataDir: ${JSON.stringify(folder)}, segmentSize: 1e9, log })
const append = (id) => journal.append({ id: String(id), event: 'E', remote: '::1' })
for (let round = 0; round < 10; round++) await Promise.all(Array.from({ length: 1000 }, (_, id) => append(id)))
await journal.close()`,
    )
    const watched = ['-f', '-y', '-e', 'trace=fdatasync', '-o', trace]
    execFileSync('strace', [...watched, process.execPath, script])
    const syncs = readFileSync(trace, 'utf8').match(/fdatasync\(\d+<[^>]*\.ndjson>/g)
    expect(syncs).toHaveLength(10)
    expect(await readJournal(folder)).toHaveLength(10_000)
  })
})

describe('a line waits for a batch', () => {
  /** An event in each turn of the event loop, for as long as it is wanted. */
  async function appendInTurns(journal: Journal, isWanted: (turns: number, isFirstDurable: boolean) => boolean) {
    const appended: Promise<void>[] = []
    let isFirstDurable = false
    for (let turn = tick(); isWanted(appended.length, isFirstDurable); ) {
      await turn
      turn = tick()
      appended.push(journal.append(event(appended.length)))
      if (appended.length > 1) continue
      void appended[0]?.then(() => {
        isFirstDurable = true
      })
    }
    return Promise.all(appended)
  }

  test('while every turn of the event loop brings some, for 3 ms at most, and all of them share one fsync', async () => {
    vi.useFakeTimers({ toFake: ['performance'] })
    onTestFinished(() => void vi.useRealTimers())
    const journal = await open(temporaryFolder('journal'))
    const appended = await appendInTurns(journal, (turns, isFirstDurable) => {
      // Long enough for many a write and fsync.
      if (turns === 2000) vi.advanceTimersByTime(3)
      return !isFirstDurable
    })
    expect(appended.length).toBeGreaterThan(2000)
    await journal.close()
  })

  test('but a single line, and one whose batch does not grow, waits for no clock', async () => {
    vi.useFakeTimers({ toFake: ['performance'] })
    onTestFinished(() => void vi.useRealTimers())
    const journal = await open(temporaryFolder('journal'))
    await expect(journal.append(event(1))).resolves.toBeUndefined()
    await expect(appendInTurns(journal, (turns) => turns < 10)).resolves.toHaveLength(10)
    await journal.close()
  })
})

describe('a disk that does not answer', () => {
  test('lets an event wait, and lose nothing when it answers in time', async () => {
    const dataDir = temporaryFolder('journal')
    const journal = await open(dataDir)
    const release = stallDisk()
    const appended = count(500).map((id) => journal.append(event(id)))
    const winner = await Promise.race([
      Promise.all(appended),
      new Promise((resolve) => setTimeout(resolve, 50, 'wait')),
    ])
    expect(winner).toBe('wait')
    expect(journal.trouble()).toBeUndefined()
    await release()
    await Promise.all(appended)
    await journal.close()
    expect(await journalled(dataDir)).toEqual(count(500))
    expect(journal.rescued).toEqual([])
  })

  test('is not taken for the one that keeps an event waiting when the process itself stood still', async () => {
    const dataDir = temporaryFolder('journal')
    const journal = await open(dataDir, { timeoutMs: 2_000 })
    const appended = journal.append(event(1))
    // As in a container that is frozen for a while.
    for (const end = Date.now() + 2_300; Date.now() < end; );
    await expect(appended).resolves.toBeUndefined()
    await journal.close()
    expect(await journalled(dataDir)).toEqual([1])
    expect(journal.rescued).toEqual([])
  })

  test('is given up after the timeout: every event has gone to the stderr fallback, once, before its refusal', async () => {
    const dataDir = temporaryFolder('journal')
    let rescued: string[] = []
    const journal = await open(dataDir, {
      timeoutMs: 2_000,
      stderrFallback: async (lines) => {
        // Whoever takes his time must still be waited for.
        await new Promise((resolve) => setTimeout(resolve, 20))
        rescued = rescued.concat(lines.map((line) => JSON.parse(line).id))
      },
    })
    await append(journal, 1)
    const release = stallDisk()
    const told = new Set<number>()
    const untold: number[] = []
    const outcomes = await Promise.all(
      count(200, 2).map(async (id) => {
        // Some join the write that hangs, others wait behind it.
        await new Promise((resolve) => setTimeout(resolve, id % 5))
        const outcome = await journal.append(event(id)).then(
          () => 'accepted',
          (error: unknown) => Reflect.get(Object(error), 'name'),
        )
        if (!rescued.includes(String(id))) untold.push(id)
        told.add(id)
        return outcome
      }),
    )
    expect(new Set(outcomes)).toEqual(new Set([refused.name]))
    expect(untold).toEqual([])
    expect(rescued.length).toBe(new Set(rescued).size)
    expect(rescued.length).toBe(200)
    expect(journal.trouble()).toMatch(/took longer than 2000 ms/)

    await release()
    await until('the trouble is over', () => journal.trouble() === undefined)
    await append(journal, 1000)
    await journal.close()
    const ids = await journalled(dataDir)
    expect(ids.length).toBe(new Set(ids).size)
    expect([ids[0], ids.at(-1)]).toEqual([1, 1000])
    expect(rescued.length).toBe(200)
  })

  test('holds 10 MB of events and no more: the next is refused at once', async () => {
    const dataDir = temporaryFolder('journal')
    const journal = await open(dataDir)
    const release = stallDisk()
    const large = { text: 'x'.repeat(1024 ** 2) }
    const appended = [
      ...count(10_000).map((id) => journal.append(event(id))),
      ...count(9, 10_001).map((id) => journal.append({ ...event(id), data: large })),
    ]
    for (const id of [10_010, 10_011]) await expect(journal.append(event(id))).rejects.toMatchObject(refused)
    expect(journal.rescued.map(({ id }) => Number(id))).toEqual([10_010, 10_011])
    await release()
    await Promise.all(appended)
    await append(journal, 10_012)
    await journal.close()
    expect(await journalled(dataDir)).toEqual([...count(10_009), 10_012])
  })
})

describe('a disk that refuses', () => {
  /** Something is in the way of the next segment, as on a disk that is gone or read-only. */
  async function journalThatFails(deps: Partial<JournalOptions & JournalDeps> = {}) {
    const dataDir = temporaryFolder('journal')
    let now = new Date('2026-11-23T12:00:00Z')
    const journal = await open(dataDir, { now: () => now, ...deps })
    await append(journal, 1, 2)
    return {
      dataDir,
      journal,
      rotate: () => {
        now = new Date(now.getTime() + 24 * 3_600_000)
      },
    }
  }

  test('is reported by the refusal and by trouble(), the event is rescued first, and it all ends by itself', async () => {
    let rescued: Event[] = []
    const { dataDir, journal, rotate } = await journalThatFails({
      stderrFallback: async (lines) => {
        await new Promise((resolve) => setTimeout(resolve, 20))
        rescued = rescued.concat(lines.map((line): Event => JSON.parse(line)))
      },
    })
    renameSync(journalDir(dataDir), join(dataDir, 'away'))
    writeFileSync(journalDir(dataDir), 'no folder')
    rotate()
    for (const id of [3, 4]) {
      await expect(journal.append(event(id))).rejects.toMatchObject(refused)
      expect(rescued.at(-1)).toMatchObject({ id: String(id), object: `deal:${id}` })
    }
    expect(rescued).toHaveLength(2)
    expect(journal.trouble()).toMatch(/EEXIST|ENOTDIR/)
    expect(journal.logged('the journal cannot be written')).toHaveLength(1)

    rmSync(journalDir(dataDir))
    renameSync(join(dataDir, 'away'), journalDir(dataDir))
    // No post is needed for it: where /readyz says no, none may come.
    await until('the trouble is over', () => journal.trouble() === undefined)
    await append(journal, 5)
    await journal.close()
    expect(await journalled(dataDir)).toEqual([1, 2, 5])
  })

  test('after it did not answer gives an event to the stderr fallback once, not twice', async () => {
    const { dataDir, journal, rotate } = await journalThatFails({ timeoutMs: 2_000 })
    mkdirSync(`${stableName(dataDir)}.next`)
    rotate()
    const release = stallDisk()
    const ids = count(20, 3)
    for (const outcome of await Promise.allSettled(ids.map((id) => journal.append(event(id)))))
      expect(outcome).toMatchObject({ status: 'rejected', reason: refused })
    expect(journal.trouble()).toMatch(/took longer/)
    await release()
    await until('now it refuses', () => journal.logged('the journal cannot be written').length === 1)
    expect(journal.trouble()).not.toMatch(/took longer/)
    await journal.close()
    expect(journal.rescued.map(({ id }) => Number(id))).toEqual(ids)
  })

  test('costs neither open files nor segments, however long it lasts, and the trouble stands', async () => {
    const { dataDir, journal, rotate } = await journalThatFails()
    // The stable name cannot be switched.
    mkdirSync(`${stableName(dataDir)}.next`)
    rotate()
    const files = openFiles()
    for (const id of count(40, 3)) await expect(journal.append(event(id))).rejects.toMatchObject(refused)
    expect(openFiles()).toBeLessThan(files + 10)
    expect((await listSegments(dataDir)).length).toBeLessThan(4)
    // Longer than it takes to look at the disk again: that must not say that all is well.
    const end = Date.now() + 1500
    while (Date.now() < end) {
      expect(journal.trouble()).toBeDefined()
      await new Promise((resolve) => setTimeout(resolve, 20))
    }

    rmSync(`${stableName(dataDir)}.next`, { recursive: true })
    await until('the trouble is over', () => journal.trouble() === undefined)
    await append(journal, 100)
    expect(statSync(stableName(dataDir)).ino).toBe(statSync(await lastPath(dataDir)).ino)
    await journal.close()
    expect(await journalled(dataDir)).toEqual([1, 2, 100])
    expect((await listSegments(dataDir)).length).toBeLessThan(4)
  })
})

function withByte(bytes: Buffer, at: number, byte = 0): Buffer {
  const copy = Buffer.from(bytes)
  copy[at] = byte
  return copy
}

async function segmentsIfAny(dataDir: string) {
  return readdirSync(dataDir).length === 0 ? [] : listSegments(dataDir)
}
