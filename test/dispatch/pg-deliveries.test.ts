import { pino } from 'pino'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { openPgBossQueue } from '../../src/dispatch/pg-boss-queue.ts'
import { openDatabase } from '../../src/dispatch/pg-database.ts'
import { openPgDeliveries } from '../../src/dispatch/pg-deliveries.ts'
import { type Postgres, startPostgres } from '../support/postgres.ts'
import { deliveryOf, eventOf, here, known, want } from '../support/queue-contract.ts'

const log = pino({ level: 'error' })
let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres({ flags: ['-c', 'fsync=off'] })
}, 60_000)
afterAll(() => postgres.remove(), 30_000)

/** A worker's queue, and the tool beside it. */
async function start() {
  const url = postgres.url(await postgres.createDatabase())
  const clock = { now: 1_000_000 }
  const parts = { receiver: 'one', heartbeat: 45_000, now: () => clock.now }
  const database = await openDatabase({ url, log })
  const queue = openPgBossQueue({ ...parts, database, worker: 'one', log })
  const tool = await openPgDeliveries({ ...parts, url })
  onTestFinished(async () => {
    await tool.close()
    await queue.close()
    await database.close()
  })
  const claim = async () => queue.claim([want()], 100)
  const run = async () => {
    const [delivery] = await claim()
    if (delivery === undefined) throw new Error('nothing was claimed')
    return delivery
  }
  return { clock, queue, tool, claim, run, ids: async () => (await claim()).map(({ event }) => event.id) }
}

test('a dead delivery is listed, with each of its failures, and chosen by handler, event and object', async () => {
  const { clock, queue, tool, run } = await start()
  await queue.add([deliveryOf(eventOf(1, 'deal:1'))], { segment: 7, offset: 4711 })
  await queue.retry(await run(), { due: clock.now, error: 'first' })
  await queue.dead(await run(), 'second')
  const [dead, ...none] = await tool.dead({})
  expect(none).toEqual([])
  expect(dead).toMatchObject({ event: '1', object: 'deal:1', handler: 'h', run: 1, attempts: 2, error: 'second' })
  expect(dead && (await tool.failures(dead))).toEqual([
    { attempt: 1, at: clock.now, error: 'first' },
    { attempt: 2, at: clock.now, error: 'second' },
  ])
  for (const other of [{ handler: 'other' }, { events: ['2'] }, { object: 'deal:2' }])
    expect(await tool.dead(other)).toEqual([])
  expect(await tool.dead({ handler: 'h', events: ['1'], object: 'deal:1' })).toEqual([dead])
  expect(await tool.position()).toEqual({ segment: 7, offset: 4711 })
})

test('one that is retried goes behind what waits for its object, with all its attempts', async () => {
  const { queue, tool, run, claim } = await start()
  await queue.add(
    [1, 2, 3].map((id) => deliveryOf(eventOf(id, 'deal:1'))),
    here,
  )
  await queue.dead(await run(), 'no')
  const second = await run()
  expect(await tool.retry(await tool.dead({}))).toBe(1)
  expect(await tool.retry(await tool.dead({}))).toBe(0)
  await queue.done(second)
  await queue.done(await run())
  expect(await claim()).toMatchObject([{ event: { id: '1' }, attempt: 1 }])
  const [old, again] = await tool.ofEvent('1')
  expect(old).toMatchObject({ run: 1, state: 'coalesced', coalescedInto: again?.key, error: 'no' })
  expect(again).toMatchObject({ run: 2, state: 'running' })
})

test('one that is dropped is gone; only of those that are dead', async () => {
  const { queue, tool, run, ids } = await start()
  await queue.add(
    [1, 2].map((id) => deliveryOf(eventOf(id, 'deal:1'))),
    here,
  )
  await queue.dead(await run(), 'no')
  const dead = await tool.dead({})
  expect(await tool.drop([...dead, ...(await tool.ofEvent('2'))])).toBe(1)
  expect(await tool.dead({})).toEqual([])
  expect(await ids()).toEqual(['2'])
})

test('a replay adds another run, whatever ran before, and wakes who waits for something to do', async () => {
  const { queue, tool, run, ids } = await start()
  const once = deliveryOf(eventOf(1, 'deal:1'))
  await queue.add([once], here)
  await queue.done(await run())
  const woken = Promise.withResolvers<void>()
  queue.watch({ changed: woken.resolve, died: () => undefined })
  await tool.replay([once])
  await tool.replay([once])
  await woken.promise
  expect(await ids()).toEqual(['1'])
  expect((await tool.ofEvent('1')).map(({ run: number, state }) => `${number} ${state}`)).toEqual([
    '1 done',
    '2 running',
    '3 blocked',
  ])
})

test('a handler that is forgotten is owed nothing any more, and what was ready for it runs nowhere', async () => {
  const { queue, tool, ids } = await start()
  await queue.remember([known('h', { onChange: true }), known('other')])
  await queue.add(
    [1, 2].map((id) => deliveryOf(eventOf(id, 'deal:1'))),
    here,
  )
  expect(await tool.handlers()).toMatchObject([
    { name: 'h', owed: 2, dead: 0 },
    { name: 'other', owed: 0 },
  ])
  expect(await tool.forget('h')).toBe(2)
  expect((await tool.handlers()).map(({ name }) => name)).toEqual(['other'])
  expect(await ids()).toEqual([])
  expect(await tool.state()).toMatchObject({ ready: 0, blocked: 0 })
})

test('texts that Postgres cannot keep are kept nearly, and stop nothing', async () => {
  const { queue, tool, run } = await start()
  await queue.add([deliveryOf({ ...eventOf(1, 'deal:\0'), msg: 'half of \ud83d and \0' })], here)
  const delivery = await run()
  expect(delivery.event.msg).toBe('half of \ud83d and \0')
  await queue.dead(delivery, 'it \0 failed \ud83d')
  expect(await tool.dead({})).toMatchObject([{ error: 'it \ufffd failed \ufffd' }])
})
