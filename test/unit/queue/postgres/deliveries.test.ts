import { pino } from 'pino'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { openDatabase } from '../../../../src/queue/postgres/database.ts'
import { openPgDeliveries } from '../../../../src/queue/postgres/deliveries.ts'
import { openPgBossQueue } from '../../../../src/queue/postgres/queue.ts'
import { type Postgres, startPostgres } from '../../../support/postgres.ts'
import { describeDeliveries } from '../deliveries-contract.ts'
import { deliveryOf, eventOf, here, want } from '../queue-contract.ts'

const log = pino({ level: 'error' })
let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres({ flags: ['-c', 'fsync=off'] })
  installed = await postgres.createDatabase()
  await (await openDatabase({ url: postgres.url(installed), log })).close()
})
afterAll(() => postgres.remove())

let installed: string

/** A worker's queue, and the tool beside it. */
async function start(now: () => number) {
  const url = postgres.url(await postgres.createDatabase(installed))
  const parts = { receiver: 'one', heartbeat: 45_000, now }
  const database = await openDatabase({ url, log })
  onTestFinished(() => database.close())
  const queue = openPgBossQueue({ ...parts, database, worker: 'one', log })
  onTestFinished(async () => queue.close())
  const deliveries = await openPgDeliveries({ ...parts, url, mode: 'write' })
  onTestFinished(async () => deliveries.close())
  return { queue, deliveries, close: () => database.close() }
}

describeDeliveries('postgres', start, 8)

test('texts that Postgres cannot keep are kept nearly, and stop nothing', async () => {
  const { queue, deliveries } = await start(() => 1_000_000)
  await queue.add([deliveryOf({ ...eventOf(1, 'deal:\0'), msg: 'half of \ud83d and \0' })], here)
  const [delivery] = await queue.claim([want()], 1)
  expect(delivery?.event.msg).toBe('half of \ud83d and \0')
  if (delivery) await queue.dead(delivery, 'it \0 failed \ud83d')
  expect(await deliveries.dead({})).toMatchObject([{ error: 'it \ufffd failed \ufffd' }])
})
