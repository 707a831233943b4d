import { readFileSync } from 'node:fs'
import { pino } from 'pino'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { openDatabase } from '../../../../src/queue/postgres/database.ts'
import { openPgBossQueue } from '../../../../src/queue/postgres/queue.ts'
import type { Database } from '../../../../src/queue/postgres/session.ts'
import { type Postgres, startPostgres } from '../../../support/postgres.ts'
import { until } from '../../../support/receiver.ts'
import { deliveryOf, describeQueue, eventOf, here, runEveryState, runsOfEveryState, want } from '../queue-contract.ts'
import { checkQueue } from '../queue-model.ts'

/** `npm run test:crash` does not run this one; ROUNDS=25 makes it long all the same. */
const rounds = Number(process.env['ROUNDS'] ?? 2)

const log = pino({ level: 'error' })
/** Of what a worker says when another has died. */
const silent = pino({ level: 'silent' })
let postgres: Postgres
let installed: string

beforeAll(async () => {
  postgres = await startPostgres({ flags: ['-c', 'fsync=off'] })
  installed = await postgres.createDatabase()
  await (await openDatabase({ url: postgres.url(installed), log })).close()
})
afterAll(() => postgres.remove())

/** Queues on a database of their own, all by one name: each takes the one before for dead. */
async function openStore(now: () => number) {
  const url = postgres.url(await postgres.createDatabase(installed))
  const opened: Database[] = []
  onTestFinished(() => Promise.all(opened.map((database) => database.close())).then(() => undefined))
  return {
    async open() {
      // The process before may still be there; the one before that is gone.
      for (const database of opened.splice(0, opened.length - 1)) await database.close()
      const database = await openDatabase({ url, log })
      opened.push(database)
      return openPgBossQueue({ database, receiver: 'one', worker: 'one', heartbeat: 45_000, log, now })
    },
    /** The processes before are gone, and so are their connections. */
    forget: () => Promise.all(opened.splice(0).map((database) => database.close())),
  }
}

// A test may open many stores one after the other, and a server has connections for few.
let forgetLast = async (): Promise<unknown> => undefined

describeQueue('pg-boss', async (now) => {
  await forgetLast()
  const store = await openStore(now)
  forgetLast = () => store.forget()
  return { queue: await store.open(), reopen: () => store.open() }
})

test('whatever is delivered, fails or crashes, each object is in order and alone, and nothing is lost', async () => {
  const stores = await checkQueue(async (now) => {
    await forgetLast()
    const store = await openStore(now)
    forgetLast = () => store.forget()
    return async () => {
      await store.forget()
      return store.open()
    }
  }, rounds * 10)
  expect(stores).toBeGreaterThanOrEqual(rounds * 10)
})

test.each([
  ['nothing is there', ''],
  ['all was done', "SELECT 'done' AS state, 0 AS ordering_key FROM generate_series(1, 20000)"],
])('what was planned while %s reads no more than its own objects when much is pending', async (_, before) => {
  const name = await postgres.createDatabase(installed)
  const database = await openDatabase({ url: postgres.url(name), log })
  const queue = openPgBossQueue({ database, receiver: 'one', worker: 'one', heartbeat: 45_000, log })
  const round = async (id: number) => {
    await queue.add([deliveryOf(eventOf(id, `deal:${id}`))], here)
    const [delivery] = await queue.claim([want()], 1)
    expect(delivery?.event.id).toBe(String(id))
    if (delivery) await queue.done(delivery)
  }
  const fill = (states: string) =>
    postgres.query(
      `INSERT INTO b24_receiver.delivery
         (event_id, handler, ordering_key, name, event, receiver, segment, created_at, state, ended_at, since, due)
       SELECT state || row_number() OVER (), 'other', ordering_key::text, '', '{}', 'one', 1, 0, state,
         CASE state WHEN 'done' THEN 0 END,
         CASE state WHEN 'waiting' THEN 0 END, CASE state WHEN 'waiting' THEN 1e15 END
       FROM (${states}) AS states`,
      name,
    )
  if (before !== '') {
    await fill(before)
    await postgres.query('VACUUM ANALYZE b24_receiver.delivery', name)
  }
  await round(1)
  await fill("SELECT 'waiting' AS state, id AS ordering_key FROM generate_series(1, 5000) AS id")
  const readSoFar = async () => {
    const sum = "SELECT sum(idx_tup_read) AS read FROM pg_stat_user_indexes WHERE relname = 'delivery'"
    return Number((await postgres.query(sum, name))[0]?.['read'])
  }
  const start = await readSoFar()
  await round(2)
  // A connection that ends tells what it has read.
  await database.close()
  await until('it is told', async () => (await readSoFar()) > start)
  expect((await readSoFar()) - start).toBeLessThan(1_000)
})

describe('two workers', () => {
  /** Two processes on one database, and the first one's heart, which can stop for some of its deliveries. */
  async function startTwo() {
    const name = await postgres.createDatabase(installed)
    const open = async (worker: string) => {
      const database = await openDatabase({ url: postgres.url(name), log })
      onTestFinished(() => database.close())
      const queue = openPgBossQueue({ database, receiver: 'one', worker, heartbeat: 45_000, log: silent })
      return { database, queue, claim: async (limit = 100) => queue.claim([want()], limit) }
    }
    const [first, second, third] = [await open('first'), await open('second'), await open('third')]
    const stopHeart = async (...ids: number[]) => {
      const keys = `SELECT key FROM b24_receiver.delivery WHERE event_id IN (${ids.map((id) => `'${id}'`).join(', ')})`
      await postgres.query(
        `UPDATE b24_receiver_jobs.job SET heartbeat_on = now() - interval '1 hour'
         WHERE (data ->> 'key')::bigint IN (${keys}) AND state = 'active'`,
        name,
      )
      await second.database.boss.supervise()
    }
    const states = async () => {
      const told = "concat_ws(' ', event_id, state, 'by ' || worker)"
      const rows = await postgres.query(`SELECT ${told} AS told FROM b24_receiver.delivery ORDER BY key`, name)
      return rows.map((row) => String(row['told']))
    }
    return { first, second, third, stopHeart, states }
  }

  test('never claim the same, and one object only one of them', async () => {
    const { first, second, states } = await startTwo()
    const add = [1, 1, 2, 2, 3].map((deal, id) => deliveryOf(eventOf(id, `deal:${deal}`)))
    await first.queue.add(add, here)
    const claims = await Promise.all([first.claim(2), second.claim(2), first.claim(2), second.claim(2)])
    const ids = claims.flat().map(({ event }) => event.id)
    expect(ids.toSorted()).toEqual(['0', '2', '4'])
    expect((await states()).filter((state) => state.includes('blocked'))).toEqual(['1 blocked', '3 blocked'])
  })

  test('what a worker without a heartbeat ran in isolation goes to another, and its late report is ignored', async () => {
    const { first, second, stopHeart, states } = await startTwo()
    await first.queue.add(
      [1, 2].map((id) => deliveryOf(eventOf(id, 'deal:1'))),
      here,
    )
    const [dead] = await first.claim()
    expect(await second.queue.reclaim()).toBeUndefined()
    await stopHeart(1)
    const guilty = await second.queue.reclaim()
    expect(guilty).toMatchObject({ event: { id: '1' }, attempt: 1 })
    if (dead) await first.queue.done(dead)
    expect(await states()).toEqual(['1 running by second', '2 blocked'])
    if (guilty) await second.queue.retry(guilty, { due: Date.now(), error: 'it died', alone: true })
    expect(await second.claim()).toMatchObject([{ event: { id: '1' }, attempt: 2 }])
  })

  test('of one whose heart stopped, what it ran together is run again, each alone, uncharged', async () => {
    const { first, second, stopHeart, states } = await startTwo()
    await first.queue.add(
      [1, 2, 3].map((id) => deliveryOf(eventOf(id, `deal:${id}`))),
      here,
    )
    const [one] = await first.claim(2)
    await stopHeart(1, 2)
    expect(await second.queue.reclaim()).toBeUndefined()
    const [quarantined, ...none] = await second.claim()
    expect([quarantined?.event.id, quarantined?.attempt, none]).toEqual(['1', 1, []])
    expect(await second.claim()).toEqual([])
    if (one) await first.queue.done(one)
    expect(await states()).toEqual(['1 running by second', '2 ready', '3 ready'])
  })

  test('a lease that several workers let lapse is given on, and no dead one ends the run of the next', async () => {
    const { first, second, third, stopHeart, states } = await startTwo()
    await first.queue.add(
      [1, 2].map((id) => deliveryOf(eventOf(id, 'deal:1'))),
      here,
    )
    const [dead] = await first.claim()
    await stopHeart(1)
    const next = await second.queue.reclaim()
    expect(next).toMatchObject({ event: { id: '1' } })
    // The same job of pg-boss as the second worker's, fetched once more. It looks for the dead every five seconds at most.
    const last = await until('the third has it', async () => {
      await stopHeart(1)
      return third.queue.reclaim()
    })
    expect(last).toMatchObject({ event: { id: '1' }, attempt: 1 })
    if (dead) await first.queue.done(dead)
    if (next) await second.queue.done(next)
    expect(await states()).toEqual(['1 running by third', '2 blocked'])
    const jobs = await third.database.query("SELECT retry_count FROM b24_receiver_jobs.job WHERE state = 'active'")
    expect(jobs).toMatchObject([{ retry_count: 1 }])
    if (last) await third.queue.done(last)
    expect(await states()).toEqual(['1 done', '2 ready'])
  })

  test('one that lives, and did not say so of one delivery, is not taken for dead', async () => {
    const { first, second, stopHeart, states } = await startTwo()
    await first.queue.add(
      [1, 2].map((id) => deliveryOf(eventOf(id, `deal:${id}`))),
      here,
    )
    const [one, two] = await first.claim()
    await stopHeart(1)
    expect(await second.queue.reclaim()).toBeUndefined()
    expect(await states()).toEqual(['1 running by first', '2 running by first'])
    if (one) await first.queue.done(one)
    if (two) await first.queue.done(two)
    expect(await states()).toEqual(['1 done', '2 done'])
    expect(await second.queue.reclaim()).toBeUndefined()
  })
})

test('an event that cannot be read is claimed by its columns, the others as they are, and is restored', async () => {
  const url = postgres.url(await postgres.createDatabase(installed))
  const database = await openDatabase({ url, log })
  onTestFinished(() => database.close())
  const queue = openPgBossQueue({ database, receiver: 'one', worker: 'one', heartbeat: 45_000, log })
  await queue.add([deliveryOf(eventOf(1, 'deal:1')), deliveryOf(eventOf(2, 'deal:2'))], here)
  await database.query("UPDATE b24_receiver.delivery SET event = '{\"id\":' WHERE event_id = '1'")
  const [damaged, whole] = await queue.claim([want()], 10)
  expect(damaged).toMatchObject({
    unreadable: 'it is not JSON',
    event: { id: '1', event: 'ONCRMDEALUPDATE', object: 'deal:1', auth: { member_id: 'one' } },
  })
  expect(whole).toMatchObject({ event: eventOf(2, 'deal:2') })
  expect(whole?.unreadable).toBeUndefined()
  if (damaged === undefined) throw new Error('it was not claimed')
  await queue.restore(damaged, eventOf(1, 'deal:1'))
  await queue.release(damaged)
  expect(await queue.claim([want()], 10)).toMatchObject([{ event: eventOf(1, 'deal:1'), attempt: 1 }])
})

test('the database of version 7 is migrated: nothing is lost, no ended delivery runs again, in order', async () => {
  const name = await postgres.createDatabase()
  await postgres.query(readFileSync(new URL('../../../fixtures/postgres-7.sql', import.meta.url), 'utf8'), name)
  const database = await openDatabase({ url: postgres.url(name), log })
  onTestFinished(() => database.close())
  const receiver = '019aaf6e-0000-7000-8000-000000000001'
  let now = 1_800_000_000_000
  const queue = openPgBossQueue({ database, receiver, worker: receiver, heartbeat: 45_000, log, now: () => now })
  const ran = await runEveryState(queue, (ms) => {
    now += ms
  })
  expect(ran).toEqual(runsOfEveryState)
})

test('the database of version 7 and a new one have the same tables and functions', async () => {
  const facts = async (name: string) => {
    await (await openDatabase({ url: postgres.url(name), log })).close()
    return postgres.query(
      `SELECT 'column' AS kind, table_name || '.' || column_name AS name, data_type || is_nullable AS how
         FROM information_schema.columns WHERE table_schema = 'b24_receiver'
       UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'b24_receiver'
       UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
         WHERE connamespace = 'b24_receiver'::regnamespace AND contype <> 'n'
       UNION ALL SELECT 'function', proname, pg_get_functiondef(oid) FROM pg_proc
         WHERE pronamespace = 'b24_receiver'::regnamespace
       ORDER BY kind, name`,
      name,
    )
  }
  const old = await postgres.createDatabase()
  await postgres.query(readFileSync(new URL('../../../fixtures/postgres-7.sql', import.meta.url), 'utf8'), old)
  expect(await facts(old)).toEqual(await facts(await postgres.createDatabase()))
})

test('rows that were revived without their event are claimed as unreadable, and cannot be made any more', async () => {
  const name = await postgres.createDatabase()
  const run = (sql: string) => postgres.query(sql, name)
  // That of before the CHECK.
  await run(readFileSync(new URL('../../../fixtures/postgres-4.sql', import.meta.url), 'utf8'))
  const put = (id: number, object: string | null, state: string, event: object | null) =>
    run(`INSERT INTO b24_receiver.delivery (event_id, handler, lane, name, event, receiver, segment, state, created_at, due)
      VALUES ('${id}', 'h', ${object === null ? 'NULL' : `'["one","${object}"]'`}, 'ONCRMDEALUPDATE',
        ${event === null ? 'NULL' : `'${JSON.stringify(event)}'`}, 'one', 1, '${state}', 1000,
        ${state === 'waiting' ? 2000 : 'NULL'})`)
  await put(1, 'deal:1', 'waiting', null)
  await put(2, 'deal:1', 'blocked', eventOf(2, 'deal:1'))
  await put(3, 'deal:1', 'blocked', eventOf(3, 'deal:1'))
  await put(4, 'deal:4', 'running', null)
  await put(5, 'deal:5', 'done', null)
  await put(6, null, 'waiting', null)
  const database = await openDatabase({ url: postgres.url(name), log })
  onTestFinished(() => database.close())
  const parts = { database, receiver: 'one', worker: 'one', heartbeat: 45_000, log, now: () => 5_000 }
  const queue = openPgBossQueue(parts)
  while (await queue.reclaim());
  const seen: string[] = []
  for (let some = await queue.claim([want()], 10); some.length > 0; some = await queue.claim([want()], 10))
    for (const delivery of some) {
      seen.push(`${delivery.event.id} ${delivery.unreadable === undefined ? 'whole' : 'unreadable'}`)
      await queue.done(delivery)
    }
  expect(seen.toSorted()).toEqual(['1 unreadable', '2 whole', '3 whole', '6 unreadable'])
  await expect(run("UPDATE b24_receiver.delivery SET state = 'waiting' WHERE state = 'done'")).rejects.toThrow(
    'delivery_keeps_event',
  )
})
