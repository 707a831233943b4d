import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { inspect, promisify } from 'node:util'
import { pino } from 'pino'
import { describe, expect, test } from 'vitest'
import { Bitrix24Error } from '../../../src/bitrix24/bitrix24-error.ts'
import type { Rate } from '../../../src/bitrix24/budget.ts'
import { type Client, createClient } from '../../../src/bitrix24/client.ts'
import type { Params } from '../../../src/bitrix24/commands.ts'
import { parseIncomingWebhooks } from '../../../src/bitrix24/incoming-webhook.ts'
import { createLimits } from '../../../src/bitrix24/limits.ts'
import { realClock } from '../../../src/lib/clock.ts'
import { createClock } from '../../support/clock.ts'
import { asText, type Json, type JsonObject } from '../../support/portal/php.ts'
import type { SystemError } from '../../support/portal/rest-error.ts'
import { RestError } from '../../support/portal/rest-error.ts'
import { type Portal, type PortalOptions, startPortal } from '../../support/portal.ts'
import { until } from '../../support/receiver.ts'

const DEAL = 2
const CONTACT = 3

function incomingWebhookOf(portal: Portal) {
  const [incomingWebhook] = parseIncomingWebhooks(portal.incomingWebhook())
  if (!incomingWebhook) throw new Error('no incoming webhook')
  return incomingWebhook
}

/** A portal and a client, both by one clock that stands until it is moved. */
async function startBoth(options: PortalOptions & { readonly ours?: Rate } = {}) {
  const clock = createClock()
  const portal = await startPortal({ now: () => Date.UTC(2026, 10, 23, 8) + clock.now(), ...options })
  const limits = createLimits({ rate: 2, burst: 50, clock, ...options.ours })
  const incomingWebhook = incomingWebhookOf(portal)
  const another = (signal?: AbortSignal) => createClient({ incomingWebhook, limits, signal })
  return { clock, portal, limits, incomingWebhook, client: another(), another }
}

async function failureOf(work: Promise<unknown>): Promise<Bitrix24Error> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  if (error instanceof Bitrix24Error) return error
  throw new Error('no Bitrix24Error', { cause: error })
}

/** How often the portal answered with each status. */
function statusesOf({ requests }: Portal) {
  const counts: Record<number, number> = {}
  for (const { status } of requests) counts[status] = (counts[status] ?? 0) + 1
  return counts
}

describe('a call', () => {
  test("gives the answer's result", async () => {
    const { portal, client } = await startBoth()
    portal.records.add(DEAL, { title: 'Boat' }, 7, 662)
    expect(await client.call('crm.item.get', { entityTypeId: DEAL, id: 662 })).toMatchObject({
      item: { title: 'Boat' },
    })
    expect(await client.call('tasks.task.get', { taskId: 1 })).toEqual([])
  })

  test('goes to a portal that gives no time at all', async () => {
    const { portal, client } = await startBoth()
    portal.behaviour.raw = { status: 200, headers: { 'content-type': 'application/json' }, body: '{"result":false}' }
    expect(await client.call('profile')).toBe(false)
  })

  test('fails with the code and the message of the portal, also where it gives no code', async () => {
    const { client } = await startBoth()
    expect(await failureOf(client.call('crm.item.get', { entityTypeId: DEAL, id: 1 }))).toMatchObject({
      code: 'NOT_FOUND',
      status: 400,
      method: 'crm.item.get',
      trouble: undefined,
      message: 'crm.item.get: NOT_FOUND (Element not found)',
    })
    expect(await failureOf(client.call('crm.deal.get', { id: 1 }))).toMatchObject({
      code: 'NO_CODE',
      message: 'crm.deal.get: NO_CODE (Not found)',
    })
  })

  test('names the scope that the incoming webhook lacks', async () => {
    const { portal, client } = await startBoth({ scopes: ['crm'] })
    const { message, code, trouble } = await failureOf(client.call('tasks.task.list'))
    expect([code, trouble]).toEqual(['insufficient_scope', undefined])
    expect(message).toBe(
      `tasks.task.list needs the scope "task", which the incoming webhook of ${portal.host} does not have (insufficient_scope)`,
    )
  })

  test("names the incoming webhook's user, who may not", async () => {
    const { portal, client } = await startBoth({ user: 17 })
    portal.behaviour.forbidden.add('crm.deal.list')
    const { message, trouble } = await failureOf(client.call('crm.deal.list'))
    expect(trouble).toBeUndefined()
    expect(message).toContain('crm.deal.list is not allowed to user 17')
  })

  test('is sent once, whatever the portal answers: who is to try again is decided elsewhere', async () => {
    const { portal, client } = await startBoth()
    portal.behaviour.dead = 'expired_token'
    await failureOf(client.call('profile'))
    portal.behaviour.dead = undefined
    portal.behaviour.failing.set('profile', [new RestError('ERROR_CORE', 'a moment', 500)])
    await failureOf(client.call('profile'))
    expect(portal.called()).toEqual(['profile', 'profile'])
  })

  test('does not follow a redirect, which may lead anywhere', async () => {
    const { portal, client } = await startBoth()
    portal.behaviour.raw = { status: 302, headers: { location: `${portal.incomingWebhook()}server.time` }, body: '' }
    expect(await failureOf(client.call('profile'))).toMatchObject({
      code: 'HTTP_302',
      status: 302,
      trouble: 'not_rest',
    })
    expect(portal.requests).toHaveLength(1)
  })
})

describe('the trouble of an incoming webhook', () => {
  test.each<SystemError>([
    'expired_token',
    'NO_AUTH_FOUND',
    'INVALID_CREDENTIALS',
    'authorization_error',
    'ACCESS_DENIED',
    'OVERLOAD_LIMIT',
    'PORTAL_DELETED',
  ])('%s means that it is dead', async (code) => {
    const { portal, client, incomingWebhook } = await startBoth()
    portal.behaviour.dead = code
    const { trouble, message } = await failureOf(client.call('profile'))
    expect(trouble).toBe('dead')
    expect(message).toContain(`${incomingWebhook.label} is dead: ${code}`)
  })

  test.each(['INVALID_CREDENTIALS', 'ACCESS_DENIED'] as const)(
    '%s does so with a 403 too, as it once had',
    async (code) => {
      const { portal, client } = await startBoth()
      portal.behaviour.dead = RestError.system(code, 403)
      expect(await failureOf(client.call('profile'))).toMatchObject({ status: 403, trouble: 'dead' })
    },
  )

  test('a portal that is not there, or a proxy that says so, is unreachable', async () => {
    const { portal, client } = await startBoth()
    portal.behaviour.raw = { status: 502, headers: { 'content-type': 'text/html' }, body: '<h1>Bad gateway</h1>' }
    expect(await failureOf(client.call('profile'))).toMatchObject({ code: 'HTTP_502', trouble: 'unreachable' })
    await portal.unplug()
    expect(await failureOf(client.call('profile'))).toMatchObject({ status: 0, trouble: 'unreachable' })
    portal.behaviour.raw = undefined
    await portal.plugIn()
    expect(await client.call('profile')).toMatchObject({ ID: '1' })
  })
})

describe('the secret', () => {
  const ways: readonly [string, (portal: Portal, client: Client) => Promise<unknown>][] = [
    ['an error of the portal', (_, client) => client.call('crm.item.get', { entityTypeId: DEAL, id: 1 })],
    [
      'an error whose words have the URL',
      (portal, client) => {
        portal.behaviour.failing.set('profile', [
          new RestError(portal.incomingWebhook(), `no ${portal.incomingWebhook()}profile`, 500),
        ])
        return client.call('profile')
      },
    ],
    [
      'an error of a command whose words have the URL',
      (portal, client) => {
        portal.behaviour.failing.set('profile', [
          new RestError(portal.incomingWebhook(), `no ${portal.incomingWebhook()}profile`, 500),
        ])
        return client.batch({ me: ['profile'] })
      },
    ],
    [
      'a page instead of an answer',
      (portal, client) => {
        portal.behaviour.raw = { status: 200, headers: {}, body: portal.incomingWebhook() }
        return client.call('profile')
      },
    ],
    [
      'a redirect',
      (portal, client) => {
        portal.behaviour.raw = { status: 301, headers: { location: portal.incomingWebhook() }, body: '' }
        return client.call('profile')
      },
    ],
    [
      'a portal that is not there',
      async (portal, client) => {
        await portal.unplug()
        return client.call('profile')
      },
    ],
    ['parameters that cannot be sent', (_, client) => client.call('profile', { n: 1n })],
    ['a list that is none', (_, client) => client.list('profile').next()],
  ]

  test.each(ways)('is nowhere in what is thrown for %s', async (_, fail) => {
    const { portal, client } = await startBoth()
    const error: unknown = await fail(portal, client).then(
      () => undefined,
      (thrown: unknown) => thrown,
    )
    expect(error).toBeInstanceOf(Error)
    const lines: string[] = []
    pino({}, { write: (line: string) => void lines.push(line) }).error({ err: error }, 'failed')
    const texts = [inspect(error, { depth: 20, showHidden: true }), String(error), JSON.stringify(error), ...lines]
    for (const text of texts) expect(text).not.toContain(portal.code())
  })

  test('is nowhere in a client', async () => {
    const { portal, client } = await startBoth()
    await client.call('profile')
    expect(inspect(client, { depth: 20, showHidden: true })).not.toContain(portal.code())
  })
})

describe('the limits', () => {
  test('of two runs at once are one: together they never get a refusal, and wait instead', async () => {
    const { clock, portal, client, another } = await startBoth()
    const calls = Array.from({ length: 54 }, (_, index) => (index % 2 ? client : another()).call('server.time'))
    await until('the burst is answered', () => statusesOf(portal)[200] === 50)
    for (let sent = 51; sent <= 54; sent++) {
      expect(await clock.skip()).toBe(500)
      await until('one more is answered', () => statusesOf(portal)[200] === sent)
    }
    await Promise.all(calls)
    expect(statusesOf(portal)).toEqual({ 200: 54 })
  })

  test('are those of the plan: nothing below adds one of its own', async () => {
    const enterprise = { rate: 5, burst: 250 }
    const { portal, client } = await startBoth({ ours: enterprise, limit: enterprise })
    const calls = Array.from({ length: 100 }, () => client.call('server.time'))
    await until('all are answered', () => statusesOf(portal)[200] === 100)
    await Promise.all(calls)
    expect(statusesOf(portal)).toEqual({ 200: 100 })
  })

  test('that others at this address have used up are waited for, and no call fails', async () => {
    const { clock, portal, client } = await startBoth({ limit: { rate: 2, burst: 3 } })
    const calls = Array.from({ length: 6 }, () => client.call('server.time'))
    await until('all were sent', () => portal.requests.length === 6)
    while (statusesOf(portal)[200] !== 6) {
      if (clock.sleeping() > 0) clock.move(100)
      await new Promise((resolve) => setImmediate(resolve))
    }
    await Promise.all(calls)
    expect(statusesOf(portal)[503]).toBeGreaterThan(0)
  })

  test('a blocked method waits until its time is forgotten, and another one does not', async () => {
    const { clock, portal, client } = await startBoth({ operating: 10 })
    portal.behaviour.seconds.set('crm.contact.list', 10)
    await client.call('crm.contact.list')
    const blocked = client.call('crm.contact.list')
    await until('it sleeps', () => clock.sleeping() > 0)
    expect(await client.call('crm.deal.list')).toEqual([])
    expect(await clock.skip()).toBe(600_000)
    expect(await blocked).toEqual([])
    expect(statusesOf(portal)).toEqual({ 200: 3, 429: 1 })
  })

  test('a method that is blocked by a portal that gave no time is tried again after a minute', async () => {
    const { clock, portal, client } = await startBoth({ operating: 'uncounted' })
    portal.behaviour.failing.set('crm.contact.list', ['OPERATION_TIME_LIMIT'])
    const blocked = client.call('crm.contact.list')
    expect(await clock.skip()).toBe(60_000)
    expect(await blocked).toEqual([])
  })

  test('a blocked method in a batch is waited for, and only what is left is sent again', async () => {
    const { clock, portal, client } = await startBoth()
    portal.behaviour.failing.set('crm.deal.list', ['OPERATION_TIME_LIMIT'])
    const commands = { note: ['im.message.add', {}], deals: ['crm.deal.list'], time: ['server.time'] } as const
    const batch = client.batch(commands)
    await clock.skip()
    expect(await batch).toEqual({ note: 1, deals: [], time: expect.any(String) })
    expect(portal.requests.map((request) => request.commands)).toEqual([
      ['im.message.add', 'crm.deal.list', 'server.time'],
      ['crm.deal.list', 'server.time'],
    ])
    expect(portal.messages).toHaveLength(1)
  })

  test('a wait for a turn is reported to the timer of the run', async () => {
    const { clock, limits, incomingWebhook } = await startBoth({ ours: { rate: 1, burst: 1 } })
    const waited: number[] = []
    const client = createClient({
      incomingWebhook,
      limits,
      whileWaiting: async (wait) => {
        const from = clock.now()
        const turn = await wait
        waited.push(clock.now() - from)
        return turn
      },
    })
    await client.call('server.time')
    const second = client.call('server.time')
    await clock.skip()
    await second
    expect(waited).toEqual([0, 1_000])
  })
})

describe('an abort', () => {
  test('ends a call that is under way, with the reason', async () => {
    const { portal, another } = await startBoth()
    const answered = Promise.withResolvers<void>()
    portal.behaviour.held = answered.promise
    const stop = new AbortController()
    const call = another(stop.signal).call('profile')
    await until('it was sent', () => portal.requests.length === 1)
    stop.abort(new Error('out of time'))
    await expect(call).rejects.toThrow('out of time')
    answered.resolve()
  })

  test('ends a wait for a turn, and nothing is sent', async () => {
    const { portal, client, another, clock } = await startBoth({ ours: { rate: 1, burst: 1 } })
    await client.call('profile')
    const stop = new AbortController()
    const call = another(stop.signal).call('profile')
    await until('it waits', () => clock.sleeping() > 0)
    stop.abort(new Error('out of time'))
    await expect(call).rejects.toThrow('out of time')
    expect(portal.requests).toHaveLength(1)
  })

  test('before the call sends nothing', async () => {
    const { portal, another } = await startBoth()
    await expect(another(AbortSignal.abort(new Error('too late'))).call('profile')).rejects.toThrow('too late')
    expect(portal.requests).toHaveLength(0)
  })
})

describe('a batch', () => {
  test('gives each result under its key, uses those before it, and takes what PHP can read', async () => {
    const { portal, client } = await startBoth()
    portal.records.add(CONTACT, { name: 'Ann & Bob' }, 7, 42)
    portal.records.add(DEAL, { title: 'Boat', contactId: 42 }, 7, 662)
    const { contact } = await client.batch({
      deal: ['crm.item.get', { entityTypeId: DEAL, id: 662 }],
      contact: ['crm.contact.get', { id: '$result[deal][item][contactId]' }],
      change: ['crm.deal.update', { id: 662, fields: { TITLE: 'A & B = C', UF_CRM_1: [1, 2], OPENED: false } }],
    })
    expect(contact).toMatchObject({ NAME: 'Ann & Bob' })
    expect(portal.records.get(DEAL, 662)?.fields).toMatchObject({
      title: 'A & B = C',
      UF_CRM_1: ['1', '2'],
      opened: '0',
    })
    expect(portal.requests).toHaveLength(1)
  })

  test('ends with the first command that fails, whose key and method are reported', async () => {
    const { portal, client } = await startBoth()
    const batch = client.batch({ gone: ['crm.deal.get', { id: 1 }], note: ['im.message.add', {}] })
    expect(await failureOf(batch)).toMatchObject({ command: 'gone', method: 'crm.deal.get', code: 'NO_CODE' })
    expect(portal.messages).toEqual([])
  })

  test('by batchSettled gives each its result or its error, also where they have numbers for keys', async () => {
    const { portal, client } = await startBoth()
    portal.records.add(CONTACT, { name: 'Ann' }, 7, 42)
    const settled = await client.batchSettled({
      0: ['crm.contact.get', { id: 42 }],
      1: ['crm.contact.get', { id: 43 }],
      2: ['tasks.task.get', { taskId: 1 }],
    })
    expect(settled).toMatchObject({
      0: { result: { NAME: 'Ann' } },
      1: { error: { code: 'NO_CODE', command: '1' } },
      2: { result: [] },
    })
  })

  test('has from 1 to 50 commands', async () => {
    const { portal, client } = await startBoth()
    const many = Object.fromEntries(Array.from({ length: 51 }, (_, key) => [`c${key}`, ['server.time'] as const]))
    await expect(client.batch(many)).rejects.toThrow('from 1 to 50 commands, not 51')
    await expect(client.batch({})).rejects.toThrow('not 0')
    expect(portal.requests).toEqual([])
  })

  test('counts once', async () => {
    const { client, clock } = await startBoth({ ours: { rate: 1, burst: 2 }, limit: { rate: 1, burst: 2 } })
    const commands = Object.fromEntries(Array.from({ length: 50 }, (_, key) => [`c${key}`, ['server.time'] as const]))
    await client.batch(commands)
    await client.batch(commands)
    expect(clock.sleeping()).toBe(0)
  })
})

describe('a list', () => {
  test.each([
    ['crm.contact.list', {}],
    ['crm.item.list', { entityTypeId: CONTACT }],
  ])('of %s gives the rows of all pages', async (method, params) => {
    const { portal, client } = await startBoth()
    for (let id = 1; id <= 120; id++) portal.records.add(CONTACT, { name: `Contact ${id}` }, 7)
    const rows: unknown[] = []
    for await (const row of client.list(method, params)) rows.push(row)
    expect(rows).toHaveLength(120)
    expect(portal.requests.map((request) => request.params['start'])).toEqual([0, 50, 100])
  })

  test('asks for no page that is not wanted', async () => {
    const { portal, client } = await startBoth()
    for (let id = 1; id <= 120; id++) portal.records.add(CONTACT, { name: `Contact ${id}` }, 7)
    for await (const _ of client.list('crm.contact.list')) break
    expect(portal.requests).toHaveLength(1)
  })

  /** A portal of 120 contacts that pages as it is told. */
  async function startPaging(change: (answer: JsonObject, rows: readonly Json[], start: number) => JsonObject) {
    const both = await startBoth()
    const { portal, client } = both
    for (let id = 1; id <= 120; id++) portal.records.add(CONTACT, { name: `Contact ${id}` }, 7)
    portal.behaviour.change = (answer, { params }) =>
      change(answer, Array.isArray(answer['result']) ? answer['result'] : [], Number(params['start']))
    const ids: string[] = []
    const read = async (params: Params = {}, method = 'crm.contact.list') => {
      for await (const row of client.list<{ ID: string }>(method, params)) ids.push(row.ID)
    }
    return { ...both, ids, read }
  }
  const all = Array.from({ length: 120 }, (_, index) => String(index + 1))
  const without = (answer: JsonObject, ...names: string[]) =>
    Object.fromEntries(Object.entries(answer).filter(([name]) => !names.includes(name)))

  test.each<[string, (answer: JsonObject, rows: readonly Json[], start: number) => JsonObject]>([
    ['total without next', (answer) => without(answer, 'next')],
    [
      'both as texts',
      (answer) => ({ ...answer, ...(answer['next'] && { next: asText(answer['next']) }), total: '120' }),
    ],
    ['neither', (answer) => without(answer, 'next', 'total')],
    ['a next that does not go on', (answer) => ({ ...answer, next: 0 })],
    [
      'total, and pages of twenty',
      (answer, rows) => ({ ...without(answer, 'next'), result: rows.slice(0, 20), total: 120 }),
    ],
  ])('is whole where the portal sends %s', async (_, change) => {
    const { ids, read } = await startPaging(change)
    await read()
    expect(ids).toEqual(all)
  })

  test.each<[string, (answer: JsonObject, rows: readonly Json[], start: number) => JsonObject, string]>([
    [
      'ends early',
      (answer, rows, start) => ({ ...without(answer, 'next'), result: start < 100 ? rows : [] }),
      '100 of 120',
    ],
    [
      'gives the first page again and again',
      (answer) => ({ ...without(answer, 'next'), result: all.slice(0, 50).map((ID) => ({ ID })) }),
      '50 of 120',
    ],
  ])(
    'of a portal that %s says after its last row that it is not whole, with both numbers',
    async (_, change, numbers) => {
      const { ids, read } = await startPaging(change)
      await expect(read()).rejects.toThrow(`crm.contact.list gave ${numbers} rows: the list is not whole`)
      expect(ids).toEqual(all.slice(0, Number(numbers.split(' ')[0])))
    },
  )

  test('lacks nothing when rows are deleted while it is read', async () => {
    const { portal, ids, read } = await startPaging((answer, _, start) => {
      if (start === 50) for (let id = 111; id <= 120; id++) portal.records.remove(CONTACT, id)
      return answer
    })
    await read()
    expect(ids).toEqual(all.slice(0, 110))
  })

  test('of a method that knows no pages and counts nothing has each row once', async () => {
    const { portal, ids, read } = await startPaging((answer) => ({
      ...without(answer, 'next', 'total'),
      result: all.slice(0, 50).map((ID) => ({ ID })),
    }))
    await read()
    expect(ids).toEqual(all.slice(0, 50))
    expect(portal.requests).toHaveLength(2)
  })

  test('that is asked not to be counted goes on by id, within the filter', async () => {
    const { portal, ids, read } = await startPaging((answer) => answer)
    await read({ start: -1, filter: { '>ID': 3, '>=ID': 1 } })
    expect(ids).toEqual(all.slice(3))
    expect(portal.requests.map(({ params }) => params['filter'])).toEqual([
      { '>ID': 3, '>=ID': 1 },
      { '>ID': '53', '>=ID': 1 },
      { '>ID': '103', '>=ID': 1 },
    ])
  })

  test('that is not counted and cannot go on by id says that it may not be whole', async () => {
    const { ids, read } = await startPaging((answer) => answer)
    await expect(read({ start: -1, order: { NAME: 'ASC' } })).rejects.toThrow('gave 50 rows and may have more')
    expect(ids).toHaveLength(50)
  })

  test('of what is no list says so', async () => {
    const { client } = await startBoth()
    await expect(client.list('server.time').next()).rejects.toThrow('server.time gives no list: use call')
  })
})

test('in a process of its own, which is not a test, nothing is printed but what the process itself prints', async () => {
  const portal = await startPortal()
  const src = fileURLToPath(new URL('../../../src/bitrix24/', import.meta.url))
  const script = `
    import { createClient } from '${src}client.ts'
    import { realClock } from '${src}../lib/clock.ts'
    import { parseIncomingWebhooks } from '${src}incoming-webhook.ts'
    import { createLimits } from '${src}limits.ts'
    const [hook] = parseIncomingWebhooks(process.env.HOOK)
    const client = createClient({ incomingWebhook: hook, limits: createLimits({ rate: 2, burst: 50, clock: realClock }) })
    const { ID } = await client.call('profile')
    const { code } = await client.call('crm.deal.get', { id: 1 }).catch((error) => error)
    console.log(ID, code)
  `
  const { stdout, stderr } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', script], {
    env: { ...portal.env, HOOK: portal.incomingWebhook() },
  })
  expect([stdout, stderr]).toEqual(['1 NO_CODE\n', ''])
})

test('by the real clock what is above the burst comes later', async () => {
  const portal = await startPortal({ limit: { rate: 20, burst: 2 } })
  const limits = createLimits({ rate: 20, burst: 2, clock: realClock })
  const client = createClient({ incomingWebhook: incomingWebhookOf(portal), limits })
  await Promise.all(Array.from({ length: 6 }, () => client.call('server.time')))
  expect(statusesOf(portal)[200]).toBe(6)
})
