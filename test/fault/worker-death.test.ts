import { afterAll, beforeAll, expect, test } from 'vitest'
import { createCluster, marking, marksIn } from '../support/cluster.ts'
import { dispatcherOf } from '../support/dispatcher.ts'
import { type Postgres, startPostgres } from '../support/postgres.ts'
import { dealBody, temporaryFolder, until } from '../support/receiver.ts'

let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres()
})
afterAll(() => postgres.remove())

/** The first run of the first event waits for ever; the others end. */
const hanging = 'if (attempt === 1 && lines() === 1) await new Promise((resolve) => setTimeout(resolve, 600_000))'
const handlerIn = (folder: string) =>
  `import { readFileSync } from 'node:fs'
const lines = () => readFileSync(${JSON.stringify(`${folder}/runs`)}, 'utf8').split('\\n').length - 1
${marking(folder, hanging)}`

const runsOf = (folder: string) =>
  marksIn(folder).map(({ what, object, attempt }) => `${what} ${object} attempt ${attempt}`)

test('what ran on a machine that dies runs on another one, in order, and one attempt is charged', async () => {
  const folder = temporaryFolder('death')
  const cluster = await createCluster({
    postgres,
    handlers: { 'ONCRMDEALUPDATE.mjs': handlerIn(folder) },
    // The time is HANDLER_STALL and 15 s; some more until somebody looks. No shorter: a slow machine, too, may hold a loop.
    env: { HANDLER_STALL: '4s' },
  })
  const receiver = await cluster.startReceiver()
  const first = await cluster.startWorker({ env: { CONCURRENCY: '1' } })
  await receiver.post(dealBody(1))
  await until('its run', () => marksIn(folder).length === 1)
  const second = await cluster.startWorker()
  await receiver.post(dealBody(1))
  await receiver.post(dealBody(2))
  await until('another object', () => runsOf(folder).includes('end deal:2 attempt 1'))
  first.killGroup('SIGKILL')
  await cluster.drained(3)
  expect(runsOf(folder)).toEqual([
    'begin deal:1 attempt 1',
    'begin deal:2 attempt 1',
    'end deal:2 attempt 1',
    'begin deal:1 attempt 2',
    'end deal:1 attempt 2',
    'begin deal:1 attempt 1',
    'end deal:1 attempt 1',
  ])
  await expect
    .poll(() => second.logged('failed, will be tried again'))
    .toMatchObject([{ attempt: 1, err: { message: 'the dispatcher died while this ran' } }])
})

test('a process of handlers that dies is known to be dead as soon as its successor starts', async () => {
  const folder = temporaryFolder('death')
  const cluster = await createCluster({
    postgres,
    handlers: { 'ONCRMDEALUPDATE.mjs': handlerIn(folder) },
    // So long, and 15 s, others would wait for a sign of it.
    env: { HANDLER_STALL: '10m' },
  })
  const receiver = await cluster.startReceiver({ env: { RUN_HANDLERS: 'on' } })
  await receiver.post(dealBody(1))
  await until('its run', () => marksIn(folder).length === 1)
  process.kill(await dispatcherOf(receiver), 'SIGKILL')
  await cluster.drained(1)
  expect(runsOf(folder)).toEqual(['begin deal:1 attempt 1', 'begin deal:1 attempt 2', 'end deal:1 attempt 2'])
})
