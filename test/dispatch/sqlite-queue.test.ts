import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { openSqliteQueue } from '../../src/dispatch/sqlite-queue.ts'
import type { Event } from '../../src/intake/event.ts'
import { temporaryFolder } from '../support/receiver.ts'

const event = (id: number, object?: string, portal = 'one'): Event => ({
  id: String(id),
  event: 'ONCRMDEALUPDATE',
  ...(object !== undefined && { object }),
  auth: { member_id: portal },
  remote: '::1',
})
const deliver = (...events: Event[]) => events.map((one) => ({ handler: 'h', event: one }))
const here = { segment: 1, offset: 0 }

function open(now?: () => number) {
  const path = join(temporaryFolder('queue'), 'dispatch.db')
  return { path, queue: openSqliteQueue({ path, ...(now && { now }) }) }
}

async function claimIds(queue: ReturnType<typeof openSqliteQueue>, limit = 10, handlers = ['h']) {
  return (await queue.claim(handlers, limit)).map((delivery) => delivery.event.id)
}

test('one object is claimed one at a time and in order, other objects meanwhile', async () => {
  const { queue } = open()
  await queue.add(deliver(event(1, 'deal:1'), event(2, 'deal:1'), event(3, 'deal:2'), event(4, 'deal:1')), here)
  const [first, other] = await queue.claim(['h'], 10)
  expect([first?.event.id, other?.event.id]).toEqual(['1', '3'])
  expect(await claimIds(queue)).toEqual([])
  if (first) await queue.done(first)
  expect(await claimIds(queue)).toEqual(['2'])
})

test('the same object number on two portals, or for two handlers, is not one object', async () => {
  const { queue } = open()
  await queue.add(deliver(event(1, 'deal:1', 'one'), event(2, 'deal:1', 'two')), here)
  await queue.add([{ handler: 'other', event: event(1, 'deal:1', 'one') }], here)
  expect(await claimIds(queue, 10, ['h', 'other'])).toEqual(['1', '2', '1'])
})

test('events without an object have no order', async () => {
  const { queue } = open()
  await queue.add(deliver(event(1), event(2), event(3)), here)
  expect(await claimIds(queue)).toEqual(['1', '2', '3'])
})

test('while a delivery waits for its retry its object waits, and it is claimed again when it is due', async () => {
  let now = 1000
  const { queue } = open(() => now)
  await queue.add(deliver(event(1, 'deal:1'), event(2, 'deal:1')), here)
  const [first] = await queue.claim(['h'], 10)
  if (first) await queue.retry(first, 5000, 'no')
  expect(await queue.nextDue()).toBe(5000)
  expect(await claimIds(queue)).toEqual([])
  now = 5000
  const [again] = await queue.claim(['h'], 10)
  expect(again).toMatchObject({ event: { id: '1' }, attempt: 2, createdAt: 1000 })
  if (again) await queue.dead(again, 'no')
  expect(await claimIds(queue)).toEqual(['2'])
  expect(await queue.nextDue()).toBeUndefined()
})

test('what a killed dispatcher was running is claimed again, before its object goes on', async () => {
  const { queue, path } = open()
  await queue.add(deliver(event(1, 'deal:1'), event(2, 'deal:1')), here)
  await queue.claim(['h'], 10)
  const next = openSqliteQueue({ path })
  expect(await claimIds(next)).toEqual(['1'])
})

test('an event is added once and the position is the last one given', async () => {
  const { queue, path } = open()
  expect(await queue.position()).toBeUndefined()
  await queue.add(deliver(event(1)), { segment: 1, offset: 100 })
  await queue.add(deliver(event(1), event(2)), { segment: 2, offset: 7 })
  await queue.close()
  const next = openSqliteQueue({ path })
  expect(await next.position()).toEqual({ segment: 2, offset: 7 })
  expect(await claimIds(next)).toEqual(['1', '2'])
})

test('only deliveries of the handlers asked for are claimed, the oldest first, no more than asked for', async () => {
  const { queue } = open()
  for (let id = 1; id <= 6; id++) await queue.add([{ handler: id % 2 ? 'odd' : 'even', event: event(id) }], here)
  expect(await claimIds(queue, 2, ['odd', 'even'])).toEqual(['1', '2'])
  expect(await claimIds(queue, 10, ['even'])).toEqual(['4', '6'])
})

test('a file of a newer version is refused', () => {
  const path = join(temporaryFolder('queue'), 'dispatch.db')
  new DatabaseSync(path).exec('PRAGMA user_version = 99')
  expect(() => openSqliteQueue({ path })).toThrow(/newer version \(99/)
})
