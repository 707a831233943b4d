import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { openSqliteDeliveries } from '../../../../src/queue/sqlite/deliveries.ts'
import { openSqliteQueue, queuePath } from '../../../../src/queue/sqlite/queue.ts'
import { dealBody, readRecorded, startReceiver, temporaryFolder, until } from '../../../support/receiver.ts'
import { describeDeliveries } from '../deliveries-contract.ts'
import { deliveryOf, eventOf, here, known, pendingOf } from '../queue-contract.ts'

describeDeliveries('sqlite', (now) => {
  const path = queuePath(temporaryFolder('queue'))
  const queue = openSqliteQueue({ path, now })
  return { queue, deliveries: openSqliteDeliveries({ path, mode: 'write', now }) }
})

const open = (path: string, mode: 'read' | 'write' = 'read') => openSqliteDeliveries({ path, mode })

test.for(['read', 'write'] as const)('a file that is not there is not made by asking, to %s', (mode) => {
  const path = queuePath(temporaryFolder('queue'))
  expect(() => open(path, mode)).toThrow(`${path} is not there: no handler has run yet`)
  expect(existsSync(path)).toBe(false)
})

test('a file of another version is left alone, and so is what is no database', () => {
  const path = queuePath(temporaryFolder('queue'))
  const db = new DatabaseSync(path)
  db.exec('PRAGMA user_version = 99')
  db.close()
  for (const mode of ['read', 'write'] as const)
    expect(() => open(path, mode)).toThrow(`${path} was written by another version of the receiver`)
  writeFileSync(path, 'this is no database, but long enough to be taken for one'.repeat(20))
  expect(() => open(path)).toThrow('not a database')
})

test('what is opened to read changes nothing', async () => {
  const path = queuePath(temporaryFolder('queue'))
  const queue = openSqliteQueue({ path })
  await queue.add([deliveryOf(eventOf(1))], here)
  const deliveries = open(path)
  expect(() => deliveries.replay([deliveryOf(eventOf(1))])).toThrow('readonly database')
  await queue.close()
})

test('what an older version wrote of a handler is not known', async () => {
  const path = queuePath(temporaryFolder('queue'))
  await openSqliteQueue({ path }).close()
  const db = new DatabaseSync(path)
  db.exec("INSERT INTO handler (name) VALUES ('h')")
  db.close()
  const unknown = { events: undefined, order: undefined, debounce: undefined, loadedAt: undefined }
  expect(await open(path).handlers()).toEqual([{ name: 'h', ...unknown, pending: 0, dead: 0 }])
})

test('a dispatcher at work runs what was retried and replayed', async () => {
  const folder = temporaryFolder('snapshot')
  const receiver = await startReceiver({
    handlers: {
      'ONCRMDEALUPDATE.mjs': `import { appendFileSync, existsSync } from 'node:fs'
import { FinalError } from 'bitrix24-webhook-receiver'
export default (event) => {
  if (!existsSync(${JSON.stringify(join(folder, 'fixed'))})) throw new FinalError('not fixed')
  appendFileSync(${JSON.stringify(join(folder, 'snapshot'))}, JSON.stringify(event) + '\\n')
}`,
    },
  })
  for (const id of [1, 2]) await receiver.post(dealBody(id))
  await until('dead', () => receiver.logged('failed for good: this delivery is dead').length === 2)
  writeFileSync(join(folder, 'fixed'), '')
  const deliveries = open(queuePath(receiver.dataDir), 'write')
  const dead = await deliveries.dead({ object: 'deal:1' })
  expect(await deliveries.retry(dead)).toBe(1)
  const seen = () => readRecorded(join(folder, 'snapshot'))
  await until('retried', () => seen().length === 1)
  const [first] = seen()
  const journalled = { level: 30, time: '2026-11-23T08:00:00.000Z', msg: '', ...first, id: first?.id ?? '' }
  const again = { ...eventOf(1), ...journalled }
  await deliveries.replay([deliveryOf(again, { handler: 'ONCRMDEALUPDATE' })])
  await until('replayed', () => seen().length === 2)
  expect(seen().map(({ object }) => object)).toEqual(['deal:1', 'deal:1'])
  expect((await deliveries.dead({})).map(({ object }) => object)).toEqual(['deal:2'])
  await deliveries.close()
})

test('handlers that were loaded together are known to be, however long it took', async () => {
  let time = 1_000_000
  const path = queuePath(temporaryFolder('queue'))
  const queue = openSqliteQueue({ path, now: () => time++ })
  await queue.registerHandlers(['a', 'b', 'c'].map((name) => known(name)))
  const times = (await open(path).handlers()).map(({ loadedAt }) => loadedAt)
  expect(new Set(times).size).toBe(1)
})

test('a handler with very much pending is forgotten in steps, between which a dispatcher may write', async () => {
  const path = queuePath(temporaryFolder('queue'))
  const queue = openSqliteQueue({ path })
  await queue.registerHandlers([known('h'), known('other')])
  const pending = Array.from({ length: 3000 }, (_, id) => deliveryOf(eventOf(id)))
  await queue.add([...pending, deliveryOf(eventOf(1), { handler: 'other' })], here)
  const dispatcher = new DatabaseSync(path, { timeout: 0 })
  const count = () => Number(dispatcher.prepare('SELECT count(*) AS n FROM delivery').get()?.['n'])
  const forgotten = open(path, 'write').forget('h')
  expect(count()).toBeGreaterThan(1)
  dispatcher.exec('BEGIN IMMEDIATE; ROLLBACK')
  expect(await forgotten).toBe(3000)
  expect(count()).toBe(1)
  expect([...(await pendingOf(queue))]).toEqual([['other', 1]])
})
