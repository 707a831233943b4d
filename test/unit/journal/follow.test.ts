import { spawn } from 'node:child_process'
import { appendFileSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { pathToFileURL } from 'node:url'
import { pino } from 'pino'
import { expect, onTestFinished, test } from 'vitest'
import type { Damage } from '../../../src/journal/damage.ts'
import {
  type Chunk,
  type Entry,
  follow,
  lastEvent,
  positionBefore,
  positionOfLast,
  readJournal,
} from '../../../src/journal/follow.ts'
import { oldest, type Position } from '../../../src/journal/position.ts'
import { createSegment } from '../../../src/journal/segments.ts'
import { canTrace } from '../../support/faults.ts'
import { fc } from '../../support/random.ts'
import { temporaryFolder, until } from '../../support/receiver.ts'

const line = (id: number, more = '') => `${JSON.stringify({ id: String(id), event: 'E', more })}\n`
const today = new Date('2026-11-23T12:00:00Z')

function collectLog() {
  const lines: string[] = []
  const stream = new Writable({
    write(chunk, _encoding, done) {
      lines.push(String(chunk))
      done()
    },
  })
  return { lines, log: pino(stream) }
}

async function journalOf(...segments: string[]): Promise<{ dataDir: string; paths: string[] }> {
  const dataDir = temporaryFolder('follow')
  const paths: string[] = []
  for (const [index, text] of segments.entries()) {
    const { path } = await createSegment(dataDir, index + 1, today)
    writeFileSync(path, text)
    paths.push(path)
  }
  return { dataDir, paths }
}

/** Reads on until `count` events came. */
async function read(dataDir: string, from: Position, count: number, whenWaiting?: () => void) {
  const stop = new AbortController()
  const { log, lines } = collectLog()
  const chunks: Chunk[] = []
  if (count === 0) stop.abort()
  let waiting: NodeJS.Timeout | undefined
  for await (const chunk of follow({ dataDir, from, signal: stop.signal, log })) {
    chunks.push(chunk)
    if (whenWaiting) waiting ??= setTimeout(whenWaiting, 50)
    if (chunks.flatMap(({ entries }) => entries).length >= count) stop.abort()
  }
  clearTimeout(waiting)
  return {
    chunks,
    ids: chunks.flatMap(({ entries }) => entries.map(({ event }) => Number(event.id))),
    log: lines.join(''),
  }
}

test('reads every event across segments, in order', async () => {
  const { dataDir } = await journalOf(line(1) + line(2), '', line(3), line(4) + line(5))
  expect((await read(dataDir, oldest, 5)).ids).toEqual([1, 2, 3, 4, 5])
})

test('goes on from every position it gave', async () => {
  const { dataDir } = await journalOf(line(1) + line(2), line(3))
  const { chunks } = await read(dataDir, oldest, 3)
  for (const { position, entries } of chunks) {
    const rest = 3 - Number(entries.at(-1)?.event.id)
    expect((await read(dataDir, position, rest)).ids).toHaveLength(rest)
  }
})

test('waits for what is appended and for the next segment', async () => {
  const { dataDir, paths } = await journalOf(line(1))
  const grow = async () => {
    appendFileSync(paths[0] ?? '', line(2))
    const { path } = await createSegment(dataDir, 2, today)
    appendFileSync(path, line(3))
  }
  expect((await read(dataDir, oldest, 3, () => void grow())).ids).toEqual([1, 2, 3])
})

test('half a line is not read before it is whole', async () => {
  const { dataDir, paths } = await journalOf(line(1) + line(2).slice(0, 10))
  const { chunks } = await read(dataDir, oldest, 2, () => appendFileSync(paths[0] ?? '', line(2).slice(10)))
  expect(chunks.map(({ entries }) => entries.length)).toEqual([1, 1])
})

test('half a line at the end of a sealed segment is passed over and reported', async () => {
  const { dataDir } = await journalOf(`${line(1)}{"id":"2`, line(3))
  const { ids, log } = await read(dataDir, oldest, 2)
  expect(ids).toEqual([1, 3])
  expect(log).toContain('half a line at the end of a segment')
})

test('a line that is no event is skipped and reported with its place', async () => {
  const { dataDir } = await journalOf(`${line(1)}no json\n${line(2)}`)
  const { ids, log } = await read(dataDir, oldest, 2)
  expect(ids).toEqual([1, 2])
  expect(log).toContain(`"segment":1,"offset":${line(1).length}`)
})

test('where a line is damaged the others come, each with its place, and the events in it are named', async () => {
  const ours = (id: number) => `{"level":30,"time":"2026-11-23T08:00:00.000Z","id":"${id}","event":"E","more":"я"}\n`
  const lines = [1, 2, 3, 4, 5].map((id) => Buffer.from(ours(id)))
  const joined = Buffer.from(`${ours(6).trimEnd()}x${ours(7)}`)
  lines[1]?.fill(0, 70, 71)
  lines[3]?.fill(0xff, 75, 76)
  const { dataDir, paths } = await journalOf('')
  const all = [...lines, joined, Buffer.from(ours(8))]
  writeFileSync(paths[0] ?? '', Buffer.concat(all))
  const offsetOf = (index: number) => all.slice(0, index).reduce((sum, { length }) => sum + length, 0)
  const damages: Damage[] = []
  const { log, lines: logged } = collectLog()
  const options = { dataDir, from: oldest, log, onDamage: (one: Damage) => void damages.push(one) }
  for (const needle of [undefined, '"event"']) {
    damages.length = 0
    const entries: Entry[] = []
    for await (const chunk of readJournal({ ...options, needle })) entries.push(...chunk.entries)
    expect(entries.map(({ event, at }) => [event.id, at.offset])).toEqual([
      ['1', offsetOf(0)],
      ['3', offsetOf(2)],
      ['5', offsetOf(4)],
      ['8', offsetOf(6)],
    ])
    expect(damages.map(({ at, events }) => [at.offset, events])).toEqual([
      [offsetOf(1), ['2']],
      [offsetOf(3), ['4']],
      [offsetOf(5), ['6', '7']],
    ])
  }
  expect(logged.join('')).toContain(`"segment":1,"offset":${offsetOf(5)},"events":["6","7"]`)
})

test('a position past the end of a sealed segment, or in one that is gone, means the next', async () => {
  const { dataDir } = await journalOf(line(1), line(2))
  expect((await read(dataDir, { segment: 1, offset: 10_000 }, 1)).ids).toEqual([2])
  expect((await read(dataDir, { segment: 0, offset: 77 }, 2)).ids).toEqual([1, 2])
})

test('a segment that goes between the look at the folder and its opening is passed over', async () => {
  const { dataDir, paths } = await journalOf('', line(2))
  rmSync(paths[0] ?? '')
  // It is listed and cannot be opened, as one that went just now.
  symlinkSync('nowhere', paths[0] ?? '')
  expect((await read(dataDir, oldest, 1)).ids).toEqual([2])
  expect((await read(dataDir, { segment: 1, offset: 0 }, 1)).ids).toEqual([2])
})

test('lines longer than a read and characters across two reads come whole', async () => {
  const long = 'я'.repeat(100_001)
  const { dataDir } = await journalOf(line(1, long) + line(2, long))
  const { chunks } = await read(dataDir, oldest, 2)
  expect(chunks.flatMap(({ entries }) => entries.map(({ event }) => Reflect.get(event, 'more')))).toEqual([long, long])
})

test('finds where the last lines begin, also across segments', async () => {
  const { dataDir } = await journalOf(line(1) + line(2), line(3, 'x'.repeat(200_000)), line(4))
  for (const [count, first] of [
    [0, undefined],
    [1, 4],
    [2, 3],
    [3, 2],
    [4, 1],
    [9, 1],
  ] as const) {
    const from = await positionOfLast(dataDir, count)
    expect((await read(dataDir, from, Math.min(count, 4))).ids[0]).toBe(first)
  }
})

test('of a segment that is removed while the last lines are looked for, the next one is the first', async () => {
  const { dataDir, paths } = await journalOf('', line(2) + line(3))
  rmSync(paths[0] ?? '')
  symlinkSync('nowhere', paths[0] ?? '')
  expect((await read(dataDir, await positionOfLast(dataDir, 5), 2)).ids).toEqual([2, 3])
})

test('what was journalled since a time is looked for in no segment that was written before it', async () => {
  const { dataDir, paths } = await journalOf(line(1), line(2), line(3))
  const at = (seconds: number) => new Date(today.getTime() + seconds * 1000)
  for (const [index, path] of paths.entries()) utimesSync(path, today, at(index * 60))
  expect(await positionBefore(dataDir, at(30))).toEqual({ segment: 2, offset: 0 })
  // A file system may count in steps of two seconds.
  expect(await positionBefore(dataDir, at(61))).toEqual({ segment: 2, offset: 0 })
  expect(await positionBefore(dataDir, at(90))).toEqual({ segment: 3, offset: 0 })
  expect(await positionBefore(dataDir, at(-3600))).toEqual({ segment: 1, offset: 0 })
  expect(await positionBefore(dataDir, at(3600))).toEqual({ segment: 3, offset: line(3).length })
})

test('where a text is sought, the lines that hold it come, each with its place, and no others', async () => {
  // Some are longer than a read, and hold the text where a read ends.
  const more = fc.oneof(
    { weight: 20, arbitrary: fc.constantFrom('', 'sought', 'sought sought', 'not', 'so', 'я') },
    { weight: 1, arbitrary: fc.nat(20).map((length) => `${'я'.repeat(500_000)}${'x'.repeat(48_530 + length)}sought`) },
  )
  await fc.assert(
    fc.asyncProperty(fc.array(fc.array(more, { maxLength: 8 }), { minLength: 1, maxLength: 3 }), async (segments) => {
      let id = 0
      const texts = segments.map((list) => list.map((text) => line(++id, text)).join(''))
      const { dataDir } = await journalOf(...texts)
      const readAll = async (needle?: string) => {
        const entries: Entry[] = []
        const { log, lines } = collectLog()
        for await (const chunk of readJournal({ dataDir, from: oldest, needle, log })) entries.push(...chunk.entries)
        expect(lines).toEqual([])
        return entries
      }
      const expected = (await readAll()).filter(({ event }) => String(Reflect.get(event, 'more')).includes('sought'))
      expect(await readAll('sought')).toEqual(expected)
    }),
    { numRuns: 40 },
  )
})

test('says when the last event came, also where newer segments are empty, and nothing where there is none', async () => {
  const at = (time: string) => `${JSON.stringify({ id: '1', event: 'E', time })}\n`
  const { dataDir } = await journalOf(at('2026-11-22T08:00:00.000Z') + at('2026-11-23T08:00:00.000Z'), '', '')
  expect((await lastEvent(dataDir))?.time).toBe('2026-11-23T08:00:00.000Z')
  expect(await lastEvent((await journalOf('')).dataDir)).toBeUndefined()
  expect(await lastEvent(temporaryFolder('none'))).toBeUndefined()
})

test.skipIf(!canTrace).for([
  ['there are no watches left', 'inotify_add_watch:error=ENOSPC'],
  ['there are no watchers left', 'inotify_init1:error=EMFILE'],
] as const)('where %s it reads on all the same (strace)', async ([, fault]) => {
  const { dataDir, paths } = await journalOf(line(1))
  const source = (path: string) => JSON.stringify(pathToFileURL(join(import.meta.dirname, '../../../src', path)).href)
  const script = join(dataDir, 'read.mjs')
  writeFileSync(
    script,
    `import { follow } from ${source('journal/follow.ts')}
import { oldest } from ${source('journal/position.ts')}
const { signal } = new AbortController()
for await (const { entries } of follow({ dataDir: ${JSON.stringify(dataDir)}, from: oldest, signal }))
  for (const { event } of entries) process.stdout.write(event.id + ' ')`,
  )
  const reader = spawn('strace', ['-D', '-f', '-o', '/dev/null', '-e', `inject=${fault}`, process.execPath, script])
  onTestFinished(() => void reader.kill('SIGKILL'))
  let read = ''
  for (const stream of [reader.stdout, reader.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => {
      read += text
    })
  await until('the first', () => read !== '')
  appendFileSync(paths[0] ?? '', line(2))
  appendFileSync((await createSegment(dataDir, 2, today)).path, line(3))
  await until(
    () => `the others\n${read}`,
    () => read.length > 4,
  )
  expect(read).toBe('1 2 3 ')
})

test('however the journal grows, every event is read once and in order', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.integer({ min: 1, max: 60 }), fc.boolean()), { minLength: 1, maxLength: 40 }),
      async (steps) => {
        const { dataDir, paths } = await journalOf('')
        let written = 0
        let pending = ''
        let path = paths[0] ?? ''
        let segment = 1
        const grow = async () => {
          for (const [bytes, rotate] of steps) {
            if (pending === '' && rotate) path = (await createSegment(dataDir, ++segment, today)).path
            if (pending === '') pending = line(++written, 'я')
            appendFileSync(path, pending.slice(0, bytes))
            pending = pending.slice(bytes)
            await new Promise(setImmediate)
          }
          appendFileSync(path, pending + line(++written))
        }
        const growing = grow()
        const stop = new AbortController()
        const ids: number[] = []
        for await (const { entries } of follow({
          dataDir,
          from: oldest,
          signal: stop.signal,
          log: pino({ level: 'silent' }),
        })) {
          ids.push(...entries.map(({ event }) => Number(event.id)))
          await growing
          if (ids.length >= written) stop.abort()
        }
        expect(ids).toEqual(Array.from({ length: written }, (_, index) => index + 1))
      },
    ),
    { numRuns: 60 },
  )
})
