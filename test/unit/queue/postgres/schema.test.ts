import { pino } from 'pino'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { openDatabase } from '../../../../src/queue/postgres/database.ts'
import { migrate } from '../../../../src/queue/postgres/schema.ts'
import { type Postgres, startPostgres } from '../../../support/postgres.ts'
import { until } from '../../../support/receiver.ts'

const log = pino({ level: 'silent' })
let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres({ flags: ['-c', 'fsync=off'] })
})
afterAll(() => postgres.remove())

test('one that waits while another makes the tables finds them made', async () => {
  const name = await postgres.createDatabase()
  const first = await openDatabase({ url: postgres.url(name), log })
  onTestFinished(() => first.close())
  await first.query('DROP SCHEMA b24_receiver CASCADE')
  const { second, waited } = await first.transaction(async (transaction) => {
    await migrate(transaction)
    const second = openDatabase({ url: postgres.url(name), log })
    second.catch(() => undefined)
    const waited = await until('the other waits', async () => {
      const rows = await postgres.query("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", name)
      return rows.length > 0 ? true : undefined
    })
    return { second: () => second, waited }
  })
  expect(waited).toBe(true)
  const opened = await second()
  expect(await opened.query('SELECT version FROM b24_receiver.version')).toHaveLength(1)
  await opened.close()
})
