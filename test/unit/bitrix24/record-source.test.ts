import { describe, expect, test } from 'vitest'
import { Bitrix24Error } from '../../../src/bitrix24/bitrix24-error.ts'
import { parseIncomingWebhooks } from '../../../src/bitrix24/incoming-webhook.ts'
import { sourceOf } from '../../../src/bitrix24/record-source.ts'
import { isObject, readFixture } from '../../support/intake.ts'

const objects = readFixture('objects.json')
if (!isObject(objects)) throw new Error('an object of objects')
const sampled = Object.values(objects).filter((object) => typeof object === 'string')

const [incomingWebhook] = parseIncomingWebhooks('https://example.bitrix24.com/rest/1/abc/')
if (!incomingWebhook) throw new Error('no incoming webhook')

const refusal = (object: string, code: string, description: string) =>
  new Bitrix24Error({
    incomingWebhook,
    method: sourceOf(object).method,
    code,
    description,
    status: 200,
    command: 'record0',
  })

function hasRecord(object: string): boolean {
  try {
    return sourceOf(object).method !== ''
  } catch {
    return false
  }
}

test('whatever an event is about has a record, but for these kinds', () => {
  const without = sampled.filter((object) => !hasRecord(object))
  const kinds = new Set(without.map((object) => object.replace(/:[^:]*$/, '')))
  expect([...kinds].toSorted()).toEqual([
    'bot',
    'calendarsection',
    'call',
    'chat',
    'line',
    'post',
    'signdocument',
    // Of a smart process, here the 13th.
    'userfield:CRM_13',
  ])
})

test.each([
  ['deal:662', 'crm.item.get', { entityTypeId: 2, id: '662' }],
  ['lead:1', 'crm.item.get', { entityTypeId: 1, id: '1' }],
  ['contact:5', 'crm.item.get', { entityTypeId: 3, id: '5' }],
  ['company:5', 'crm.item.get', { entityTypeId: 4, id: '5' }],
  ['quote:3', 'crm.item.get', { entityTypeId: 7, id: '3' }],
  ['item:31:9', 'crm.item.get', { entityTypeId: '31', id: '9' }],
  ['item:1032:21', 'crm.item.get', { entityTypeId: '1032', id: '21' }],
])('%s is read by %s, with the names that custom fields have in the portal', (object, method, params) => {
  expect(sourceOf(object)).toMatchObject({ method, params: { ...params, useOriginalUfNames: 'Y' } })
})

test.each([
  ['task:17', 'tasks.task.get', { taskId: '17', select: ['*', 'UF_CRM_TASK'] }],
  ['invoice:9', 'crm.invoice.get', { id: '9' }],
  ['currency:CHE', 'crm.currency.get', { id: 'CHE' }],
  ['address:8:7335:1', 'crm.address.list', { filter: { ENTITY_TYPE_ID: '8', ENTITY_ID: '7335', TYPE_ID: '1' } }],
  ['userfield:CRM_DEAL:6947', 'crm.deal.userfield.get', { id: '6947' }],
  ['itemtype:45', 'crm.type.list', { filter: { id: '45' } }],
])('%s is read by %s', (object, method, params) => {
  expect(sourceOf(object)).toMatchObject({ method, params })
})

test.each(['constructor:1', '__proto__:1', 'chat:5', 'userfield:CRM_5:1', 'unknown', ''])(
  '"%s" is nothing that a method reads',
  (object) => {
    expect(() => sourceOf(object)).toThrow(TypeError)
  },
)

test.each(['deal', 'deal:', 'deal:1:2', 'item:21', 'deal:$result[record0][id]', 'deal:1&entityTypeId=3', 'deal:1/2'])(
  '%s has no id, and nothing of it goes into a call',
  (object) => {
    expect(() => sourceOf(object)).toThrow(`${object} has no id`)
  },
)

// As on the methods' pages, "Response Handling".
describe('the record in an answer', () => {
  test.each<[object: string, result: unknown, record: unknown]>([
    ['deal:662', { item: { id: 662 } }, { id: 662 }],
    ['task:17', { task: { id: '17' } }, { id: '17' }],
    ['activity:999', { ID: '999' }, { ID: '999' }],
    ['order:236', { order: { id: 236 } }, { id: 236 }],
    ['user:1', [{ ID: '1' }], { ID: '1' }],
    ['itemtype:16', { types: [{ id: 16 }] }, { id: 16 }],
    ['address:8:7335:1', [{ CITY: 'Riga' }], { CITY: 'Riga' }],
  ])('of %s', (object, result, record) => {
    expect(sourceOf(object).read(result)).toEqual(record)
  })

  test.each<[object: string, result: unknown]>([
    ['task:17', []],
    ['calendarentry:1265', null],
    ['user:1', []],
    ['group:77', []],
    ['itemtype:16', { types: [] }],
    ['address:8:7335:1', []],
  ])('of %s that is gone is none', (object, result) => {
    expect(sourceOf(object).read(result)).toBeNull()
  })

  test.each<[object: string, result: unknown]>([
    ['deal:662', undefined],
    ['deal:662', { deal: { id: 662 } }],
    ['deal:662', true],
    ['user:1', [[]]],
    ['activity:999', 'text'],
  ])('of %s that is not that of the method is an error: what is not understood is not gone', (object, result) => {
    expect(() => sourceOf(object).read(result)).toThrow('was answered without a record')
  })
})

// As on the methods' pages, "Possible Error Codes".
describe('what is gone', () => {
  test.each([
    ['deal:662', 'NOT_FOUND', 'Element not found'],
    ['item:1032:21', 'NOT_FOUND', 'Смарт-процесс не найден'],
    ['activity:999', 'NO_CODE', 'Activity is not found'],
    ['timelinecomment:999', 'NO_CODE', 'Not found.'],
    ['requisite:27', 'NO_CODE', "The Requisite with ID '27' is not found"],
    ['recurringdeal:25', 'NO_CODE', 'Recurring deal is not found.'],
    ['userfield:CRM_DEAL:1', 'ERROR_NOT_FOUND', "The entity with ID '1' is not found"],
    ['document:61', '0', 'Document not found'],
    ['product:1243', 'NO_CODE', 'product does not exist.'],
    ['booking:15', '1021', 'Booking not found'],
    ['bookingresource:15', '1009', 'Resource not found'],
    ['order:6', '200540400001', 'order does not exist'],
    ['pricetype:1', '201000000000', 'price type does not exist'],
  ])('%s is known by %s', (object, code, description) => {
    expect(sourceOf(object).isGone(refusal(object, code, description))).toBe(true)
  })

  test.each([
    ['deal:662', 'ACCESS_DENIED', 'Access denied'],
    ['deal:662', 'insufficient_scope', 'The request requires higher privileges'],
    ['deal:662', 'ERROR_METHOD_NOT_FOUND', 'Method not found!'],
    ['activity:999', 'NO_CODE', 'Access denied.'],
    ['order:6', '200040300010', 'Access Denied'],
    ['booking:15', '1009', 'Resource not found'],
    ['product:1243', '200040300000', 'Iblock Not Found'],
    ['deal:662', 'INTERNAL_SERVER_ERROR', 'not found'],
  ])('%s is not known by %s', (object, code, description) => {
    expect(sourceOf(object).isGone(refusal(object, code, description))).toBe(false)
  })
})
