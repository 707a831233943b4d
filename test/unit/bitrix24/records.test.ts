import { describe, expect, test } from 'vitest'
import type { Rate } from '../../../src/bitrix24/budget.ts'
import { parseIncomingWebhooks } from '../../../src/bitrix24/incoming-webhook.ts'
import { createLimits } from '../../../src/bitrix24/limits.ts'
import { createRecords, type Records } from '../../../src/bitrix24/records.ts'
import { createClock } from '../../support/clock.ts'
import type { RecordType } from '../../support/portal/records.ts'
import { type Portal, type PortalOptions, startPortal } from '../../support/portal.ts'
import { until } from '../../support/receiver.ts'

const DEAL = 2

/** A portal and its records, both by one clock that stands until it is moved. */
async function startBoth(options: PortalOptions & { readonly ours?: Rate } = {}) {
  const clock = createClock()
  const portal = await startPortal({ now: () => Date.UTC(2026, 10, 23, 8) + clock.now(), ...options })
  const limits = createLimits({ rate: 2, burst: 50, clock, ...options.ours })
  const [incomingWebhook] = parseIncomingWebhooks(portal.incomingWebhook())
  if (!incomingWebhook) throw new Error('no incoming webhook')
  const stop = new AbortController()
  return { clock, portal, limits, stop, records: createRecords({ incomingWebhook, limits, signal: stop.signal }) }
}

/** As `startBoth`, and the next request has no turn before the clock moves. */
async function startWaiting() {
  const both = await startBoth({ ours: { rate: 1, burst: 1 } })
  await both.limits.turn(['batch'], undefined)
  return both
}

function addDeals({ records }: Portal, ...ids: number[]): void {
  for (const id of ids) records.add(DEAL, { title: `Deal ${id}` }, 7, id)
}

/** What can go on without the clock has gone on. */
const settled = () => new Promise((resolve) => setImmediate(resolve))

const commandsOf = ({ requests }: Portal) => requests.map(({ commands }) => commands.length)

/** So that what was asked for stands in line for a turn. */
const inLine = (clock: { sleeping: () => number }) => until('it waits for a turn', () => clock.sleeping() > 0)

const outcomes = async (all: readonly Promise<unknown>[]) =>
  (await Promise.allSettled(all)).map((one) => (one.status === 'fulfilled' ? one.value : one.reason))

describe('the record', () => {
  test.each<[object: string, type: RecordType, record: unknown]>([
    ['lead:1', 1, { id: 1, entityTypeId: 1, title: 'Boat', UF_CRM_1639: 'red' }],
    ['deal:1', 2, { id: 1, entityTypeId: 2, title: 'Boat', UF_CRM_1639: 'red' }],
    ['contact:1', 3, { id: 1, entityTypeId: 3, title: 'Boat', UF_CRM_1639: 'red' }],
    ['company:1', 4, { id: 1, entityTypeId: 4, title: 'Boat', UF_CRM_1639: 'red' }],
    ['invoice:1', 5, { ID: '1', TITLE: 'Boat', UF_CRM_1639: 'red' }],
    ['quote:1', 7, { id: 1, entityTypeId: 7, title: 'Boat', UF_CRM_1639: 'red' }],
    ['item:31:1', 31, { id: 1, entityTypeId: 31, title: 'Boat', UF_CRM_1639: 'red' }],
    ['item:1032:1', 1032, { id: 1, entityTypeId: 1032, title: 'Boat', UF_CRM_1639: 'red' }],
    ['activity:1', 'activity', { ID: '1', TITLE: 'Boat' }],
    ['task:1', 'task', { id: '1', title: 'Boat' }],
  ])('of %s is what the portal has, and gone when it has it no more', async (object, type, record) => {
    const { portal, records } = await startBoth()
    portal.records.add(type, { title: 'Boat', UF_CRM_1639: 'red' }, 7)
    expect(await records.get(object)).toMatchObject(Object(record))
    portal.records.remove(type, 1)
    expect(await records.get(object)).toBeNull()
  })

  test('of an event is that of its object', async () => {
    const { portal, records } = await startBoth()
    addDeals(portal, 662)
    expect(await records.of({ event: 'ONCRMDEALUPDATE', object: 'deal:662' })).toMatchObject({ title: 'Deal 662' })
  })

  test.each([
    ['ONCRMDEALDELETE', 'deal:662'],
    ['ONCRMDYNAMICITEMDELETE_1032', 'item:1032:21'],
    ['ONTASKDELETE', 'task:17'],
    ['ONIMBOTDELETE', 'bot:5'],
  ])('of %s is gone, and no portal is called', async (event, object) => {
    const { portal, records } = await startBoth()
    addDeals(portal, 662)
    expect(await records.of({ event, object })).toBeNull()
    expect(portal.requests).toEqual([])
  })

  test('of a task whose comment was deleted is the task', async () => {
    const { portal, records } = await startBoth()
    portal.records.add('task', { title: 'Call back' }, 7, 17)
    expect(await records.of({ event: 'ONTASKCOMMENTDELETE', object: 'task:17' })).toMatchObject({ title: 'Call back' })
  })

  test('of an event without an object, or of what no method reads, is an error that says so', async () => {
    const { portal, records } = await startBoth()
    await expect(records.of({ event: 'ONAPPINSTALL' })).rejects.toThrow('ONAPPINSTALL is about no object')
    await expect(records.of({ event: 'ONIMBOTMESSAGEADD', object: 'chat:5' })).rejects.toThrow('reads a chat by its id')
    expect(portal.requests).toEqual([])
  })

  test('that the incoming webhook may not read names what it lacks, and is not gone', async () => {
    const { portal, records } = await startBoth({ scopes: ['crm'], user: 17 })
    portal.behaviour.forbidden.add('crm.item.get')
    const [task, deal] = await outcomes([records.get('task:17'), records.get('deal:662')])
    expect(task).toMatchObject({ code: 'insufficient_scope', method: 'tasks.task.get' })
    expect(String(task)).toContain('needs the scope "task"')
    expect(deal).toMatchObject({ code: 'ACCESS_DENIED', trouble: undefined })
    expect(String(deal)).toContain('is not allowed to user 17')
  })
})

describe('records that are wanted together', () => {
  test('travel together, 50 in a request', async () => {
    const { portal, records } = await startBoth()
    const ids = Array.from({ length: 120 }, (_, index) => index + 1)
    addDeals(portal, ...ids)
    const all = await Promise.all(ids.map((id) => records.get(`deal:${id}`)))
    expect(all).toMatchObject(ids.map((id) => ({ id, title: `Deal ${id}` })))
    expect(commandsOf(portal)).toEqual([50, 50, 20])
  })

  test('are each answered for itself: one is gone, one is forbidden, the others are there', async () => {
    const { portal, records } = await startBoth()
    addDeals(portal, 1, 3)
    portal.behaviour.forbidden.add('tasks.task.get')
    const all = await outcomes(['deal:1', 'deal:2', 'task:17', 'deal:3'].map((object) => records.get(object)))
    expect(all).toMatchObject([{ id: 1 }, null, { code: 'ACCESS_DENIED', method: 'tasks.task.get' }, { id: 3 }])
    expect(commandsOf(portal)).toEqual([4])
  })

  test('are asked for once where they are of one object, and each asker may change its own', async () => {
    const { portal, records } = await startBoth()
    addDeals(portal, 1)
    const [first, second] = await Promise.all([records.get('deal:1'), records.get('deal:1')])
    expect(commandsOf(portal)).toEqual([1])
    expect(second).toEqual(first)
    expect(second).not.toBe(first)
  })

  test('gather for as long as the portal has no turn for them', async () => {
    const { clock, portal, records } = await startWaiting()
    addDeals(portal, 1, 2, 3)
    const first = records.get('deal:1')
    await inLine(clock)
    const others = [records.get('deal:2'), records.get('deal:3'), records.get('deal:1')]
    await clock.skip()
    expect(await Promise.all([first, ...others])).toMatchObject([{ id: 1 }, { id: 2 }, { id: 3 }, { id: 1 }])
    expect(commandsOf(portal)).toEqual([3])
  })

  test('wait for as many turns as they need, and no more', async () => {
    const { clock, portal, records } = await startWaiting()
    const all = Array.from({ length: 51 }, (_, index) => records.get(`deal:${index + 1}`))
    await inLine(clock)
    await clock.skip()
    await until('one was sent', () => portal.requests.length === 1)
    await clock.skip()
    expect(await Promise.all(all)).toEqual(all.map(() => null))
    expect(commandsOf(portal)).toEqual([50, 1])
  })
})

test('a record that is asked for after a read has begun is read again', async () => {
  const { portal, records } = await startBoth()
  addDeals(portal, 1)
  const answered = Promise.withResolvers<void>()
  portal.behaviour.held = answered.promise
  const first = records.get('deal:1')
  await until('it was sent', () => portal.requests.length === 1)
  const second = records.get('deal:1')
  await until('it was sent again', () => portal.requests.length === 2)
  answered.resolve()
  expect(await Promise.all([first, second])).toMatchObject([{ id: 1 }, { id: 1 }])
  portal.edit(DEAL, 1, { title: 'Ship' })
  expect(await records.get('deal:1')).toMatchObject({ title: 'Ship' })
  expect(commandsOf(portal)).toEqual([1, 1, 1])
})

describe('an abort', () => {
  const stopped = (records: Records, object: string) => {
    const stop = new AbortController()
    const record = records.get(object, { signal: stop.signal })
    return { record, stop: () => stop.abort(new Error('out of time')) }
  }

  test('while it waits ends that wait only, and nothing is read for it', async () => {
    const { clock, portal, records } = await startWaiting()
    addDeals(portal, 1, 2)
    const other = records.get('deal:1')
    const alone = stopped(records, 'deal:2')
    const beside = stopped(records, 'deal:1')
    await inLine(clock)
    alone.stop()
    beside.stop()
    await expect(alone.record).rejects.toThrow('out of time')
    await expect(beside.record).rejects.toThrow('out of time')
    await clock.skip()
    expect(await other).toMatchObject({ id: 1 })
    expect(commandsOf(portal)).toEqual([1])
  })

  test('of all of them sends nothing, and the next is read as ever', async () => {
    const { clock, portal, records } = await startWaiting()
    addDeals(portal, 1)
    const only = stopped(records, 'deal:1')
    await inLine(clock)
    only.stop()
    await expect(only.record).rejects.toThrow('out of time')
    await clock.skip()
    await settled()
    expect(portal.requests).toEqual([])
    const next = records.get('deal:1')
    await clock.skip()
    expect(await next).toMatchObject({ id: 1 })
    expect(commandsOf(portal)).toEqual([1])
  })

  test('while it is under way ends that one only', async () => {
    const { portal, records } = await startBoth()
    addDeals(portal, 1, 2)
    const answered = Promise.withResolvers<void>()
    portal.behaviour.held = answered.promise
    const other = records.get('deal:1')
    const one = stopped(records, 'deal:2')
    await until('it was sent', () => portal.requests.length === 1)
    one.stop()
    await expect(one.record).rejects.toThrow('out of time')
    answered.resolve()
    expect(await other).toMatchObject({ id: 1 })
  })

  test('before it asks for nothing', async () => {
    const { portal, records } = await startBoth()
    const record = records.get('deal:1', { signal: AbortSignal.abort(new Error('too late')) })
    await expect(record).rejects.toThrow('too late')
    expect(portal.requests).toEqual([])
  })

  test('of the whole process ends all of them, those that wait and those under way', async () => {
    const { portal, records, stop, clock } = await startBoth({ ours: { rate: 1, burst: 1 } })
    portal.behaviour.held = new Promise(() => {})
    const sent = records.get('deal:1')
    await until('it was sent', () => portal.requests.length === 1)
    const waits = records.get('deal:2')
    await inLine(clock)
    stop.abort(new Error('we stop'))
    expect(await outcomes([sent, waits])).toMatchObject([{ message: 'we stop' }, { message: 'we stop' }])
    expect(portal.requests).toHaveLength(1)
  })
})

describe('a limit', () => {
  test('of requests is waited for', async () => {
    const { clock, portal, records } = await startBoth()
    addDeals(portal, 1)
    portal.behaviour.failing.set('batch', ['QUERY_LIMIT_EXCEEDED'])
    const record = records.get('deal:1')
    expect(await clock.skip()).toBe(1_000)
    await settled()
    expect(await clock.skip()).toBe(500)
    expect(await record).toMatchObject({ id: 1 })
    expect(portal.requests.map(({ status }) => status)).toEqual([503, 200])
  })

  test('whose method is blocked is asked for again when the time that the portal told is over', async () => {
    const { clock, portal, records } = await startBoth({ operating: 10 })
    addDeals(portal, 1, 2)
    portal.behaviour.seconds.set('crm.item.get', 10)
    await records.get('deal:1')
    const blocked = records.get('deal:2')
    await until('it sleeps', () => clock.sleeping() > 0)
    expect(await clock.skip()).toBe(600_000)
    expect(await blocked).toMatchObject({ title: 'Deal 2' })
  })

  test('of one method is waited for, and the records of others are not held up by it', async () => {
    const { clock, portal, records } = await startBoth()
    addDeals(portal, 1)
    portal.records.add('task', { title: 'Call back' }, 7, 17)
    portal.behaviour.failing.set('crm.item.get', ['OPERATION_TIME_LIMIT'])
    const deal = records.get('deal:1')
    expect(await records.get('task:17')).toMatchObject({ title: 'Call back' })
    await inLine(clock)
    expect(await records.get('task:17')).toMatchObject({ title: 'Call back' })
    expect(await clock.skip()).toBe(60_000)
    expect(await deal).toMatchObject({ id: 1 })
    expect(portal.requests.map(({ commands }) => commands)).toEqual([
      ['crm.item.get', 'tasks.task.get'],
      ['tasks.task.get'],
      ['crm.item.get'],
    ])
  })

  test('is reported to the timer of the run', async () => {
    const { clock, portal, records } = await startWaiting()
    addDeals(portal, 1)
    const waits: number[] = []
    const record = records.get('deal:1', {
      whileWaiting: async (wait) => {
        const from = clock.now()
        const sent = await wait
        waits.push(clock.now() - from)
        return sent
      },
    })
    await clock.skip()
    await record
    expect(waits).toEqual([1_000])
  })
})

test('a dead incoming webhook or a lost portal fails all records that were wanted, without its secret', async () => {
  const { portal, records } = await startBoth()
  portal.behaviour.dead = 'INVALID_CREDENTIALS'
  const dead = await outcomes([records.get('deal:1'), records.get('deal:2')])
  expect(dead).toMatchObject([{ trouble: 'dead' }, { trouble: 'dead' }])
  await portal.unplug()
  const [unreachable] = await outcomes([records.get('deal:1')])
  expect(unreachable).toMatchObject({ trouble: 'unreachable' })
  expect(String([...dead, unreachable])).not.toContain(portal.code())
})
