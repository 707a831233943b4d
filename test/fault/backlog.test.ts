import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { Queue } from '../../src/queue/queue.ts'
import { openSqliteQueue, queuePath } from '../../src/queue/sqlite/queue.ts'
import { dispatcherOf } from '../support/dispatcher.ts'
import { dealBody, type Receiver, startReceiver, temporaryFolder, until } from '../support/receiver.ts'
import { deliveryOf, eventOf, here, known, pendingOf, want } from '../unit/queue/queue-contract.ts'

/** `npm run test:crash` makes it the 100,000 of the promise; the suite runs a short form. */
const isLong = Number(process.env['ROUNDS'] ?? 2) > 2
const deliveries = isLong ? 100_000 : 10_000
const objects = deliveries / 10
/** Of the objects, so many have had their first event. */
const begun = 0.4 * objects
const handler = 'ONCRMDEALUPDATE'

/** Ten events of each object, one after the other, as a long outage of the handlers leaves them. */
async function fill(queue: Queue): Promise<void> {
  for (let first = 0; first < deliveries; first += 5_000) {
    const batch = Array.from({ length: 5_000 }, (_, index) => first + index)
    await queue.add(
      batch.map((id) => deliveryOf(eventOf(id, `deal:${id % objects}`), { handler })),
      here,
    )
  }
}

/** Milliseconds, 50th and 99th percentile. */
function percentiles(times: readonly number[]): string {
  const sorted = [...times].sort((a, b) => a - b)
  const at = (share: number) => (sorted[Math.floor(share * sorted.length)] ?? Number.NaN).toFixed(2)
  return `p50 ${at(0.5)} ms, p99 ${at(0.99)} ms`
}

async function timesOf(count: number, work: (index: number) => unknown): Promise<string> {
  const times: number[] = []
  for (let index = 0; index < count; index++) {
    const begun = performance.now()
    await work(index)
    times.push(performance.now() - begun)
  }
  return percentiles(times)
}

/** What `npm run test:crash` is run for. */
const figure = (text: string) => void process.stdout.write(`backlog: ${text}\n`)

test('with a long backlog waiting each object is still claimed in order, one at a time', async () => {
  const queue = openSqliteQueue({ path: queuePath(temporaryFolder('queue')) })
  const claimAndEnd = async () => {
    for (const delivery of await queue.claim([want(handler)], 8)) await queue.done(delivery)
  }
  const few = Array.from({ length: begun }, (_, index) => deliveryOf(eventOf(-1 - index, `lead:${index}`), { handler }))
  await queue.add(few, here)
  figure(`8 claimed and ended, few waiting: ${await timesOf(begun / 8, claimAndEnd)}`)
  await fill(queue)
  figure(`8 claimed and ended, ${deliveries} waiting: ${await timesOf(begun / 8, claimAndEnd)}`)
  figure(`a claim that finds nothing ready: ${await timesOf(500, () => queue.claim([want('other')], 8))}`)

  await queue.registerHandlers([known(handler)])
  expect([...(await pendingOf(queue))]).toEqual([[handler, deliveries - begun]])
  const claimed = await queue.claim([want(handler, { limit: deliveries })], deliveries)
  const expected = Array.from({ length: objects }, (_, deal) => [`deal:${deal}`, deal < begun ? deal + objects : deal])
  expect(new Map(claimed.map(({ event }) => [event.object, Number(event.id)]))).toEqual(new Map(expected as never))
  expect(claimed).toHaveLength(objects)
})

test('with a long backlog waiting posts are answered, the dispatcher stays small, and what runs is done', async () => {
  const flag = join(temporaryFolder('flag'), 'go')
  const handlers = {
    [`${handler}.mjs`]: `import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
export default async () => { while (!existsSync(${JSON.stringify(flag)})) await sleep(20) }`,
  }
  let id = 1_000_000
  const measure = async (receiver: Receiver, waiting: string) => {
    const pid = await dispatcherOf(receiver)
    const times = await timesOf(200, async () => expect((await receiver.post(dealBody(++id))).status).toBe(200))
    const rss = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
    figure(`${waiting}: posts ${times}; the dispatcher takes ${rss.toFixed(0)} MB`)
    return rss
  }
  const start = async (dataDir: string) => {
    const receiver = await startReceiver({ dataDir, env: { SHUTDOWN_GRACE: '1s' }, handlers })
    await until('ready', async () => ((await receiver.readyz()) as { status: string }).status === 'ready')
    return receiver
  }
  const first = await start(temporaryFolder('data'))
  const few = await measure(first, 'few waiting')
  await first.stop()

  const dataDir = temporaryFolder('data')
  const queue = openSqliteQueue({ path: queuePath(dataDir) })
  await fill(queue)
  await queue.close()
  const receiver = await start(dataDir)
  // Loose: a garbage collector decides when it returns memory.
  expect(await measure(receiver, `${deliveries} waiting`)).toBeLessThan(few + 100)
  writeFileSync(flag, '')
  await until('some are done', () => receiver.logged('handled').length > 100)
  expect(await measure(receiver, `${deliveries} being handled`)).toBeLessThan(few + 200)
})
