import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createCluster, idsByObject, marking, marksIn, violationsOf } from '../support/cluster.ts'
import { dispatcherOf, isGone } from '../support/dispatcher.ts'
import { type Postgres, startPostgres } from '../support/postgres.ts'
import { createRandom } from '../support/random.ts'
import { dealBody, type Receiver, temporaryFolder, until } from '../support/receiver.ts'

/** `npm run test:crash` does all that is asked for; a short round is for every day. */
const isLong = process.env['ROUNDS'] !== undefined
const count = isLong ? 20_000 : 1_000
const objects = isLong ? 500 : 50

let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres()
})
afterAll(() => postgres.remove())

test('of receivers and workers killed at random nothing is lost, doubled beside itself or out of order', async () => {
  const random = createRandom()
  const folder = temporaryFolder('kills')
  const cluster = await createCluster({
    postgres,
    handlers: { 'ONCRMDEALUPDATE.mjs': marking(folder, 'await sleep(Math.random() * 20)') },
    env: { HANDLER_STALL: '1s' },
  })
  const receivers = [await cluster.startReceiver(), await cluster.startReceiver()]
  const workers: Receiver[] = await Promise.all([1, 2, 3].map(() => cluster.startWorker()))
  let isOver = false
  const killing = (async () => {
    while (!isOver) {
      await sleep(500 + random(1_500))
      const victim = random(workers.length)
      const fate = random(10)
      if (fate < 5) {
        // The machine.
        workers[victim]?.killGroup('SIGKILL')
        workers[victim] = await cluster.startWorker()
      } else if (fate < 9) {
        // What runs the handlers, or what forwards.
        const any = [...workers, ...receivers][random(5)]
        // After some kills its supervisor takes its time.
        const dispatcher = any && (await dispatcherOf(any).catch(() => undefined))
        if (dispatcher !== undefined && !isGone(dispatcher)) process.kill(dispatcher, 'SIGKILL')
      } else {
        const number = victim % 2
        const old = receivers[number]
        if (old === undefined) continue
        old.killGroup('SIGKILL')
        await old.exited
        receivers[number] = await cluster.startReceiver({ dataDir: old.dataDir, env: { PORT: String(old.port) } })
      }
    }
  })()
  // The posts of an object all go to one receiver: those of two have no order between them.
  const next = { at: 0 }
  const post = async () => {
    while (next.at < count) {
      const object = next.at++ % objects
      const send = async () => (await receivers[object % 2]?.post(dealBody(object + 1)))?.status === 200
      await until('an answer', () => send().catch(() => false))
    }
  }
  await Promise.all([post(), post(), post(), post()])
  await sleep(2_000)
  isOver = true
  await killing
  const journals = await Promise.all(receivers.map((receiver) => receiver.journal()))
  // A post whose answer was lost with its receiver may be there twice.
  expect(journals.flat().length).toBeGreaterThanOrEqual(count)
  await cluster.drained(journals.flat().length)
  const events = idsByObject(journals.flat())
  expect(violationsOf(marksIn(folder), events)).toEqual({ lost: [], overlaps: [], disordered: [] })
})
