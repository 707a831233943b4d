import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createCluster, idsByObject, marking, marksIn, violationsOf } from '../support/cluster.ts'
import { type Postgres, startPostgres } from '../support/postgres.ts'
import { dealBody, temporaryFolder, until } from '../support/receiver.ts'

/** Milliseconds; `npm run test:crash` does all that is asked for. */
const outage = process.env['ROUNDS'] === undefined ? 3_000 : 30_000

let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres()
})
afterAll(() => postgres.remove())

test.each([
  ['stopped', 'SIGINT'],
  ['killed', 'SIGKILL'],
] as const)(
  'Postgres %s under load: every post is answered, and everything is handled in order when it is back',
  async (_, signal) => {
    const folder = temporaryFolder('outage')
    const cluster = await createCluster({
      postgres,
      handlers: { 'ONCRMDEALUPDATE.mjs': marking(folder, 'await sleep(Math.random() * 30)') },
    })
    const receiver = await cluster.startReceiver({ env: { RUN_HANDLERS: 'on' } })
    const worker = await cluster.startWorker()
    let isOver = false
    let answered = 0
    const load = (async () => {
      while (!isOver) {
        expect((await receiver.post(dealBody(1 + (answered % 20)))).status).toBe(200)
        answered++
        await sleep(5)
      }
    })()
    await until('some runs', () => marksIn(folder).length > 50)
    await postgres.end(signal)
    const before = answered
    await expect.poll(receiver.readyz).toMatchObject({
      status: 'degraded',
      dispatcher: expect.stringMatching(/connect|terminat|shut|closed/i),
    })
    await until('many posts meanwhile', () => answered > before + 100)
    await sleep(outage)
    await postgres.start()
    await expect.poll(receiver.readyz).toMatchObject({ status: 'ready' })
    await until('some more posts', () => answered > before + 150)
    isOver = true
    await load
    await cluster.drained(answered)
    const events = idsByObject(await receiver.journal())
    expect([...events.values()].flat()).toHaveLength(answered)
    expect(violationsOf(marksIn(folder), events)).toEqual({ lost: [], overlaps: [], disordered: [] })
    for (const process of [receiver, worker])
      expect([
        ...process.logged('the dispatcher cannot go on'),
        ...process.logged('the dispatcher ended; events wait in the journal'),
      ]).toEqual([])
  },
)
