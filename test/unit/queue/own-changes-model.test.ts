import { expect, test } from 'vitest'
import type { JournalledEvent } from '../../../src/events/event.ts'
import { openSqliteOwnChanges } from '../../../src/queue/sqlite/own-changes.ts'
import { openSqliteQueue, queuePath } from '../../../src/queue/sqlite/queue.ts'
import { fc } from '../../support/random.ts'
import { temporaryFolder } from '../../support/receiver.ts'

const HOOK = '17'
const PERSON = '7'

/**
 * How a write goes: `new` answers with the record and `old` with nothing, and either may find nothing to change, which
 * fires no event; of two updates in a batch the portal fires one.
 */
type Way = 'new' | 'new, nothing changed' | 'old' | 'old, nothing changed' | 'batch'

/** An answer may come after the event, and may not come at all. */
type Comes = 'now' | 'late' | 'never'

type Step =
  | { readonly do: 'wait'; readonly ms: number }
  | { readonly do: 'edit' }
  | {
      readonly do: 'write'
      readonly by: 'h' | 'other'
      readonly way: Way
      readonly ms: number
      readonly answer: Comes
    }
  | { readonly do: 'answer' }
  | { readonly do: 'deliver'; readonly isTwice: boolean }
  | { readonly do: 'run'; readonly coalesced: number; readonly meanwhile: Step | undefined }
  | { readonly do: 'restart' }

const wait = fc.record({ do: fc.constant('wait' as const), ms: fc.integer({ min: 0, max: 1_500 }) })
const edit = fc.record({ do: fc.constant('edit' as const) })
const deliver = fc.record({
  do: fc.constant('deliver' as const),
  isTwice: fc.constantFrom(false, false, false, false, true),
})
const writeBy = (by: fc.Arbitrary<'h' | 'other'>, way: fc.Arbitrary<Way>, answer: fc.Arbitrary<Comes>) =>
  fc.record({ do: fc.constant('write' as const), by, way, ms: fc.constantFrom(0, 0, 300, 1_200), answer })
/** Steps in which answers come so: one that never comes leaves so much in doubt that little else would be tried. */
function stepsWith(answer: fc.Arbitrary<Comes>): fc.Arbitrary<Step[]> {
  const by = fc.constantFrom<'h' | 'other'>('h', 'h', 'h', 'h', 'other')
  const ways = ['new', 'new', 'new, nothing changed', 'old', 'old, nothing changed', 'batch'] as const
  const write = writeBy(by, fc.constantFrom(...ways), answer)
  const run = fc.record({
    do: fc.constant('run' as const),
    coalesced: fc.constantFrom(1, 1, 2, 3),
    meanwhile: fc.option(fc.oneof(edit, write, wait), { nil: undefined, freq: 3 }),
  })
  const step: fc.Arbitrary<Step> = fc.oneof(
    { weight: 8, arbitrary: wait },
    { weight: 8, arbitrary: edit },
    { weight: 16, arbitrary: write },
    { weight: 4, arbitrary: fc.record({ do: fc.constant('answer' as const) }) },
    { weight: 12, arbitrary: deliver },
    { weight: 12, arbitrary: run },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('restart' as const) }) },
  )
  return fc.array(step, { maxLength: 30, size: 'max' })
}

const steps = fc.oneof(
  stepsWith(fc.constant('now')),
  stepsWith(fc.constantFrom('now', 'now', 'now', 'late')),
  stepsWith(fc.constantFrom('now', 'now', 'now', 'late', 'never')),
)

const dataDir = () => temporaryFolder('own-writes')
let deals = 0

/** One deal, its portal, and a handler `h` that ignores its own changes. */
function createWorld(folder: string) {
  const path = queuePath(folder)
  let now = Date.UTC(2026, 10, 23, 8) + 400
  let own = openSqliteOwnChanges({ path, now: () => now })
  const id = ++deals
  let moment = 0
  let record = { id, title: 0, updatedTime: now - 60_000, updatedBy: PERSON }
  let onTheWay = 0
  const arrived: JournalledEvent[] = []
  const answers: (() => Promise<void>)[] = []
  /** When somebody changed the deal of whom `h` has to hear, and when it ran. */
  const news: number[] = []
  const runs: number[] = []

  const second = (ms: number) => new Date(Math.floor(ms / 1000) * 1000).toISOString()
  const told = () => ({ ...record, updatedTime: second(record.updatedTime) })
  const event = (): JournalledEvent => ({
    level: 30,
    time: new Date(now).toISOString(),
    msg: '',
    id: String(moment),
    event: 'ONCRMDEALUPDATE',
    object: `deal:${id}`,
    event_handler_id: '312',
    auth: { member_id: 'one' },
    remote: '::1',
  })

  function change(user: string): void {
    record = { ...record, title: ++moment, updatedTime: now, updatedBy: user }
  }

  async function writeOnce(by: 'h' | 'other', way: Way, ms: number, comes: Comes): Promise<void> {
    const isNew = way.startsWith('new') || way === 'batch'
    const command = { method: isNew ? 'crm.item.update' : 'crm.deal.update', params: { entityTypeId: 2, id } }
    const remember = await own.sending({ handler: by, event: event(), user: HOOK }, [command])
    const start = now / 1000
    now += ms
    const results = (way === 'batch' ? [1, 2] : [1]).map(() => {
      if (!way.includes('nothing')) change(HOOK)
      return isNew ? { item: told() } : true
    })
    if (!way.includes('nothing')) {
      onTheWay++
      if (by !== 'h') news.push(moment)
    }
    now += ms
    const time = { start, finish: now / 1000 }
    const answer = async () => void (await remember(results.map((result) => ({ ...command, result, time }))))
    if (comes === 'late') answers.push(answer)
    if (comes === 'now') await answer()
  }

  async function runOne(coalesced: number, meanwhile: Step | undefined): Promise<void> {
    const together = arrived.splice(0, coalesced)
    const newest = together.at(-1)
    if (newest === undefined) return
    const verdict = await own.judge({ handler: 'h', event: newest, coalesced: together.length }, async () => {
      const item = told()
      if (meanwhile) await take(meanwhile)
      return { item }
    })
    if (verdict === 'run') runs.push(++moment)
  }

  async function take(one: Step): Promise<void> {
    if (one.do === 'wait') now += one.ms
    else if (one.do === 'edit') {
      change(PERSON)
      news.push(moment)
      onTheWay++
    } else if (one.do === 'write') await writeOnce(one.by, one.way, one.ms, one.answer)
    else if (one.do === 'answer') await answers.shift()?.()
    else if (one.do === 'deliver' && onTheWay > 0) {
      // Whose event it is nobody can see: they are all the same.
      if (!one.isTwice) onTheWay--
      arrived.push(event())
    } else if (one.do === 'run') await runOne(one.coalesced, one.meanwhile)
    else if (one.do === 'restart') {
      // Long enough for what was under way to be done, and never answered.
      now += 1_000
      answers.length = 0
      await own.close()
      own = openSqliteOwnChanges({ path, now: () => now })
    }
  }

  return {
    take,
    news,
    runs,
    async settle(): Promise<void> {
      for (const answer of answers) await answer()
      for (; onTheWay > 0; onTheWay--) arrived.push(event())
      while (arrived.length > 0) await runOne(1, undefined)
    },
    close: () => own.close(),
  }
}

async function live(folder: string, steps: readonly Step[]) {
  const world = createWorld(folder)
  for (const one of steps) await world.take(one)
  await world.settle()
  await world.close()
  return world
}

const numRuns = process.env['ROUNDS'] ? 5_000 : 500

async function folderWithQueue(): Promise<string> {
  const folder = dataDir()
  await openSqliteQueue({ path: queuePath(folder) }).close()
  return folder
}

test('whatever the order of writes and events, an edit of someone else is followed by a run after it', async () => {
  const folder = await folderWithQueue()
  await fc.assert(
    fc.asyncProperty(steps, async (all) => {
      const { news, runs } = await live(folder, all)
      expect(runs.at(-1) ?? 0).toBeGreaterThanOrEqual(news.at(-1) ?? 0)
    }),
    { numRuns },
  )
})

test('while only the handler writes nothing runs, in whatever order and however late the events come', async () => {
  const folder = await folderWithQueue()
  const ours = writeBy(
    fc.constant('h'),
    fc.constantFrom('new', 'new', 'new, nothing changed', 'batch'),
    fc.constant('now'),
  )
  const once = deliver.map((one) => ({ ...one, isTwice: false }))
  const alone = fc.record({
    do: fc.constant('run' as const),
    coalesced: fc.constant(1),
    meanwhile: fc.constant(undefined),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(fc.oneof(wait, ours, once, alone), { maxLength: 40 }), async (all) => {
      expect((await live(folder, all)).runs).toEqual([])
    }),
    { numRuns },
  )
})
