import { afterAll, beforeAll, expect, test } from 'vitest'
import { createCluster, marking, marksIn } from '../../support/cluster.ts'
import { hasPgBouncer, startPgBouncer } from '../../support/pgbouncer.ts'
import { type Postgres, startPostgres } from '../../support/postgres.ts'
import { dealBody, startReceiver, temporaryFolder, until } from '../../support/receiver.ts'

/** `npm run test:crash` does all that is asked for. */
const restarts = process.env['ROUNDS'] === undefined ? 5 : 25

let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres()
})
afterAll(() => postgres.remove())

/** A receiver that forwards, and a worker, behind PgBouncer. */
async function start(mode: 'session' | 'transaction') {
  const folder = temporaryFolder('bouncer')
  const cluster = await createCluster({ postgres, handlers: { 'ONCRMDEALUPDATE.mjs': marking(folder) } })
  const bouncer = await startPgBouncer({ postgres, mode })
  const env = { DATABASE_URL: bouncer.url(new URL(cluster.url).pathname.slice(1)) }
  const receiver = await cluster.startReceiver({ env: { ...env, RUN_HANDLERS: 'on' } })
  const worker = await cluster.startWorker({ env })
  let posted = 0
  const postSome = async () => {
    for (let i = 0; i < 10; i++) {
      expect((await receiver.post(dealBody(1 + (posted % 7)))).status).toBe(200)
      posted++
    }
  }
  return { folder, cluster, bouncer, receiver, worker, postSome, posted: () => posted }
}

test.skipIf(!hasPgBouncer).each(['session', 'transaction'] as const)(
  'behind PgBouncer in %s mode the dispatchers live through restarts of Postgres and PgBouncer',
  async (mode) => {
    const { folder, cluster, bouncer, receiver, worker, postSome, posted } = await start(mode)
    await postSome()
    await until('some runs', () => marksIn(folder).length > 0)
    for (let restart = 0; restart < restarts; restart++) {
      await postgres.end('SIGINT')
      await postSome()
      await postgres.start()
      await cluster.drained(posted())
    }
    await bouncer.restart()
    await postSome()
    await cluster.drained(posted())
    await expect.poll(receiver.readyz).toMatchObject({ status: 'ready' })
    for (const process of [receiver, worker])
      expect(process.logged('the dispatcher ended; events wait in the journal')).toEqual([])
  },
)

test.skipIf(!hasPgBouncer)('PgBouncer in statement mode is refused by its name, until its mode is right', async () => {
  const database = await postgres.createDatabase()
  const folder = temporaryFolder('statement')
  const bouncer = await startPgBouncer({ postgres, mode: 'statement' })
  const receiver = await startReceiver({
    handlers: { 'ONCRMDEALUPDATE.mjs': marking(folder) },
    env: { DATABASE_URL: bouncer.url(database) },
  })
  await expect.poll(receiver.readyz).toMatchObject({
    status: 'degraded',
    dispatcher: expect.stringMatching(/PgBouncer .*pool_mode = session/),
  })
  expect((await receiver.post(dealBody(1))).status).toBe(200)
  await bouncer.restart('session')
  await until('its run', () => receiver.logged('handled').length === 1)
  expect(receiver.output()).not.toContain('postgres:postgres')
})

test.skipIf(!hasPgBouncer)(
  'a pool that is smaller than what all processes take is named, not said to be ready',
  async () => {
    const cluster = await createCluster({ postgres, handlers: { 'ONCRMDEALUPDATE.mjs': 'export default () => {}' } })
    const bouncer = await startPgBouncer({ postgres, mode: 'session', poolSize: 3 })
    const env = { DATABASE_URL: bouncer.url(new URL(cluster.url).pathname.slice(1)) }
    const receiver = await cluster.startReceiver({ env })
    await expect.poll(receiver.readyz).toMatchObject({ status: 'ready' })
    const other = await cluster.startReceiver({ env: { ...env, RUN_HANDLERS: 'on' } })
    for (let deal = 0; deal < 20; deal++) expect((await receiver.post(dealBody(deal))).status).toBe(200)
    const readiness = async () => JSON.stringify([await receiver.readyz(), await other.readyz()])
    await expect.poll(readiness).toMatch(/no answer for 10 s: .*PgBouncer's pool is smaller/)
  },
)
