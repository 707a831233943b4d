import { pino } from 'pino'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { openDatabase } from '../../../../src/queue/postgres/database.ts'
import { openPgLoopBreaker } from '../../../../src/queue/postgres/loop-breaker.ts'
import { openPgOwnChanges } from '../../../../src/queue/postgres/own-changes.ts'
import { type Postgres, startPostgres } from '../../../support/postgres.ts'
import { describeOwnChanges } from '../own-changes-contract.ts'

const log = pino({ level: 'error' })
let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres({ flags: ['-c', 'fsync=off'] })
})
afterAll(() => postgres.remove())

async function openStore() {
  const url = postgres.url(await postgres.createDatabase())
  return async () => {
    const database = await openDatabase({ url, log })
    onTestFinished(() => database.close())
    return database
  }
}

describeOwnChanges(
  'postgres',
  async (now) => {
    const open = await openStore()
    return async () => openPgOwnChanges({ database: await open(), now })
  },
  false,
)

test('a loop that goes round over several workers is throttled for all of them', async () => {
  const clock = { now: Date.UTC(2026, 10, 23, 8) }
  const open = await openStore()
  const parts = { now: () => clock.now }
  const workers = [
    openPgLoopBreaker({ database: await open(), ...parts }),
    openPgLoopBreaker({ database: await open(), ...parts }),
  ]
  let hold: Awaited<ReturnType<(typeof workers)[0]['wrote']>>
  for (let run = 0; hold === undefined && run < 30; run++) {
    clock.now += 1_000
    hold = await workers[run % 2]?.wrote('deal:1')
  }
  expect(hold?.reason).toMatch(/^ran 21 times within a minute/)
  for (const worker of workers) {
    expect(await worker.throttledUntil('deal:1')).toBe(hold?.until)
    expect(await worker.throttledUntil('deal:2')).toBeUndefined()
  }
  clock.now = Number(hold?.until)
  for (const worker of workers) expect(await worker.throttledUntil('deal:1')).toBeUndefined()
})
