import { expect, test } from 'vitest'
import { dealBody, recorder, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

test('who has no DATABASE_URL does not load Postgres', async () => {
  const seen = `${temporaryFolder('seen')}/events`
  const receiver = await startReceiver({
    handlers: { 'all.mjs': recorder(seen) },
    env: { NODE_OPTIONS: `--import=${new URL('../support/preload/report-postgres.ts', import.meta.url).href}` },
  })
  await receiver.post(dealBody(1))
  await until('a run', () => receiver.logged('handled').length === 1)
  await receiver.stop()
  expect(receiver.output()).not.toMatch(/pg(-boss)? is imported/)
})

test('who has one does', async () => {
  const receiver = await startReceiver({
    env: {
      DATABASE_URL: 'postgres://nobody@127.0.0.1:1/nothing',
      NODE_OPTIONS: `--import=${new URL('../support/preload/report-postgres.ts', import.meta.url).href}`,
    },
  })
  await until('it is loaded', () => receiver.output().includes('pg-boss is imported'))
  expect((await receiver.post(dealBody(1))).status).toBe(200)
})
