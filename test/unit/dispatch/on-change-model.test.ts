import { join } from 'node:path'
import { expect, test } from 'vitest'
import { judgeChange } from '../../../src/dispatch/on-change.ts'
import type { Delivery } from '../../../src/queue/queue.ts'
import { openSqliteQueue } from '../../../src/queue/sqlite/queue.ts'
import { fc } from '../../support/random.ts'
import { temporaryFolder } from '../../support/receiver.ts'
import { deliveryOf, eventOf, here, want } from '../queue/queue-contract.ts'

/** How a run ends. What is killed later has done more: before the handler, in the middle of it, and behind its end. */
const endings = [
  'done',
  'done',
  'done',
  'fails',
  'is given up',
  'is released',
  'waits for its incoming webhook',
] as const
const kills = ['is killed before it begins', 'is killed', 'is killed behind its end'] as const
type Ending = (typeof endings)[number] | (typeof kills)[number]

type Step =
  | { readonly do: 'move'; readonly to: string }
  | { readonly do: 'edit' }
  | { readonly do: 'deliver' }
  | { readonly do: 'replay' }
  | { readonly do: 'run'; readonly ending: Ending; readonly meanwhile: string | undefined }

const stage = fc.constantFrom('NEW', 'WON', 'LOSE')
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('move'), to: stage }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('edit') }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('deliver') }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('replay') }) },
  {
    weight: 7,
    arbitrary: fc.record({
      do: fc.constant('run'),
      ending: fc.constantFrom<Ending>(...endings, ...kills),
      meanwhile: fc.option(stage, { nil: undefined, freq: 4 }),
    }),
  },
)

/** One deal and a handler that copies its stage, which it does at once and may fail all the same. */
function createWorld(path: string, coalesce: boolean) {
  let queue = openSqliteQueue({ path, now: () => 1_000 })
  const deal = { id: 5, stageId: 'NEW', title: '0' }
  let copy: string | undefined
  let onTheWay = 1
  let events = 0
  /** What the handler has last completed with, and whether it began again since. */
  let completed: string | undefined
  let isBegun = false

  function move(to: string): void {
    if (deal.stageId === to) return
    deal.stageId = to
    onTheWay++
  }

  const arrive = (id = ++events) => queue.add([deliveryOf(eventOf(id, 'deal:5'))], here)

  async function die(): Promise<void> {
    await queue.close()
    queue = openSqliteQueue({ path, now: () => 1_000 })
    const guilty = await queue.reclaim()
    if (guilty) await queue.retry(guilty, { due: 1_000, error: 'it died', alone: true })
  }

  async function end(delivery: Delivery, ending: Ending): Promise<void> {
    if (ending === 'fails') await queue.retry(delivery, { due: 1_000, error: 'no' })
    else if (ending === 'is given up') await queue.dead(delivery, 'no')
    else if (ending === 'is released') await queue.release(delivery)
    else if (ending === 'waits for its incoming webhook') await queue.postpone(delivery, { due: 1_000, error: 'no' })
    else await die()
  }

  async function run(ending: Ending, meanwhile?: string): Promise<boolean> {
    const [delivery] = await queue.claim([want('h', { coalesce })], 1)
    if (delivery === undefined) return false
    const verdict = await judgeChange({
      delivery,
      names: ['stageId'],
      first: 'run',
      queue,
      readRecord: async () => ({ ...deal }),
    })
    const { stageId } = deal
    expect(verdict.verdict).toBe(completed !== stageId || isBegun ? 'run' : 'unchanged')
    if (verdict.verdict !== 'run') await queue.done(delivery, verdict.snapshot)
    else if (ending === 'is killed before it begins') await die()
    else {
      expect(verdict.previous).toEqual(completed === undefined ? undefined : { stageId: completed })
      if (meanwhile) move(meanwhile)
      copy = stageId
      isBegun = completed !== undefined
      if (ending !== 'done') await end(delivery, ending)
      else {
        await queue.done(delivery, verdict.snapshot)
        completed = stageId
        isBegun = false
      }
    }
    // Whether it began nobody can know: it might have.
    if (verdict.verdict === 'run' && ending === 'is killed before it begins') isBegun = completed !== undefined
    return true
  }

  return {
    deal,
    copied: () => copy,
    async take(one: Step): Promise<void> {
      if (one.do === 'move') move(one.to)
      else if (one.do === 'edit') {
        deal.title += '!'
        onTheWay++
      } else if (one.do === 'deliver' && onTheWay > 0) {
        onTheWay--
        await arrive()
      } else if (one.do === 'replay') await arrive()
      else if (one.do === 'run') await run(one.ending, one.meanwhile)
    },
    /** Everything that is on its way arrives, and nothing fails any more. */
    async settle(): Promise<void> {
      for (; onTheWay > 0; onTheWay--) await arrive()
      while (await run('done'));
      await queue.close()
    },
  }
}

test('whatever fails or is killed, a run begins where a change is not dealt with, and only there', async () => {
  const folder = temporaryFolder('on-change')
  let files = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40, size: 'max' }), fc.boolean(), async (steps, coalesce) => {
      const world = createWorld(join(folder, `${++files}.db`), coalesce)
      for (const one of steps) await world.take(one)
      await world.settle()
      expect(world.copied()).toBe(world.deal.stageId)
    }),
    { numRuns: process.env['ROUNDS'] ? 2_000 : 100 },
  )
})
