import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { expect, test } from 'vitest'
import { follow, readJournal } from '../../../src/journal/follow.ts'
import { type Journal, openJournal } from '../../../src/journal/journal.ts'
import { oldest, type Position } from '../../../src/journal/position.ts'
import { listSegments, stableName } from '../../../src/journal/segments.ts'
import { fc } from '../../support/random.ts'
import { until } from '../../support/receiver.ts'

/** `npm run test:crash` sets 25. */
const rounds = Number(process.env['ROUNDS'] ?? 1)
const log = pino({ level: 'silent' })
const day = 24 * 3_600_000

/** What a power cut may make of bytes that met no fsync. */
const remains = {
  nothing: (_bytes: Buffer) => Buffer.alloc(0),
  all: (bytes: Buffer) => bytes,
  part: (bytes: Buffer, at: number) => bytes.subarray(0, at % (bytes.length + 1)),
  zeros: (bytes: Buffer, at: number) =>
    Buffer.concat([remains.part(bytes, at), Buffer.alloc(bytes.length + 1 - remains.part(bytes, at).length)]),
  'zeros and old data': (bytes: Buffer, at: number) =>
    Buffer.concat([remains.part(bytes, at), Buffer.alloc(700), bytes.subarray(-90), bytes]),
}

const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant('append'), by: fc.array(fc.nat(2), { maxLength: 8, minLength: 1 }) }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('debounce') }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('midnight') }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('restart') }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('follower restarts') }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('follower catches up') }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('disk fails', 'disk is well') }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('power cut'),
      unsynced: fc.nat(3),
      torn: fc.boolean(),
      followed: fc.boolean(),
      leaves: fc.constantFrom(...(Object.keys(remains) as (keyof typeof remains)[])),
      at: fc.nat(600),
    }),
  },
)

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never

/** Events of three appenders, each of which counts its own. */
function createWorld(dataDir: string) {
  const accepted = new Set<string>()
  const refused = new Set<string>()
  const counts = [0, 0, 0]
  const pending: Promise<void>[] = []
  let unsynced = 0
  let now = Date.parse('2026-11-23T12:00:00Z')
  let journal: Journal
  const given: { position: Position; seen: number }[] = [{ position: oldest, seen: 0 }]
  const seen: string[] = []
  let follower = startFollower()

  async function open() {
    const stderrFallback = () => Promise.resolve()
    journal = await openJournal({ dataDir, segmentSize: 600, log, now: () => new Date(now), stderrFallback })
  }

  /** Like a dispatcher: it keeps what it saw together with the position. */
  function startFollower() {
    const stop = new AbortController()
    const run = async () => {
      const from = given.at(-1)?.position ?? oldest
      await until('the folder is there', () => statSync(join(dataDir, 'journal'), { throwIfNoEntry: false }))
      for await (const { entries, position } of follow({ dataDir, from, signal: stop.signal, log })) {
        seen.push(...entries.map(({ event }) => event.id))
        given.push({ position, seen: seen.length })
        if (stop.signal.aborted) return
      }
    }
    const ended = run()
    ended.catch(() => undefined)
    return {
      async stop() {
        stop.abort()
        await ended
      },
    }
  }

  const settle = async () => {
    await Promise.all(pending.splice(0))
  }
  const heal = () => rmSync(`${stableName(dataDir)}.next`, { recursive: true, force: true })
  const caughtUp = () => until('the follower has them', () => [...accepted].every((id) => seen.includes(id)))

  async function take(action: Step): Promise<void> {
    switch (action.do) {
      case 'append': {
        for (const by of 'by' in action ? action.by : []) {
          const id = `${by}-${counts[by]}`
          counts[by] = (counts[by] ?? 0) + 1
          const appended = journal.append({ id, event: 'E', remote: '::1' })
          pending.push(
            appended.then(
              () => void accepted.add(id),
              () => void refused.add(id),
            ),
          )
        }
        return
      }
      case 'debounce':
        return settle()
      case 'midnight':
        now += day
        return
      case 'restart':
        heal()
        await settle()
        await journal.close()
        return open()
      case 'follower restarts':
        await follower.stop()
        follower = startFollower()
        return
      case 'follower catches up':
        await settle()
        await caughtUp()
        return
      case 'disk fails':
        mkdirSync(`${stableName(dataDir)}.next`, { recursive: true })
        return
      case 'disk is well':
        return heal()
      case 'power cut':
        heal()
        if ('at' in action) await cutPower(action)
        return
      default:
        throw new Error(`no such step: ${JSON.stringify(action)}`)
    }
  }

  /** In one process no write can be stopped half way: it is the file that gets what such a one leaves. */
  async function cutPower(cut: Extract<Step, { at: number }>): Promise<void> {
    await settle()
    await journal.close()
    const path = (await listSegments(dataDir)).at(-1)?.path ?? ''
    const synced = statSync(path).size
    const lines = Array.from({ length: cut.unsynced }, () => `{"id":"u-${unsynced++}","event":"E"}\n`)
    if (cut.torn) lines.push('{"id":"torn","eve')
    const bytes = Buffer.from(lines.join(''))
    appendFileSync(path, bytes)
    // The follower reads from the page cache what the disk never gets.
    if (cut.followed)
      await until('it read those, too', () =>
        lines.slice(0, cut.unsynced).every((line) => seen.includes(JSON.parse(line).id)),
      )
    await follower.stop()
    truncateSync(path, synced)
    appendFileSync(path, remains[cut.leaves](bytes, cut.at))
    await open()
    follower = startFollower()
  }

  return {
    open,
    take,
    async finish() {
      heal()
      await settle()
      await caughtUp()
      await follower.stop()
      await journal.close()
      return { accepted, refused, seen, given }
    },
  }
}

/** The ids of every line; one that is torn, or is no event, fails the test, unless it is where the power was cut. */
async function readIds(dataDir: string): Promise<string[]> {
  const texts = (await listSegments(dataDir)).map(({ path }) => readFileSync(path, 'latin1'))
  for (const text of texts) expect(text).toMatch(/^([^\n]+\n)*$/)
  const lines = texts.flatMap((text) => text.split('\n').slice(0, -1))
  return lines.filter((line) => !/\0|torn/.test(line)).map((line) => JSON.parse(line).id)
}

const duplicates = (ids: readonly string[]) => ids.filter((id, index) => ids.indexOf(id) !== index)

test('any interleaving of appends, failures, power cuts and restarts leaves each acknowledged line, once', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 25 }), async (steps) => {
      const dataDir = mkdtempSync(join(tmpdir(), 'b24-model-'))
      try {
        const world = createWorld(dataDir)
        await world.open()
        for (const one of steps) await world.take(one)
        const { accepted, refused, seen, given } = await world.finish()

        const ids = await readIds(dataDir)
        // Of what no fsync has met a disk may hold two copies.
        const isKnown = (id: string) => !id.startsWith('u-')
        expect(duplicates(ids).filter(isKnown)).toEqual([])
        expect([...accepted].filter((id) => !ids.includes(id))).toEqual([])
        expect([...refused].filter((id) => ids.includes(id))).toEqual([])
        expect(ids.filter((id) => !accepted.has(id) && isKnown(id))).toEqual([])
        for (const by of [0, 1, 2]) {
          const own = ids.filter((id) => id.startsWith(`${by}-`)).map((id) => Number(id.slice(2)))
          expect(own).toEqual(own.toSorted((a, b) => a - b))
        }

        // The follower that lived through it all, with its restarts.
        expect(duplicates(seen).filter(isKnown)).toEqual([])
        expect(seen.filter((id) => accepted.has(id))).toEqual(ids.filter((id) => accepted.has(id)))

        // And one that would go on from any position that it was given.
        for (const { position, seen: count } of given) {
          const later: string[] = []
          for await (const { entries } of readJournal({ dataDir, from: position, log }))
            later.push(...entries.map(({ event }) => event.id))
          const before = new Set(seen.slice(0, count))
          expect(later.filter((id) => accepted.has(id))).toEqual(
            ids.filter((id) => accepted.has(id) && !before.has(id)),
          )
          expect(later.filter((id) => isKnown(id) && before.has(id))).toEqual([])
        }
      } finally {
        rmSync(dataDir, { recursive: true, force: true })
      }
    }),
    { numRuns: 40 * rounds },
  )
})
