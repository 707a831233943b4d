import { pino } from 'pino'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { openPgBudget } from '../../../../src/queue/postgres/budget.ts'
import { openDatabase } from '../../../../src/queue/postgres/database.ts'
import { createClock } from '../../../support/clock.ts'
import { type Postgres, startPostgres } from '../../../support/postgres.ts'
import { until } from '../../../support/receiver.ts'

const log = pino({ level: 'silent' })
let postgres: Postgres
let installed: string
beforeAll(async () => {
  postgres = await startPostgres({ flags: ['-c', 'fsync=off'] })
  installed = await postgres.createDatabase()
  await (await openDatabase({ url: postgres.url(installed), log })).close()
})
afterAll(() => postgres.remove())

/** Workers with one clock, which is the database's too, and when each of their turns was. */
async function openWorkers(count: number, { rate = 2, burst = 50 } = {}) {
  const name = await postgres.createDatabase(installed)
  const clock = createClock()
  const hour = 3_600_000
  const database = { ahead: 0 }
  const workers = await Promise.all(
    Array.from({ length: count }, async () => {
      const own = await openDatabase({ url: postgres.url(name), log })
      onTestFinished(() => own.close())
      const now = () => hour + database.ahead + clock.now()
      return openPgBudget({ database: own, portal: 'one.bitrix24.com', log, now, rate, burst, clock })
    }),
  )
  const turns: number[] = []
  const query = (sql: string) => postgres.query(sql, name)
  return {
    workers,
    clock,
    turns,
    query,
    url: postgres.url(name),
    /** Puts the database's clock so far, in milliseconds. */
    putClock: (ms: number) => {
      database.ahead += ms
    },
    ask: (worker: number, signal?: AbortSignal): Promise<void> =>
      Promise.resolve(workers[worker]?.take(signal)).then(() => void turns.push(clock.now())),
    /** Of those who ask for turns, each knows when its next one is. */
    allWait: () => until('all wait', () => clock.sleeping() === workers.filter((worker) => worker.waiting > 0).length),
  }
}

/** When each turn is: the burst at once, and then as many a second as the rate says. */
const atLimit = (count: number, { rate = 2, burst = 50 } = {}) =>
  Array.from({ length: count }, (_, turn) => (Math.max(0, turn + 1 - burst) * 1000) / rate)

test.each([
  ['one worker of three that calls alone has', [60, 0, 0]],
  ['three workers that call at once have together', [30, 30, 30]],
  ['a worker that calls much and one that calls little have together', [70, 5, 0]],
])('%s the whole burst at once and then the whole rate, and never more', async (_, asked) => {
  const { ask, allWait, clock, turns } = await openWorkers(3)
  const count = asked.reduce((sum, many) => sum + many)
  const all = Promise.all(asked.flatMap((many, worker) => Array.from({ length: many }, () => ask(worker))))
  await until('the burst', () => turns.length === 50)
  while (turns.length < count) {
    const before = turns.length
    await allWait()
    expect(turns).toHaveLength(before)
    await clock.skip()
    await until('a turn', () => turns.length > before)
  }
  await all
  expect(turns).toEqual(atLimit(count))
})

test('of workers that ask at the same moment each turn counts', async () => {
  const { workers, ask, turns, query } = await openWorkers(4, { rate: 2, burst: 1_000 })
  const askOften = async (worker: number) => {
    for (let turn = 0; turn < 100; turn++) await ask(worker)
  }
  await Promise.all(workers.map((_, worker) => askOften(worker)))
  expect(turns).toHaveLength(400)
  expect(await query('SELECT level FROM b24_receiver.budget')).toEqual([{ level: 400 }])
})

test('workers of which each has calls waiting take turns', async () => {
  const { workers, ask, allWait, clock, turns } = await openWorkers(3, { rate: 2, burst: 1 })
  for (const worker of [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]) void ask(worker)
  await until('the first', () => turns.length === 1)
  for (let round = 0; round < 6; round++) {
    await allWait()
    await clock.skip()
    await until('a turn', () => turns.length === round + 2)
  }
  expect(workers.map(({ waiting }) => waiting).toSorted((a, b) => a - b)).toEqual([1, 2, 2])
})

test('portals have nothing to do with each other', async () => {
  const { workers, ask, url, clock, turns } = await openWorkers(1, { rate: 2, burst: 1 })
  const database = await openDatabase({ url, log })
  onTestFinished(() => database.close())
  await ask(0)
  void ask(0)
  await openPgBudget({ database, portal: 'two.bitrix24.com', log, rate: 2, burst: 1, clock }).take()
  expect(turns).toEqual([0])
  expect(workers[0]?.waiting).toBe(1)
})

test('after a refusal no worker calls until its penalty is over, and then all keep to the rate', async () => {
  const { workers, ask, allWait, clock, turns, query } = await openWorkers(2)
  await ask(0)
  workers[0]?.penalise(1_000)
  await until('it is told', async () => (await query('SELECT FROM b24_receiver.budget WHERE level = 50')).length > 0)
  for (const _ of [1, 2]) void ask(1)
  for (const turn of [2, 3]) {
    await allWait()
    await clock.skip()
    await until('a turn', () => turns.length === turn)
  }
  expect(turns).toEqual([0, 1_500, 2_000])
})

test('who gives up while waiting leaves at once with the reason, and his turn is that of the next', async () => {
  const { workers, ask, allWait, clock, turns } = await openWorkers(1, { rate: 1, burst: 1 })
  await ask(0)
  const giveUp = new AbortController()
  const left = ask(0, giveUp.signal).catch((error: unknown) => error)
  await allWait()
  const stays = ask(0)
  giveUp.abort(new Error('given up'))
  expect(await left).toEqual(new Error('given up'))
  expect(workers[0]?.waiting).toBe(1)
  await clock.skip()
  await stays
  expect(turns).toEqual([0, 1_000])
  await expect(ask(0, AbortSignal.abort(new Error('given up')))).rejects.toThrow('given up')
  expect(workers[0]?.waiting).toBe(0)
})

test('without an answer of the database for some seconds each worker goes at the rate, without a burst', async () => {
  const { ask, clock, turns, url, query } = await openWorkers(1)
  const levels = () => query('SELECT level FROM b24_receiver.budget')
  await ask(0)
  const other = await openDatabase({ url, log })
  onTestFinished(() => other.close())
  await other.transaction(async (transaction) => {
    await transaction.query('LOCK TABLE b24_receiver.budget')
    for (const turn of [2, 3, 4]) {
      const asked = ask(0)
      await clock.skip()
      await asked
      expect(turns).toHaveLength(turn)
    }
    expect(await query('SELECT FROM pg_locks WHERE NOT granted')).toHaveLength(1)
  })
  expect(turns).toEqual([0, 500, 1_000, 1_500])
  // What was asked of it in vain counts.
  await until('it answers', async () => Number((await levels())[0]?.['level']) === 2)
  clock.move(60_000)
  await ask(0)
  expect(await levels()).toEqual([{ level: 1 }])
})

test("a database's clock that is put back by an hour delays no worker for longer than some seconds", async () => {
  const { ask, clock, turns, putClock } = await openWorkers(1)
  await ask(0)
  putClock(-3_600_000)
  const asked = ask(0)
  await clock.skip()
  await asked
  expect(turns[1]).toBeLessThanOrEqual(10_000)
})

test('what a crash of the database has wiped out is begun again', async () => {
  const { ask, query, turns } = await openWorkers(1, { rate: 2, burst: 2 })
  await ask(0)
  await query('DELETE FROM b24_receiver.budget')
  await ask(0)
  expect(turns).toEqual([0, 0])
  expect(await query('SELECT level FROM b24_receiver.budget')).toEqual([{ level: 1 }])
})
