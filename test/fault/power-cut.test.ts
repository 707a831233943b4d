import { appendFileSync, copyFileSync, cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import { expect, test } from 'vitest'
import { readJournal } from '../../src/journal/follow.ts'
import { openJournal } from '../../src/journal/journal.ts'
import { oldest, type Position } from '../../src/journal/position.ts'
import { journalDir, listSegments } from '../../src/journal/segments.ts'
import { lostOrDoubled, postMany, startLoad } from '../support/load.ts'
import {
  makeFolder,
  readRecorded,
  recorder,
  spawnReceiver,
  startReceiver,
  temporaryFolder,
  until,
} from '../support/receiver.ts'

/** `npm run test:crash` sets ROUNDS: then it is cut at every byte. */
const isLong = process.env['ROUNDS'] !== undefined

const dispatcherScript = fileURLToPath(new URL('../../src/bin/dispatcher.ts', import.meta.url))

/** What a power cut may leave behind the last byte that it kept. */
const remains = {
  nothing: () => Buffer.alloc(0),
  zeros: (lost: Buffer) => Buffer.alloc(lost.length),
  'zeros and old data': (lost: Buffer, old: Buffer) =>
    Buffer.concat([Buffer.alloc(Math.min(64, lost.length)), old.subarray(old.length - lost.length)]),
}

/** A receiver and its dispatcher, killed under load; then bytes that met no fsync, as the page cache may hold them. */
async function killUnderLoad() {
  const seen = join(temporaryFolder('seen'), 'seen')
  const receiver = await startReceiver({ handlers: { 'ONCRMDEALUPDATE.mjs': recorder(seen) } })
  await until('the dispatcher runs', () => receiver.logged('handler loaded').length > 0)
  const load = startLoad(receiver.url)
  await until('some are handled', () => readRecorded(seen).length > 100)
  receiver.killGroup('SIGKILL')
  await receiver.exited
  await load.stop()

  const acknowledged = new Set(load.acknowledged())
  const segment = (await listSegments(receiver.dataDir)).at(-1)
  if (segment === undefined) throw new Error('no segment')
  const [line = ''] = readFileSync(segment.path, 'utf8').split('\n')
  // Events of whom nobody was told, the last of them half.
  const forged = [900_001, 900_002, 900_003]
    .map((deal) => `${JSON.stringify({ ...JSON.parse(line), id: `forged-${deal}`, object: `deal:${deal}` })}\n`)
    .join('')
  appendFileSync(segment.path, forged.slice(0, -line.length / 2))

  const bytes = readFileSync(segment.path)
  const lines: { object: string; start: number; end: number }[] = []
  for (let start = 0, end = bytes.indexOf('\n') + 1; end > 0; start = end, end = bytes.indexOf('\n', start) + 1)
    lines.push({ object: JSON.parse(bytes.toString('utf8', start, end)).object, start, end })
  /** Where the last line ends that was acknowledged. */
  const durable = Math.max(...lines.filter(({ object }) => acknowledged.has(object)).map(({ end }) => end))
  const leave = (dataDir: string, at: number, what: keyof typeof remains) => {
    const rest = remains[what](bytes.subarray(at), bytes)
    writeFileSync(join(journalDir(dataDir), basename(segment.path)), Buffer.concat([bytes.subarray(0, at), rest]))
  }
  return { dataDir: receiver.dataDir, seen, acknowledged, segment, bytes, lines, durable, leave }
}

type Killed = Awaited<ReturnType<typeof killUnderLoad>>

/** Where to cut, and what may stand there: every byte, or some, and all of it where lines begin and end. */
function cutsOf({ bytes, lines, durable }: Killed): { at: number; whats: (keyof typeof remains)[] }[] {
  const whats = Object.keys(remains) as (keyof typeof remains)[]
  const all = Array.from({ length: bytes.length - durable + 1 }, (_, index) => durable + index)
  const edges = new Set([...lines.flatMap(({ end }) => [end - 1, end, end + 1]), bytes.length])
  const stride = isLong ? 1 : Math.ceil(all.length / 30)
  return all
    .filter((at, index) => edges.has(at) || index % stride === 0)
    .map((at) => ({ at, whats: isLong || edges.has(at) ? whats : [whats[at % 3] ?? 'zeros'] }))
}

async function readOn(dataDir: string, from: Position) {
  const objects: (string | undefined)[] = []
  const told: string[] = []
  const log = pino({}, { write: (line) => void told.push(line) })
  for await (const { entries } of readJournal({ dataDir, from, log }))
    objects.push(...entries.map(({ event }) => event.object))
  return { objects, told }
}

test('wherever the power fails behind the last acknowledged byte, every position reads on without a gap', async () => {
  const killed = await killUnderLoad()
  const { segment, bytes, lines, durable, acknowledged, leave } = killed
  expect(
    lostOrDoubled(
      acknowledged,
      lines.map(({ object }) => object),
    ),
  ).toEqual({ lost: [], doubled: [] })
  const folder = temporaryFolder('cuts')
  const cuts = cutsOf(killed)
  const log = pino({ level: 'silent' })
  const fresh = ['deal:1000001', 'deal:1000002']
  // Of a dispatcher: at the beginning, some lines behind, at the end, and behind what then went.
  const offsets = [0, ...lines.map(({ end }) => end).filter((end) => end >= durable - 1000)]
  let read = 0
  for (const { at, whats } of cuts)
    for (const what of whats) {
      const dataDir = mkdtempSync(join(folder, 'cut-'))
      makeFolder(journalDir(dataDir))
      leave(dataDir, at, what)
      const journal = await openJournal({ dataDir, segmentSize: 1024 ** 2, log })
      for (const object of fresh) await journal.append({ id: object, event: 'E', object, remote: '::1' })
      await journal.close()

      for (const offset of offsets) {
        const { objects, told } = await readOn(dataDir, { segment: segment.number, offset })
        const kept = lines.filter(({ start, end }) => start >= offset && end <= at).map(({ object }) => object)
        // Old lines that are whole cannot be told from those that were acknowledged: they come again.
        const isOld = what === 'zeros and old data'
        const old = objects.slice(kept.length, objects.length - fresh.length)
        expect({ at, what, offset, objects, told: isOld ? [] : told }).toEqual({
          at,
          what,
          offset,
          objects: [...kept, ...(isOld ? old : []), ...fresh],
          told: [],
        })
        expect(lines.map(({ object }) => object)).toEqual(expect.arrayContaining(old.map((one) => String(one))))
        read += objects.length
      }
      rmSync(dataDir, { recursive: true })
    }
  process.stdout.write(
    `power cut: ${acknowledged.size} acknowledged, ${bytes.length - durable} bytes behind them, ` +
      `${cuts.flatMap(({ whats }) => whats).length} cuts, ${read} lines read, none lost, none twice\n`,
  )
})

test('after a power cut under load the next start handles all that was acknowledged, and what is new', async () => {
  const { dataDir, seen, acknowledged, bytes, durable, leave } = await killUnderLoad()
  const middle = durable + Math.floor((bytes.length - durable) / 2)
  for (const [about, at, what, isFollowed] of [
    ['cut at the last acknowledged byte', durable, 'nothing', false],
    ['zeros from the middle of a line', middle, 'zeros', false],
    ['zeros and old data', durable + 7, 'zeros and old data', false],
    ['what the dispatcher had followed went', durable, 'zeros', true],
  ] as const) {
    const copy = temporaryFolder('copy')
    cpSync(dataDir, copy, { recursive: true })
    const seenNow = join(temporaryFolder('seen'), 'seen')
    copyFileSync(seen, seenNow)
    const handlers = { 'ONCRMDEALUPDATE.mjs': recorder(seenNow) }
    const handled = () => readRecorded(seenNow).map(({ object }) => object)
    // By itself, so that the journal stays as it is.
    const dispatcher = isFollowed && (await spawnReceiver({ dataDir: copy, handlers, script: dispatcherScript }))
    if (dispatcher) {
      await until('it is behind what was acknowledged', () => handled().includes('deal:900002'))
      dispatcher.killGroup('SIGKILL')
      await dispatcher.exited
    }
    leave(copy, at, what)

    const receiver = await startReceiver({ dataDir: copy, handlers })
    const added = Array.from({ length: 5 }, (_, index) => `deal:${2_000_000 + index}`)
    expect(await postMany(receiver.url, 5, { from: 2_000_000, clients: 1 })).toEqual(added.map(() => 200))
    const pending = [...acknowledged, ...added]
    await until(`${about}: all handled`, () => lostOrDoubled(pending, handled()).lost.length === 0)
    await receiver.stop()
    const journalled = (await readOn(copy, oldest)).objects
    expect(lostOrDoubled(pending, journalled), about).toEqual({ lost: [], doubled: [] })
    expect(lostOrDoubled(added, handled()), about).toEqual({ lost: [], doubled: [] })
    const twice = lostOrDoubled(acknowledged, handled()).doubled.length
    process.stdout.write(`${about}: ${acknowledged.size} acknowledged, none lost, ${twice} handled twice\n`)
    // At most what ran when it was killed: CONCURRENCY, and once more where a dispatcher was killed again.
    expect(twice, about).toBeLessThanOrEqual(isFollowed ? 16 : 8)
  }
})
