import { pino } from 'pino'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { openPgBossQueue } from '../../src/dispatch/pg-boss-queue.ts'
import { type Database, openDatabase } from '../../src/dispatch/pg-database.ts'
import { type Postgres, startPostgres } from '../support/postgres.ts'
import { describeQueue } from '../support/queue-contract.ts'
import { checkQueue } from '../support/queue-model.ts'

/** `npm run test:crash` does not run this one; ROUNDS=25 makes it long all the same. */
const rounds = Number(process.env['ROUNDS'] ?? 2)

const log = pino({ level: 'error' })
let postgres: Postgres
let installed: string

beforeAll(async () => {
  postgres = await startPostgres({ flags: ['-c', 'fsync=off'] })
  installed = await postgres.createDatabase()
  await (await openDatabase({ url: postgres.url(installed), log })).close()
}, 60_000)
afterAll(() => postgres.remove())

/** Queues on a database of their own, all by one name: each takes the one before for dead. */
async function openStore(now: () => number) {
  const url = postgres.url(await postgres.createDatabase(installed))
  const opened: Database[] = []
  onTestFinished(() => Promise.all(opened.map((database) => database.close())).then(() => undefined))
  return {
    async open() {
      const database = await openDatabase({ url, log })
      opened.push(database)
      return openPgBossQueue({ database, receiver: 'one', worker: 'one', heartbeat: 45_000, log, now })
    },
    /** The processes before are gone, and so are their connections. */
    forget: () => Promise.all(opened.splice(0).map((database) => database.close())),
  }
}

describeQueue('pg-boss', async (now) => {
  const store = await openStore(now)
  return { queue: await store.open(), reopen: () => store.open() }
})

test('whatever is delivered, claimed, failed, and whenever it crashes, each object is in order, alone, and nothing is lost', {
  timeout: 30_000 + rounds * 10_000,
}, async () => {
  let forgetLast = async (): Promise<unknown> => undefined
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
