import { describe, expect, test } from 'vitest'
import { type Client, createClient } from '../../../src/bitrix24/client.ts'
import type { Params } from '../../../src/bitrix24/commands.ts'
import { parseIncomingWebhooks } from '../../../src/bitrix24/incoming-webhook.ts'
import { createLimits } from '../../../src/bitrix24/limits.ts'
import { isFinal } from '../../../src/handler/handler.ts'
import { realClock } from '../../../src/lib/clock.ts'
import { type Portal, startPortal } from '../../support/portal.ts'
import { fc } from '../../support/random.ts'

const DEAL = 2
const plenty = { rate: 1e6, burst: 1e6 }

async function start(): Promise<{ portal: Portal; client: Client }> {
  const portal = await startPortal({ limit: plenty })
  const [incomingWebhook] = parseIncomingWebhooks(portal.incomingWebhook())
  if (!incomingWebhook) throw new Error('no incoming webhook')
  return { portal, client: createClient({ incomingWebhook, limits: createLimits({ ...plenty, clock: realClock }) }) }
}

async function thrownBy(work: () => unknown): Promise<Error> {
  try {
    await work()
  } catch (error) {
    if (error instanceof Error) return error
  }
  throw new Error('nothing was thrown')
}

const circle: Record<string, unknown> = { TITLE: 'Boat' }
circle['self'] = { again: circle }
const endless = { toJSON: () => ({ next: endless }) }

const refused: readonly [what: string, params: () => unknown, message: string][] = [
  [
    'a promise, which is a forgotten await',
    () => ({ fields: { TITLE: Promise.resolve('Boat') } }),
    'crm.deal.add: fields.TITLE is a promise: is an await missing?',
  ],
  [
    'a promise in a list',
    () => ({ fields: { UF: ['a', Promise.resolve(1)] } }),
    'crm.deal.add: fields.UF[1] is a promise: is an await missing?',
  ],
  [
    'a promise of another library',
    () => ({ id: Object.fromEntries([['then', () => undefined]]) }),
    'crm.deal.add: id is a promise: is an await missing?',
  ],
  [
    'a promise of all parameters',
    () => Promise.resolve({}),
    'crm.deal.add: its parameters are a promise: is an await missing?',
  ],
  [
    'a function',
    () => ({ fields: { 'UF CRM': () => 1 } }),
    'crm.deal.add: fields["UF CRM"] is a function: is a call missing?',
  ],
  ['a BigInt', () => ({ id: 7n }), 'crm.deal.add: id is a BigInt: make it a text or a number'],
  ['a symbol', () => ({ id: Symbol('id') }), 'crm.deal.add: id is a symbol, which JSON does not have'],
  ['a circle', () => ({ fields: circle }), 'crm.deal.add: fields.self.again contains itself'],
  ['what never ends', () => ({ fields: endless }), 'crm.deal.add: its parameters are nested deeper than 100'],
  [
    'a toJSON that throws',
    () => ({
      when: {
        toJSON: () => {
          throw new Error('no date')
        },
      },
    }),
    'crm.deal.add: its parameters cannot be written as JSON: no date',
  ],
  ['a text for parameters', () => 'id=7', 'crm.deal.add: its parameters must be an object, not a string'],
  ['null for parameters', () => null, 'crm.deal.add: its parameters must be an object, not null'],
]

describe.each<[string, (client: Client, params: Params) => unknown, prefix: string]>([
  ['a call', (client, params) => client.call('crm.deal.add', params), ''],
  ['a list', (client, params) => client.list('crm.deal.add', params).next(), ''],
  ['a batch', (client, params) => client.batch({ one: ['crm.deal.add', params] }), '"one": '],
  ['a settled batch', (client, params) => client.batchSettled({ one: ['crm.deal.add', params] }), '"one": '],
])('%s', (_way, send, prefix) => {
  test.each(refused)(
    'with %s is refused for good, by its path, before anything is sent',
    async (_, params, message) => {
      const { portal, client } = await start()
      const error = await thrownBy(() => send(client, params() as Params))
      expect(error.message).toBe(prefix + message)
      expect(isFinal(error)).toBe(true)
      expect(error.name).toBe('FinalError')
      // Its first line is the caller's, which for a handler is its own.
      expect(error.stack?.split('\n')[1]).toContain('parameters.test.ts')
      expect(portal.requests).toEqual([])
    },
  )

  test.each(['', 'crm/deal', 'crm.deal.get?id=1', '../profile', 7])(
    'of %j, which is the name of no method, is refused for good',
    async (method) => {
      const { portal, client } = await start()
      const name = method as string
      const way = { '': () => client.call(name), '"one": ': () => client.batch({ one: [name] }) }[prefix]
      const error = await thrownBy(way ?? (() => client.list(name)))
      expect(error.message).toContain('is not the name of a method, such as crm.deal.get')
      expect(isFinal(error)).toBe(true)
      expect(portal.requests).toEqual([])
    },
  )
})

test('a batch that has no command, or too many, or what is none, is refused for good', async () => {
  const { portal, client } = await start()
  const many = Object.fromEntries(Array.from({ length: 51 }, (_, key) => [`c${key}`, ['server.time'] as const]))
  for (const commands of [{}, many, { one: 'crm.deal.get' }, { one: [] }, null]) {
    const error = await thrownBy(() => client.batch(commands as typeof many))
    expect(isFinal(error)).toBe(true)
  }
  expect(portal.requests).toEqual([])
})

test('what JSON has a text for is sent as that: dates, URLs, and what has a toJSON', async () => {
  const { portal, client } = await start()
  class Money {
    readonly amount = 10
    toJSON() {
      return `${this.amount}|EUR`
    }
  }
  const params = {
    date: new Date(Date.UTC(2026, 10, 23)),
    url: new URL('https://example.com/a b'),
    map: new Map([['a', 1]]),
    money: new Money(),
    list: [undefined, Number.NaN, null],
    nothing: undefined,
    number: Object(7),
  }
  await client.call('profile', params)
  expect(portal.requests[0]?.params).toEqual({
    date: '2026-11-23T00:00:00.000Z',
    url: 'https://example.com/a%20b',
    map: {},
    money: '10|EUR',
    list: [null, null, null],
    number: 7,
  })
})

test('parameters are those of the moment of the call, whatever becomes of them while it waits', async () => {
  const { portal, client } = await start()
  const params = { fields: { TITLE: 'Boat' } }
  const added = client.call<number>('crm.deal.add', params)
  params.fields.TITLE = 'Ship'
  const id = await added
  expect(portal.records.get(DEAL, id)?.fields).toMatchObject({ title: 'Boat' })
})

test('a parameter named data, and any other name, goes out as it is', async () => {
  const { portal, client } = await start()
  const others = { params: [1], cmd: { a: 'b' }, url: 'x', method: 'y', start: 5, auth: 'z' }
  for (const data of [{ a: 1 }, 'a text', 5, null, [], {}]) {
    await client.call('profile', { data, ...others })
    expect(portal.requests.at(-1)?.params).toEqual({ data, ...others })
  }
})

test('half of a surrogate pair becomes U+FFFD: PHP would read nothing of such a body', async () => {
  const { portal, client } = await start()
  const cut = '🙂'.slice(0, 1)
  const params = { title: `${cut}a`, [`k${cut}`]: ['🙂'.slice(1), '🙂', '\\ud83d'] }
  const whole = { title: '\ufffda', 'k\ufffd': ['\ufffd', '🙂', '\\ud83d'] }
  await client.call('profile', params)
  await client.batch({ one: ['im.message.add', { DIALOG_ID: cut, MESSAGE: `${cut}a` }] })
  expect(portal.requests[0]?.params).toEqual(whole)
  expect(portal.messages).toEqual([{ dialogId: '\ufffd', text: '\ufffda', from: 1 }])
})

test('in a batch null and NaN are an empty text, and what a query cannot say is refused, not left out', async () => {
  const { portal, client } = await start()
  portal.records.add(DEAL, { title: 'Boat', opportunity: 10, comments: 'none' }, 7, 662)
  const fields = { OPPORTUNITY: Number.NaN, COMMENTS: null, OPENED: true, CLOSED: false }
  await client.batch({ one: ['crm.deal.update', { id: 662, fields, select: [], params: {} }] })
  expect(portal.records.get(DEAL, 662)?.fields).toMatchObject({
    opportunity: '',
    comments: '',
    opened: '1',
    closed: '0',
  })
  for (const [deep, path] of [
    [{ id: 1, fields: { UF_CRM_1: [] } }, 'fields.UF_CRM_1'],
    [{ filter: { '@id': [] } }, 'filter["@id"]'],
    [{ filter: { a: [{ b: {} }] } }, 'filter.a[0].b'],
  ] as const) {
    const error = await thrownBy(() => client.batchSettled({ one: ['crm.deal.update', deep] }))
    expect(error.message).toBe(
      `"one": crm.deal.update: ${path} is empty, which a batch cannot say: use call, or a text of no characters`,
    )
    expect(isFinal(error)).toBe(true)
  }
  expect(portal.requests).toHaveLength(1)
})

test('whatever can be sent arrives as JSON.stringify would write it', async () => {
  const { portal, client } = await start()
  await fc.assert(
    fc.asyncProperty(fc.dictionary(fc.string(), fc.jsonValue()), async (params) => {
      await client.call('profile', params)
      expect(JSON.stringify(portal.requests.at(-1)?.params)).toBe(JSON.stringify(JSON.parse(JSON.stringify(params))))
    }),
    { numRuns: 100 },
  )
})
