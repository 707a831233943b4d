import { createServer } from 'node:http'
import { expect, onTestFinished, test } from 'vitest'
import { decodeForm } from '../../../src/intake/form.ts'
import type { PhpArray } from '../../../src/lib/php-query.ts'
import { bodiesOf, type Simulation, simulate } from '../../../src/simulator/simulate.ts'
import { heldToken, startServer } from '../../support/intake.ts'
import { freePort } from '../../support/receiver.ts'

const portal = { domain: 'example.bitrix24.com', memberId: 'm', token: heldToken }
const deal: Simulation = { event: 'ONCRMDEALUPDATE', id: 662, ts: 1736405807, portal }

const formsOf = (simulation: Simulation) => [...bodiesOf(simulation)].map((body) => decodeForm(body))
const sentAt = (simulation: Simulation) => formsOf(simulation).map(({ ts }) => Number(ts) - 1736405807)

test('one event is one post, of now by default', () => {
  expect(formsOf(deal)).toMatchObject([{ event: 'ONCRMDEALUPDATE', ts: '1736405807', data: { FIELDS: { ID: '662' } } }])
  const { ts: _, ...now } = deal
  const [form] = formsOf(now)
  expect(Math.abs(Number(form?.['ts']) - Date.now() / 1000)).toBeLessThan(60)
})

test('a burst is about objects of consecutive ids in one second', () => {
  expect(formsOf({ ...deal, mode: 'burst', count: 3 }).map(({ ts, data }) => [ts, data])).toEqual([
    ['1736405807', { FIELDS: { ID: '662' } }],
    ['1736405807', { FIELDS: { ID: '663' } }],
    ['1736405807', { FIELDS: { ID: '664' } }],
  ])
  expect([...bodiesOf({ ...deal, mode: 'burst' })]).toHaveLength(100)
  expect(
    formsOf({ ...deal, event: 'ONCRMCURRENCYUPDATE', id: 'CHE', mode: 'burst', count: 2 }).map(({ data }) => data),
  ).toEqual([{ FIELDS: { ID: 'CHE0' } }, { FIELDS: { ID: 'CHE1' } }])
})

test('a duplicate is one event, byte for byte, twice', () => {
  const [first, second, ...more] = bodiesOf({ ...deal, mode: 'duplicate' })
  expect(second).toBe(first)
  expect(more).toEqual([])
})

test('several events of a duplicate are each twice in a row', () => {
  const ids = formsOf({ ...deal, mode: 'burst', count: 2, copies: 2 }).map(({ data }) => data)
  expect(ids).toEqual([662, 662, 663, 663].map((id) => ({ FIELDS: { ID: String(id) } })))
})

test('reordered events of one object change places with their neighbours', () => {
  expect(sentAt({ ...deal, mode: 'reordered' })).toEqual([1, 0, 3, 2])
  expect(sentAt({ ...deal, mode: 'reordered', count: 3 })).toEqual([1, 0, 2])
})

test('a wrong token is as long as a right one, and not it', () => {
  const [body = ''] = bodiesOf({ ...deal, mode: 'wrong-token' })
  expect(body).not.toContain(heldToken)
  expect(body).toHaveLength([...bodiesOf(deal)].join('').length)
})

test('fields are set in the data of an event, where it has such a place', () => {
  const dataOf = (event: string, fields: PhpArray) => formsOf({ ...deal, event, fields })[0]?.['data']
  expect(dataOf('ONCRMDEALUPDATE', { FIELDS: { TITLE: 'Boat' }, NEW: [1, 2] })).toEqual({
    FIELDS: { ID: '662', TITLE: 'Boat' },
    NEW: ['1', '2'],
  })
  expect(dataOf('ONMYAPPCOUNTED', { TOTAL: 7 })).toEqual({ TOTAL: '7' })
  expect(() => dataOf('ONCRMDEALUPDATE', { FIELDS: { ID: { A: 1 } } })).toThrow(
    new TypeError('data.FIELDS.ID is a text or a list in this event, and has no fields'),
  )
})

test('at a rate the next post does not wait for an answer', async () => {
  let arrivals = 0
  const gate = Promise.withResolvers<void>()
  const server = createServer((_, response) => {
    // The first is answered when all are there: whoever waits for an answer before the next post waits for ever.
    if (++arrivals === 5) gate.resolve()
    void gate.promise.then(() => response.end('{}'))
  })
  const port = await freePort()
  server.listen(port, '127.0.0.1')
  onTestFinished(() => void server.close())
  const outcomes = await simulate(`http://127.0.0.1:${port}/`, { ...deal, count: 5, rate: 20 })
  expect(outcomes.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200])
})

test('an abort ends it when what is on its way is answered', async () => {
  await using server = await startServer()
  const stop = new AbortController()
  const seen: number[] = []
  const outcomes = await simulate(
    `http://127.0.0.1:${server.port}/bitrix24`,
    { ...deal, count: 1000, rate: 0.001 },
    {
      signal: stop.signal,
      onOutcome: ({ status }) => {
        seen.push(status)
        stop.abort()
      },
    },
  )
  expect([outcomes.length, seen]).toEqual([1, [200]])
})

test('a receiver takes all of it but the wrong token', async () => {
  await using server = await startServer()
  const url = `http://127.0.0.1:${server.port}/bitrix24`
  const statuses = async (simulation: Partial<Simulation>) =>
    (await simulate(url, { ...deal, ...simulation })).map(({ status }) => status)
  expect(await statuses({ mode: 'burst', count: 20 })).toEqual(Array(20).fill(200))
  expect(new Set(server.events.map(({ object }) => object)).size).toBe(20)
  expect(await statuses({ mode: 'duplicate' })).toEqual([200, 200])
  expect(await statuses({ mode: 'reordered' })).toEqual([200, 200, 200, 200])
  expect(server.events.slice(-4).map(({ ts }) => Number(ts) - 1736405807)).toEqual([1, 0, 3, 2])
  expect(await statuses({ mode: 'wrong-token' })).toEqual([403])
  expect(server.events).toHaveLength(26)
})
