import {
  appendFileSync,
  linkSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { basename } from 'node:path'
import { describe, expect, test } from 'vitest'
import { writeNumbers } from '../../../src/journal/numbers.ts'
import type { Position } from '../../../src/journal/position.ts'
import { createSegment, listSegments, pointStableName, stableName } from '../../../src/journal/segments.ts'
import { type Trouble, verifyJournal } from '../../../src/journal/verify.ts'
import { idOf, writeJournal } from '../../support/journal.ts'

/** Two segments of two lines each. */
async function start() {
  const dataDir = await writeJournal([{}, {}], [{}, {}])
  const segments = await listSegments(dataDir)
  const [first = '', second = ''] = segments.map(({ path }) => path)
  return { dataDir, first, second, lengths: linesOf(first).map((line) => line.length + 1) }
}

const linesOf = (path: string) => readFileSync(path, 'utf8').split('\n').slice(0, -1)

async function verify(dataDir: string, position?: Position, onRead: (position: Position) => void = () => undefined) {
  const troubles: Trouble[] = []
  const verdict = await verifyJournal({
    dataDir,
    position,
    onTrouble: async (trouble) => void troubles.push(trouble),
    onRead,
  })
  expect(verdict.troubles).toBe(troubles.length)
  return { verdict, troubles: troubles.map(({ path, offset, what }) => `${basename(path)}:${offset ?? ''} ${what}`) }
}

const name = (number: number) => `00000000000${number}-2026-11-23.ndjson`

test('a journal as the receiver writes it is counted and has no trouble', async () => {
  const { dataDir, first, second } = await start()
  expect(await verify(dataDir)).toEqual({
    troubles: [],
    verdict: {
      segments: 2,
      lines: 4,
      bytes: readFileSync(first).length + readFileSync(second).length,
      first: '2026-11-23T08:00:00.000Z',
      last: '2026-11-23T08:00:00.000Z',
      setBack: 0,
      troubles: 0,
    },
  })
})

describe('a line is reported with its place if', () => {
  const line = (change: object) => JSON.stringify({ ...JSON.parse(good), id: idOf(9), ...change })
  const good = `{"level":30,"time":"2026-11-23T08:00:00.000Z","id":"${idOf(9)}","event":"E","remote":"::1","msg":"E"}`
  test.each<[string, string | Buffer, string]>([
    ['it is no JSON', 'no json', 'is no JSON'],
    ['it is empty', '', 'is no JSON'],
    ['it is half of one', good.slice(0, 50), 'is no JSON'],
    ['it is no object', '"event"', 'is no event: it has no level'],
    ['it is null', 'null', 'is no event: it has no level'],
    ['its level is missing', line({ level: undefined }), 'is no event: it has no level'],
    ['its time is none', line({ time: 'noon' }), 'is no event: its time is not a time'],
    ['its id is missing', line({ id: undefined }), 'is no event: it has no id'],
    ['its id is no UUID', line({ id: '7' }), 'is no event: its id is not a UUID'],
    ['its name is empty', line({ event: '' }), 'is no event: its event is not a name'],
    ['its name is no text', line({ event: ['E'] }), 'is no event: its event is not a name'],
    ['its sender is missing', line({ remote: undefined }), 'is no event: it has no remote'],
    ['its message is missing', line({ msg: undefined }), 'is no event: it has no msg'],
    ['an earlier one has its id', line({ id: idOf(1) }), `has the id of an earlier line, ${idOf(1)}`],
    ['it holds NUL bytes', `${good.slice(0, 20)}\0\0${good.slice(20)}`, 'holds NUL bytes, as a power cut leaves them'],
    ['it is not UTF-8', Buffer.from(good.replace('::1', 'ä'), 'latin1'), 'is not UTF-8'],
  ])('%s', async (_, bytes, what) => {
    const { dataDir, second, lengths } = await start()
    appendFileSync(second, Buffer.concat([Buffer.from(bytes), Buffer.from(`\n${good.replace(idOf(9), idOf(10))}\n`)]))
    const offset = (lengths[0] ?? 0) * 2
    const [trouble, ...others] = (await verify(dataDir)).troubles
    expect([trouble?.replace(/ \(event .*\)$/, ''), others]).toEqual([`${name(2)}:${offset} ${what}`, []])
  })
})

describe('the end of a segment', () => {
  test('that is half a line is trouble where its rest will never be written, and none in the newest', async () => {
    const { dataDir, first, second, lengths } = await start()
    appendFileSync(first, '{"level":30')
    appendFileSync(second, '{"level":30')
    expect((await verify(dataDir)).troubles).toEqual([
      `${name(1)}:${(lengths[0] ?? 0) * 2} is half a line, and the rest will not be written`,
    ])
  })

  test('that is NUL bytes is trouble, also in the newest', async () => {
    const { dataDir, second, lengths } = await start()
    appendFileSync(second, Buffer.alloc(4096))
    expect((await verify(dataDir)).troubles).toEqual([
      `${name(2)}:${(lengths[0] ?? 0) * 2} holds NUL bytes, as a power cut leaves them`,
    ])
  })
})

describe('the position of the dispatcher', () => {
  test('may be where any line begins, at the end of a segment, or at the start of all', async () => {
    const { dataDir, lengths } = await start()
    const [length = 0] = lengths
    for (const position of [
      { segment: 0, offset: 0 },
      { segment: 1, offset: 0 },
      { segment: 1, offset: length },
      { segment: 1, offset: 2 * length },
      { segment: 2, offset: 2 * length },
    ])
      expect((await verify(dataDir, position)).troubles).toEqual([])
  })

  test('may be in a segment that went because none of its lines was acknowledged', async () => {
    const { dataDir, second } = await start()
    await writeNumbers(dataDir, { newest: '', empty: [[3, 4]] })
    renameSync(second, second.replace('000000000002', '000000000005'))
    for (const segment of [3, 4]) expect((await verify(dataDir, { segment, offset: 7 })).troubles).toEqual([])
  })

  test('is trouble in a segment that is gone, and in another one of its number', async () => {
    const { dataDir, first, lengths } = await start()
    const here = { segment: 1, offset: lengths[0] ?? 0 }
    expect((await verify(dataDir, { ...here, first: idOf(1) })).troubles).toEqual([])
    expect((await verify(dataDir, { ...here, first: idOf(7) })).troubles).toEqual([
      expect.stringContaining(
        `begins with event ${idOf(1)}, and the segment 1 that was followed began with ${idOf(7)}`,
      ),
    ])
    rmSync(first)
    expect((await verify(dataDir, here)).troubles).toEqual([
      expect.stringContaining('the journal was followed into segment 1, and that is gone'),
    ])
  })

  test.each<[string, Position, string]>([
    [
      'in the middle of a line',
      { segment: 1, offset: 7 },
      `${name(1)}:7 is where the dispatcher goes on, in the middle of a line`,
    ],
    [
      'behind the end',
      { segment: 2, offset: 9999 },
      `${name(2)}:9999 is where the dispatcher goes on, behind the end of the segment`,
    ],
  ])('is trouble %s', async (_, position, trouble) => {
    const { dataDir } = await start()
    expect((await verify(dataDir, position)).troubles).toEqual([trouble])
  })

  test('is trouble in a segment that is newer than all there are', async () => {
    const { dataDir } = await start()
    expect((await verify(dataDir, { segment: 3, offset: 0 })).troubles).toEqual([
      expect.stringContaining('the journal was followed into segment 3, and there is none so new'),
    ])
  })

  test('may be behind the end of a segment that a crash has cut', async () => {
    const { dataDir, first } = await start()
    const { length } = readFileSync(first)
    writeFileSync(`${first}.cut`, '{"level":30')
    expect((await verify(dataDir, { segment: 1, offset: length + 11 })).troubles).toEqual([])
  })
})

describe('the name for tail -F', () => {
  test('may be a symbolic link', async () => {
    const { dataDir, second } = await start()
    rmSync(stableName(dataDir))
    symlinkSync(second, stableName(dataDir))
    expect((await verify(dataDir)).troubles).toEqual([])
  })

  test.each<[string, (dataDir: string, first: string) => void]>([
    ['is missing', (dataDir) => rmSync(stableName(dataDir))],
    [
      'is an older segment',
      (dataDir, first) => {
        rmSync(stableName(dataDir))
        linkSync(first, stableName(dataDir))
      },
    ],
  ])('that %s is trouble', async (_, spoil) => {
    const { dataDir, first } = await start()
    spoil(dataDir, first)
    expect((await verify(dataDir)).troubles).toEqual([
      'events.ndjson: is not the newest segment, so tail -F shows nothing new',
    ])
  })
})

test('a number that two segments have is trouble', async () => {
  const { dataDir, second } = await start()
  renameSync(second, second.replace('000000000002', '000000000001').replace('-23', '-24'))
  expect((await verify(dataDir)).troubles).toEqual(['000000000001-2026-11-24.ndjson: has a number that is taken'])
})

test('a clock that was set back is reported and is no trouble', async () => {
  const at = (time: string) => ({ at: `2026-11-23T${time}Z` })
  const dataDir = await writeJournal([at('08:00:00.000'), at('07:00:00.000'), at('07:30:00.000')], [at('06:00:00.000')])
  const { verdict, troubles } = await verify(dataDir)
  expect(troubles).toEqual([])
  expect(verdict).toMatchObject({ setBack: 2, first: '2026-11-23T08:00:00.000Z', last: '2026-11-23T06:00:00.000Z' })
})

describe('while it reads', () => {
  test('a segment may be removed by the retention', async () => {
    const { dataDir, second } = await start()
    await pointStableName(dataDir, await createSegment(dataDir, 3, new Date('2026-11-23T08:00:00Z')))
    const { verdict, troubles } = await verify(dataDir, undefined, ({ segment }) => {
      if (segment === 1) rmSync(second)
    })
    expect([troubles, verdict.segments, verdict.lines]).toEqual([[], 2, 2])
  })

  test('the newest may get the rest of a line and then a successor, and the name be behind for a moment', async () => {
    const { dataDir, second } = await start()
    const [line = ''] = linesOf(second)
    const whole = `${line.replace(idOf(3), idOf(5))}\n`
    appendFileSync(second, whole.slice(0, 20))
    const third = { number: 3, path: second.replace('000000000002', '000000000003') }
    const { verdict, troubles } = await verify(dataDir, undefined, ({ segment, offset }) => {
      if (segment !== 2 || offset > 2 * whole.length) return
      appendFileSync(second, whole.slice(20))
      writeFileSync(third.path, 'half')
      setTimeout(() => void pointStableName(dataDir, third), 100)
    })
    expect([troubles, verdict.lines]).toEqual([[], 5])
  })

  test('the newest may grow faster than it can be read', async () => {
    const { dataDir, second } = await start()
    const line = linesOf(second).at(-1) ?? ''
    let number = 5
    const { verdict, troubles } = await verify(dataDir, undefined, ({ segment }) => {
      if (segment === 2) appendFileSync(second, `${line.replace(idOf(4), idOf(number++))}\n`)
    })
    expect([troubles, verdict.lines]).toEqual([[], 4])
  })

  test('half a line may be cut by a receiver that starts', async () => {
    const { dataDir, first } = await start()
    const { length } = readFileSync(first)
    appendFileSync(first, 'half')
    const { troubles } = await verify(dataDir, undefined, ({ segment }) => {
      if (segment === 1) truncateSync(first, length)
    })
    expect(troubles).toEqual([])
  })
})
