import { describe, expect, test } from 'vitest'
import { type Origin, toEvent } from '../../../src/intake/event.ts'
import { decodeForm } from '../../../src/intake/form.ts'
import { catchRefusal, samples } from '../../support/intake.ts'

const origin: Origin = { webhook: 'sales', query: undefined, remote: '203.0.113.7', secrets: ['a-token-that-we-hold'] }
const eventOf = (text: string, more: Partial<Origin> = {}) => toEvent(decodeForm(text), { ...origin, ...more })

test('an event is the post with an id, its webhook, its object and where it came from', () => {
  const text =
    'event=ONCRMDEALUPDATE&event_handler_id=312&data[FIELDS][ID]=662&ts=1736405807' +
    '&auth[domain]=example.com&auth[member_id]=m&auth[application_token]=a-token-that-we-hold'
  expect(JSON.parse(JSON.stringify(eventOf(text, { query: decodeForm('from=portal') })))).toEqual({
    id: expect.any(String),
    webhook: 'sales',
    event: 'ONCRMDEALUPDATE',
    object: 'deal:662',
    event_handler_id: '312',
    ts: '1736405807',
    data: { FIELDS: { ID: '662' } },
    auth: { domain: 'example.com', member_id: 'm' },
    query: { from: 'portal' },
    remote: '203.0.113.7',
  })
})

test('what was not sent is absent from the line, not null', () => {
  const line = JSON.stringify(eventOf('event=ONOFFLINEEVENT', { webhook: undefined }))
  expect(line).toMatch(/^\{"id":"[^"]+","event":"ONOFFLINEEVENT","remote":"203.0.113.7"\}$/)
})

test('a field of the form that an event does not know is in extra, and takes the place of no other', () => {
  const extra = { eventId: '1', remote: 'spoofed', id: 'spoofed', webhook: 'spoofed', object: 'spoofed' }
  const text = 'event=E&eventId=1&remote=spoofed&id=spoofed&webhook=spoofed&object=spoofed'
  expect(eventOf(text)).toEqual({ extra, id: expect.any(String), webhook: 'sales', event: 'E', remote: '203.0.113.7' })
  expect(eventOf(text).id).not.toBe('spoofed')
})

test('an event has an id of its own, a UUIDv7, and a later one sorts behind it', () => {
  const ids = Array.from({ length: 100 }, () => eventOf('event=E').id)
  for (const id of ids) expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  expect(new Set(ids).size).toBe(ids.length)
  expect(ids.map((id) => id.slice(0, 13))).toEqual(ids.map((id) => id.slice(0, 13)).toSorted())
})

test.each([
  ['onCrmTimelineCommentAdd', 'ONCRMTIMELINECOMMENTADD', 'timelinecomment:9'],
  ['catalog.product.on.add', 'CATALOG.PRODUCT.ON.ADD', 'product:9'],
  ['ONCRMDEALADD', 'ONCRMDEALADD', 'deal:9'],
])('%s is written as %s', (sent, event, object) => {
  expect(eventOf(`event=${sent}&data[FIELDS][ID]=9`)).toMatchObject({ event, object })
})

test('an event that no one documented is an event without an object', () => {
  const event = eventOf('event=ONSOMETHINGNEW&data[FIELDS][ID]=9')
  expect(event).toMatchObject({ event: 'ONSOMETHINGNEW', data: { FIELDS: { ID: '9' } } })
  expect(event.object).toBeUndefined()
})

test('an event whose data is not as documented is marked as such, and any other is not', () => {
  expect(eventOf('event=onCrmDealAdd&data[FIELDS]=9')).toMatchObject({ event: 'ONCRMDEALADD', shape: 'unexpected' })
  for (const text of ['event=ONCRMDEALADD&data[FIELDS][ID]=9', 'event=ONSOMETHINGNEW&data[FIELDS]=9'])
    expect(eventOf(text).shape).toBeUndefined()
})

/** Written after the documentation, which is wrong there: the portal sends data[FIELDS][ID], as webhook/… has it. */
const otherwise = ['application/ONCRMTIMELINECOMMENTADD', 'application/ONCRMTIMELINECOMMENTUPDATE']

test.each(samples)('$name has its shape of the catalogue, or is listed as otherwise', ({ name, body }) => {
  expect(eventOf(body.toString()).shape).toBe(otherwise.includes(name) ? 'unexpected' : undefined)
})

describe('data is as it was sent:', () => {
  test.each([
    ['an object', 'data[ID]=1', { ID: '1' }],
    ['a list', 'data[]=1&data[]=2', ['1', '2']],
    ['a text', 'data=107', '107'],
    ['an empty text', 'data=', ''],
    ['absent', 'ts=1', undefined],
  ])('%s', (_, text, data) => {
    const event = eventOf(`event=E&${text}`)
    expect(event.data).toEqual(data)
    expect(JSON.stringify(event).includes('"data":')).toBe(data !== undefined)
  })
})

describe('refused as malformed_event, with the field', () => {
  test.each([
    ['event', 'no event', 'ts=1'],
    ['event', 'an empty event', 'event='],
    ['event', 'an event that is a list', 'event[]=E'],
    ['event', 'an event that is an object', 'event[a]=E'],
    ['event', 'an event that is one of our tokens', 'event=a-token-that-we-hold'],
    ['ts', 'a ts that is a list', 'event=E&ts[]=1'],
    ['event_handler_id', 'an event_handler_id that is an object', 'event=E&event_handler_id[a]=1'],
  ])('%s: %s', (field, _, text) => {
    const { code, details } = catchRefusal(() => eventOf(text))
    expect({ code, details }).toEqual({ code: 'malformed_event', details: { field } })
  })
})

test.each(samples)('$name keeps its ts and event_handler_id as they were sent', ({ body, json }) => {
  const { ts, event_handler_id } = toEvent(decodeForm(body.toString()), origin)
  expect(JSON.parse(json)).toMatchObject({ ts, ...(event_handler_id !== undefined && { event_handler_id }) })
})
