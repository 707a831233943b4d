import { once } from 'node:events'
import { createServer, type IncomingMessage } from 'node:http'
import { get } from 'node:https'
import { AjaxError, type AjaxResult, B24Hook, type Result } from '@bitrix24/b24jssdk'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { Form } from '../../src/events/form.ts'
import { decodeForm } from '../../src/intake/form.ts'
import { createClock } from './clock.ts'
import { isJsonObject, type JsonObject } from './portal/php.ts'
import { RestError } from './portal/rest-error.ts'
import { type Portal, startPortal } from './portal.ts'
import { freePort, startReceiver, TOKEN } from './receiver.ts'

const DEAL = 2
const CONTACT = 3
const SMART_PROCESS = 1220

/** A post without any library between. */
async function call(portal: Portal, method: string, params: unknown = {}, incomingWebhook = portal.incomingWebhook()) {
  const response = await fetch(`${incomingWebhook}${method}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(params),
  })
  const body: unknown = await response.json()
  if (!isJsonObject(body)) throw new Error('no object')
  return { status: response.status, body, result: body['result'], error: body['error'] }
}

/** Somebody who is sent events. */
async function startListener() {
  const forms: Form[] = []
  const connections: (string | undefined)[] = []
  const server = createServer((request, response) => {
    let text = ''
    request.setEncoding('utf8').on('data', (part: string) => {
      text += part
    })
    request.on('end', () => {
      forms.push(decodeForm(text))
      connections.push(request.headers.connection)
      response.end('{}')
    })
  })
  const port = await freePort()
  server.listen(port, '127.0.0.1')
  onTestFinished(() => void server.close())
  return { url: `http://127.0.0.1:${port}/`, forms, connections, names: () => forms.map((form) => form['event']) }
}

describe('records', () => {
  test('a deal is read with its own fields under their original names when asked so, in camelCase otherwise', async () => {
    const portal = await startPortal()
    portal.records.add(DEAL, { title: 'Boat', UF_CRM_2_1639669411830: 'red' }, 7, 662)
    const asked = { entityTypeId: DEAL, id: 662 }
    const original = await call(portal, 'crm.item.get', { ...asked, useOriginalUfNames: 'Y' })
    expect(original.result).toMatchObject({ item: { id: 662, title: 'Boat', UF_CRM_2_1639669411830: 'red' } })
    const camel = await call(portal, 'crm.item.get', asked)
    expect(camel.result).toMatchObject({ item: { ufCrm2_1639669411830: 'red', entityTypeId: DEAL } })
    const changed = await call(portal, 'crm.item.update', { ...asked, fields: { ufCrm2_1639669411830: 'blue' } })
    expect(changed.result).toMatchObject({ item: { ufCrm2_1639669411830: 'blue' } })
    expect(portal.records.get(DEAL, 662)?.fields).toEqual({ title: 'Boat', UF_CRM_2_1639669411830: 'blue' })
  })

  test('the older methods return the same deal in upper case and texts', async () => {
    const portal = await startPortal()
    portal.records.add(DEAL, { title: 'Boat', opportunity: 10, assignedById: 3 }, 7, 662)
    expect((await call(portal, 'crm.deal.update', { id: 662, fields: { STAGE_ID: 'WON' } })).result).toBe(true)
    expect((await call(portal, 'crm.deal.get', { ID: 662 })).result).toMatchObject({
      ID: '662',
      OPPORTUNITY: '10',
      STAGE_ID: 'WON',
      ASSIGNED_BY_ID: '3',
      CREATED_BY_ID: '7',
      MODIFY_BY_ID: '1',
    })
    expect(portal.records.get(DEAL, 662)?.fields).toMatchObject({ stageId: 'WON' })
  })

  test('the time of a change has whole seconds, and its author is a person or the incoming webhook', async () => {
    const clock = createClock(Date.UTC(2026, 10, 23, 8, 0, 0, 700))
    const portal = await startPortal({ now: clock.now, user: 5 })
    portal.records.add(DEAL, { title: 'Boat' }, 7, 662)
    const read = async () => (await call(portal, 'crm.item.get', { entityTypeId: DEAL, id: 662 })).result
    expect(await read()).toMatchObject({ item: { updatedTime: '2026-11-23T11:00:00+03:00', updatedBy: 7 } })
    await call(portal, 'crm.item.update', { entityTypeId: DEAL, id: 662, fields: { title: 'Ship' } })
    expect(await read()).toMatchObject({ item: { updatedTime: '2026-11-23T11:00:00+03:00', updatedBy: 5 } })
    clock.move(1_000)
    portal.edit(DEAL, 662, { title: 'Boat' }, 8)
    expect(await read()).toMatchObject({ item: { updatedTime: '2026-11-23T11:00:01+03:00', updatedBy: 8 } })
  })

  test('what is missing is an error of crm.item, one without a code of crm.deal, an empty list of a task', async () => {
    const portal = await startPortal()
    expect(await call(portal, 'crm.item.get', { entityTypeId: DEAL, id: 1 })).toMatchObject({
      status: 400,
      error: 'NOT_FOUND',
    })
    expect(await call(portal, 'crm.deal.get', { id: 1 })).toMatchObject({ status: 400, error: '' })
    expect(await call(portal, 'tasks.task.get', { taskId: 1 })).toMatchObject({ status: 200, result: [] })
  })

  test('a list comes in pages of 50, and by id where no one counts', async () => {
    const portal = await startPortal()
    for (let id = 1; id <= 120; id++) portal.records.add(CONTACT, { name: `Contact ${id}` }, 7)
    const first = await call(portal, 'crm.contact.list')
    expect([(first.result as unknown[]).length, first.body['next'], first.body['total']]).toEqual([50, 50, 120])
    const last = await call(portal, 'crm.contact.list', { start: 100 })
    expect([(last.result as unknown[]).length, last.body['next'], last.body['total']]).toEqual([20, undefined, 120])
    const after = await call(portal, 'crm.contact.list', { start: -1, filter: { '>ID': 50 }, order: { ID: 'ASC' } })
    expect((after.result as JsonObject[])[0]).toMatchObject({ ID: '51' })
    expect(after.body['total']).toBeUndefined()
  })
})

describe('limits', () => {
  test('what is above the burst is refused until enough has leaked away', async () => {
    const clock = createClock()
    const portal = await startPortal({ now: clock.now, limit: { rate: 2, burst: 3 } })
    const status = async () => (await call(portal, 'server.time')).status
    expect([await status(), await status(), await status(), await status()]).toEqual([200, 200, 200, 503])
    clock.move(400)
    expect(await status()).toBe(503)
    clock.move(100)
    expect([await status(), await status()]).toEqual([200, 503])
  })

  test('each source address has a bucket of its own', async () => {
    const portal = await startPortal({ limit: { rate: 0, burst: 1 } })
    expect((await call(portal, 'server.time')).status).toBe(200)
    const request = get(`${portal.incomingWebhook()}server.time`, { localAddress: '127.0.0.9', agent: false })
    const [response]: IncomingMessage[] = await once(request, 'response')
    expect(response?.resume().statusCode).toBe(200)
    expect(await call(portal, 'server.time')).toMatchObject({ status: 503, error: 'QUERY_LIMIT_EXCEEDED' })
  })

  test('a method that took too long is blocked until its oldest minute is forgotten, the others are not', async () => {
    const clock = createClock()
    const portal = await startPortal({ now: clock.now, operating: 10 })
    portal.behaviour.seconds.set('crm.contact.list', 6)
    const first = await call(portal, 'crm.contact.list')
    expect(first.body['time']).toMatchObject({ operating: 6, operating_reset_at: 600 })
    await call(portal, 'crm.contact.list')
    expect(await call(portal, 'crm.contact.list')).toMatchObject({ status: 429, error: 'OPERATION_TIME_LIMIT' })
    expect((await call(portal, 'crm.deal.list')).status).toBe(200)
    clock.move(600_000)
    expect((await call(portal, 'crm.contact.list')).status).toBe(200)
  })

  test('a portal that gives no operating counters limits no method either', async () => {
    const portal = await startPortal({ operating: 'uncounted' })
    portal.behaviour.seconds.set('crm.contact.list', 1_000)
    for (const _ of [1, 2]) {
      const { status, body } = await call(portal, 'crm.contact.list')
      expect(status).toBe(200)
      expect(body['time']).not.toHaveProperty('operating')
    }
  })
})

describe('batch', () => {
  test('a command uses what those before it gave, and its errors are inside', async () => {
    const portal = await startPortal()
    portal.records.add(CONTACT, { name: 'Ann' }, 7, 42)
    portal.records.add(DEAL, { title: 'Boat', contactId: 42 }, 7, 662)
    const { status, result } = await call(portal, 'batch', {
      halt: 0,
      cmd: {
        deal: 'crm.item.get?entityTypeId=2&id=662',
        none: 'crm.item.get?entityTypeId=2&id=663',
        contact: 'crm.contact.get?id=$result[deal][item][contactId]',
        note: 'im.message.add?DIALOG_ID=chat1&MESSAGE=of+$result[contact][NAME]+and+$result[none][x]',
        again: 'batch?cmd[a]=server.time',
      },
    })
    expect(status).toBe(200)
    expect(result).toMatchObject({
      result: { deal: { item: { id: 662 } }, contact: { NAME: 'Ann' }, note: 1 },
      result_error: { none: { error: 'NOT_FOUND' }, again: { error: 'ERROR_BATCH_METHOD_NOT_ALLOWED' } },
      result_next: [],
      result_time: { deal: { operating: expect.any(Number) } },
    })
    expect(portal.messages).toEqual([{ dialogId: 'chat1', text: 'of Ann and ', from: 1 }])
    expect(portal.requests).toHaveLength(1)
  })

  test('with halt the first error ends it', async () => {
    const portal = await startPortal()
    const { result } = await call(portal, 'batch', { halt: 1, cmd: ['crm.deal.get?id=1', 'server.time'] })
    expect(result).toMatchObject({ result: [], result_error: [{ error: '' }] })
  })

  test('of more than 50 commands none runs', async () => {
    const portal = await startPortal()
    const answer = await call(portal, 'batch', { cmd: Array.from({ length: 51 }, () => 'server.time') })
    expect(answer).toMatchObject({ status: 400, error: 'ERROR_BATCH_LENGTH_EXCEEDED' })
  })
})

describe('what goes wrong', () => {
  test('an incoming webhook whose code was changed is known no more, and the new one is', async () => {
    const portal = await startPortal()
    const before = portal.incomingWebhook()
    portal.changeCode()
    expect(await call(portal, 'profile', {}, before)).toMatchObject({ status: 401, error: 'INVALID_CREDENTIALS' })
    expect((await call(portal, 'profile')).result).toMatchObject({ ID: '1' })
  })

  test.each([
    ['expired_token', 401],
    ['NO_AUTH_FOUND', 401],
    ['ACCESS_DENIED', 401],
    ['OVERLOAD_LIMIT', 401],
    ['INTERNAL_SERVER_ERROR', 500],
  ] as const)('a dead incoming webhook answers everything with %s until it lives again', async (code, status) => {
    const portal = await startPortal()
    portal.behaviour.dead = code
    expect(await call(portal, 'profile')).toMatchObject({ status, error: code })
    portal.behaviour.dead = undefined
    expect((await call(portal, 'profile')).status).toBe(200)
  })

  test('a method may need a scope that the incoming webhook has not, be forbidden to its user, or be none', async () => {
    const portal = await startPortal({ scopes: ['crm'] })
    portal.behaviour.forbidden.add('crm.deal.list')
    expect(await call(portal, 'tasks.task.list')).toMatchObject({ status: 401, error: 'insufficient_scope' })
    expect(await call(portal, 'crm.deal.list')).toMatchObject({ status: 400, error: 'ACCESS_DENIED' })
    expect(await call(portal, 'crm.deal.lost')).toMatchObject({ status: 404, error: 'ERROR_METHOD_NOT_FOUND' })
  })

  test('a method fails as often as it is set to', async () => {
    const portal = await startPortal()
    portal.behaviour.failing.set('profile', ['QUERY_LIMIT_EXCEEDED', new RestError('ERROR_CORE', 'no', 500), 'ok'])
    const statuses = [await call(portal, 'profile'), await call(portal, 'profile'), await call(portal, 'profile')]
    expect(statuses.map(({ status }) => status)).toEqual([503, 500, 200])
    expect(portal.requests.map(({ method, status }) => [method, status])).toEqual([
      ['profile', 503],
      ['profile', 500],
      ['profile', 200],
    ])
  })

  test('unplugged it is unreachable, and plugged in it is where it was', async () => {
    const portal = await startPortal()
    portal.records.add(DEAL, { title: 'Boat' }, 7, 662)
    await portal.unplug()
    await expect(call(portal, 'profile')).rejects.toThrow('fetch failed')
    await portal.plugIn()
    expect((await call(portal, 'crm.deal.get', { id: 662 })).result).toMatchObject({ TITLE: 'Boat' })
  })
})

describe('events', () => {
  test('every write fires one event, of whichever user, and one that changes nothing fires none', async () => {
    const portal = await startPortal()
    const { url, forms, names, connections } = await startListener()
    portal.subscribe({ url, token: TOKEN })
    portal.records.add(DEAL, { title: 'Boat' }, 7, 662)
    portal.edit(DEAL, 662, { title: 'Ship' })
    const fields = { title: 'Raft' }
    for (const _ of [1, 2]) await call(portal, 'crm.item.update', { entityTypeId: DEAL, id: 662, fields })
    await call(portal, 'crm.item.add', { entityTypeId: SMART_PROCESS, fields })
    await call(portal, 'tasks.task.add', { fields: { TITLE: 'Paint it', RESPONSIBLE_ID: 3 } })
    await call(portal, 'crm.deal.delete', { id: 662 })
    await portal.eventsAnswered()
    expect(names()).toEqual([
      'ONCRMDEALADD',
      'ONCRMDEALUPDATE',
      'ONCRMDEALUPDATE',
      'ONCRMDYNAMICITEMADD',
      'ONTASKADD',
      'ONCRMDEALDELETE',
    ])
    expect(new Set(connections)).toEqual(new Set(['close']))
    expect(forms[0]).toMatchObject({ data: { FIELDS: { ID: '662' } } })
    expect(forms[3]).toMatchObject({ data: { FIELDS: { ID: '1', ENTITY_TYPE_ID: '1220' } } })
    expect(forms[4]).toMatchObject({ data: { FIELDS_BEFORE: 'undefined', FIELDS_AFTER: { ID: '1' } } })
    expect(Object.keys(forms[0]?.['auth'] ?? {})).toEqual([
      'domain',
      'client_endpoint',
      'server_endpoint',
      'member_id',
      'application_token',
    ])
    expect(forms[0]).toMatchObject({ auth: { domain: portal.host, member_id: portal.memberId } })
  })

  test('those of a smart process come with its type behind their name too, for who asks for both', async () => {
    const portal = await startPortal()
    const { url, names } = await startListener()
    const events = ['ONCRMDYNAMICITEMADD', 'ONCRMDYNAMICITEMADD_1220']
    portal.subscribe({ url, token: TOKEN, events })
    portal.records.add(SMART_PROCESS, { title: 'Boat' }, 7)
    portal.records.add(DEAL, { title: 'Boat' }, 7)
    await portal.eventsAnswered()
    expect(names()).toEqual(events)
  })

  test('they may come twice, late, and only of some names', async () => {
    const portal = await startPortal()
    const { url, names } = await startListener()
    portal.subscribe({ url, token: TOKEN, copies: 2, delay: 1, events: ['ONCRMDEALUPDATE'] })
    portal.records.add(DEAL, { title: 'Boat' }, 7, 662)
    portal.edit(DEAL, 662, { title: 'Ship' })
    expect(names()).toEqual([])
    await portal.eventsAnswered()
    expect(names()).toEqual(['ONCRMDEALUPDATE', 'ONCRMDEALUPDATE'])
  })

  test('a receiver takes them, and its handler reaches the portal that sent them', async () => {
    const portals = [await startPortal(), await startPortal({ address: '127.0.0.2' })]
    const incomingWebhooks = Object.fromEntries(portals.map((portal) => [portal.host, portal.incomingWebhook()]))
    const receiver = await startReceiver({
      env: { ...portals[0]?.env, HOOKS: JSON.stringify(incomingWebhooks) },
      handlers: {
        'ONCRMDEALADD.mjs': `export default async (event, { log, signal }) => {
          const hook = JSON.parse(process.env.HOOKS)[event.auth.domain]
          const answer = await fetch(hook + 'crm.deal.get?id=' + event.data.FIELDS.ID, { signal })
          log.info({ title: (await answer.json()).result.TITLE }, 'read back')
        }`,
      },
    })
    for (const [index, portal] of portals.entries()) {
      portal.subscribe({ url: receiver.url, token: TOKEN })
      portal.records.add(DEAL, { title: `Boat ${index}` }, 7, 662)
      await portal.eventsAnswered()
      expect(portal.fired).toEqual([{ event: 'ONCRMDEALADD', id: 662, status: 200 }])
    }
    const titles = () => new Set(receiver.logged('read back').map((line) => line['title']))
    await expect.poll(titles).toEqual(new Set(['Boat 0', 'Boat 1']))
  })
})

describe('the official SDK', () => {
  const sdkOf = (portal: Portal) => B24Hook.fromWebhookUrl(portal.incomingWebhook()).actions.v2

  test('calls, and reads all pages of a list', async () => {
    const portal = await startPortal()
    for (let id = 1; id <= 120; id++) portal.records.add(DEAL, { title: `Deal ${id}` }, 7)
    const sdk = sdkOf(portal)
    const params = { entityTypeId: DEAL, id: 7 }
    const answer = await sdk.call.make<{ item: { title: string } }>({ method: 'crm.item.get', params })
    expect(answer.getData()?.result.item.title).toBe('Deal 7')
    const ids: number[] = []
    const list = { method: 'crm.item.list', params: { entityTypeId: DEAL }, idKey: 'id', customKeyForResult: 'items' }
    for await (const rows of sdk.fetchList.make<{ id: number }>(list)) ids.push(...rows.map(({ id }) => id))
    expect(ids).toEqual(Array.from({ length: 120 }, (_, index) => index + 1))
  })

  test('sends a batch and finds the error of a command under its name', async () => {
    const portal = await startPortal()
    portal.records.add(CONTACT, { name: 'Ann' }, 7, 42)
    const answer = await sdkOf(portal).batch.make<JsonObject>({
      calls: {
        ann: { method: 'crm.contact.get', params: { id: 42 } },
        nobody: { method: 'crm.item.get', params: { entityTypeId: CONTACT, id: 43 } },
      },
      options: { isHaltOnError: false, returnAjaxResult: true },
    })
    const rows = (answer as Result<Record<string, AjaxResult<JsonObject>>>).getData()
    expect(rows?.['ann']?.getData()?.result).toMatchObject({ NAME: 'Ann' })
    expect(rows?.['nobody']?.getErrorMessages()).toEqual(['Element not found'])
  })

  test('throws what the portal answered', async () => {
    const portal = await startPortal()
    portal.behaviour.dead = 'INVALID_CREDENTIALS'
    const error = await sdkOf(portal)
      .call.make({ method: 'profile' })
      .catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(AjaxError)
    expect(error).toMatchObject({ code: 'INVALID_CREDENTIALS', status: 401 })
  })
})
