import { describe, expect, test } from 'vitest'
import { documentedEvents, entryOf, eventsOfType } from '../../../src/events/catalogue.ts'
import { toEvent } from '../../../src/intake/event.ts'
import { decodeForm } from '../../../src/intake/form.ts'
import { webhookBody } from '../../../src/simulator/webhook-body.ts'
import { isObject, samples } from '../../support/intake.ts'
import { isPhpArray } from '../../support/php.ts'

const portal = { domain: 'example.bitrix24.com', memberId: 'm', token: 'made0up0token' }
const origin = { webhook: undefined, query: undefined, remote: '203.0.113.7', secrets: [] }
const eventOf = (body: string) => toEvent(decodeForm(body), origin)

const ofWebhooks = samples.filter(({ name }) => name.startsWith('webhook/') || name.endsWith('-outgoing-webhook'))

test('there are samples of webhooks', () => {
  expect(ofWebhooks.length).toBeGreaterThan(70)
})

test.each(ofWebhooks)('with the values of $name it writes its bytes', ({ body, json }) => {
  const sent: unknown = JSON.parse(json)
  if (!isPhpArray(sent) || !isObject(sent['auth'])) throw new Error('no form of a webhook')
  const { event, event_handler_id, data, ts, auth } = sent
  const text = (value: unknown) => (typeof value === 'string' ? value : '')
  const written = webhookBody({
    event: text(event),
    handlerId: event_handler_id === undefined ? null : Number(event_handler_id),
    data: data ?? null,
    ts: Number(ts),
    portal: {
      domain: text(auth['domain']),
      memberId: text(auth['member_id']),
      token: text(auth['application_token']),
      clientEndpoint: text(auth['client_endpoint']),
      serverEndpoint: text(auth['server_endpoint']),
    },
  })
  expect(written).toBe(body.toString())
})

describe.each([...documentedEvents, ...eventsOfType('147')])('of %s', (event) => {
  const { shape, object, data } = eventOf(webhookBody({ event, id: 662, ts: 1736405807, portal }))
  const rule = entryOf(event)?.object

  test('the data has the documented shape and is about the object asked for', () => {
    expect(shape).toBeUndefined()
    expect(object?.split(':').at(-1)).toBe(rule && '662')
    expect(object?.split(':').at(0)).toBe(rule?.kind)
    expect(data === undefined).toBe(event === 'ONOFFLINEEVENT')
  })
})

test('of an event of one dynamic type the data says which', () => {
  expect(eventOf(webhookBody({ event: 'ONCRMDYNAMICITEMADD_147', id: 7, ts: 1, portal })).object).toBe('item:147:7')
})

test('an event that no one documented has the data that it is given, or none', () => {
  const ofNew = (data?: string) =>
    eventOf(webhookBody({ event: 'ONSOMETHINGNEW', ts: 1, portal, ...(data !== undefined && { data }) }))
  expect(ofNew()).toMatchObject({ event: 'ONSOMETHINGNEW', ts: '1' })
  expect(ofNew().data).toBeUndefined()
  expect(ofNew('107').data).toBe('107')
})

test('null, and what holds nothing but null, is not sent', () => {
  const data = { FIELDS: { ID: 1, XML_ID: null, LIST: [], DEEP: { X: null } }, OTHER: null }
  expect(webhookBody({ event: 'E', handlerId: null, data, ts: 1, portal }).split('&auth')[0]).toBe(
    'event=E&data%5BFIELDS%5D%5BID%5D=1&ts=1',
  )
})
