import { describe, expect, test } from 'vitest'
import { documentedEvents, isDeletion, isDocumented, objectOf } from '../../src/events/catalogue.ts'
import { toEvent } from '../../src/intake/event.ts'
import { decodeForm } from '../../src/intake/form.ts'
import { isObject, readFixture, samples } from '../support/intake.ts'

/** The names of shared/events/events.json, patterns as `ONCRMDYNAMICITEMADD_{entityTypeId}`. */
const documented = readFixture('events.json')
if (!Array.isArray(documented) || !documented.every((name) => typeof name === 'string'))
  throw new Error('a list of names')
const patterns = documented.filter((name) => name.includes('{'))

/** `webhook/ONCRMDEALUPDATE` → `deal:759`, or null where the event is about nothing that has an id. */
const objects = readFixture('objects.json')
if (!isObject(objects)) throw new Error('an object of objects')

const dataOf = (text: string) => decodeForm(text)['data']

test('the catalogue holds every documented event and no other', () => {
  const names = documented.filter((name) => !patterns.includes(name))
  expect(documentedEvents.toSorted()).toEqual(names.toSorted())
  expect(names.every(isDocumented)).toBe(true)
})

test('the events of one dynamic type are documented as those of all types are', () => {
  expect(patterns).toHaveLength(3)
  for (const pattern of patterns) {
    expect(isDocumented(pattern.replace('{entityTypeId}', '147'))).toBe(true)
    expect(isDocumented(pattern.replace('{entityTypeId}', ''))).toBe(false)
    expect(isDocumented(pattern.replace('{entityTypeId}', 'x'))).toBe(false)
    expect(isDocumented(pattern)).toBe(false)
  }
  expect(isDocumented('ONCRMDEALUPDATE_147')).toBe(false)
})

test('an event that ends an object is a deletion, and one that ends a part of it is none', () => {
  const named = documentedEvents.filter((event) => /DELETE|UNREGISTER/.test(event))
  expect(named.filter((event) => !isDeletion(event)).toSorted()).toEqual([
    'ONIMBOTMESSAGEDELETE',
    'ONIMBOTV2MESSAGEDELETE',
    'ONIMCONNECTORMESSAGEDELETE',
    'ONIMCONNECTORSTATUSDELETE',
    'ONOPENLINEMESSAGEDELETE',
    'ONSALEBEFOREORDERDELETE',
    'ONTASKCOMMENTDELETE',
  ])
  expect(documentedEvents.filter(isDeletion).filter((event) => !named.includes(event))).toEqual([])
  for (const event of ['ONCRMDEALDELETE', 'ONORDERDELETED', 'ONCRMADDRESSUNREGISTER', 'CATALOG.PRICE.ON.DELETE'])
    expect(isDeletion(event)).toBe(true)
  expect(isDeletion('ONCRMDYNAMICITEMDELETE_147')).toBe(true)
  expect(isDeletion('ONSOMETHINGNEWDELETE')).toBe(false)
})

test('every shared sample has its expected object in the fixture', () => {
  expect(Object.keys(objects).toSorted()).toEqual(samples.map(({ name }) => name).toSorted())
})

test.each(samples)('$name is about the object of the fixture', ({ name, body }) => {
  const origin = { webhook: undefined, query: undefined, remote: '203.0.113.7', secrets: [] }
  expect(toEvent(decodeForm(body.toString()), origin).object ?? null).toBe(objects[name])
})

describe('the object of', () => {
  test.each([
    ['a deal', 'ONCRMDEALUPDATE', 'data[FIELDS][ID]=662', 'deal:662'],
    ['a deal in another category', 'ONCRMDEALMOVETOCATEGORY', 'data[FIELDS][ID]=662', 'deal:662'],
    [
      'a dynamic item is its type and id',
      'ONCRMDYNAMICITEMADD',
      'data[FIELDS][ID]=21&data[FIELDS][ENTITY_TYPE_ID]=1032',
      'item:1032:21',
    ],
    [
      'a dynamic item in the event of its type',
      'ONCRMDYNAMICITEMUPDATE_1032',
      'data[FIELDS][ID]=21&data[FIELDS][ENTITY_TYPE_ID]=1032',
      'item:1032:21',
    ],
    [
      'a dynamic item whose type only the name tells',
      'ONCRMDYNAMICITEMDELETE_1032',
      'data[FIELDS][ID]=21',
      'item:1032:21',
    ],
    ['a new task', 'ONTASKADD', 'data[FIELDS_BEFORE]=undefined&data[FIELDS_AFTER][ID]=17', 'task:17'],
    ['a deleted task', 'ONTASKDELETE', 'data[FIELDS_BEFORE][ID]=17&data[FIELDS_AFTER]=undefined', 'task:17'],
    [
      'a task comment is its task',
      'ONTASKCOMMENTADD',
      'data[FIELDS_AFTER][ID]=0&data[FIELDS_AFTER][TASK_ID]=17',
      'task:17',
    ],
    [
      'a deleted task comment is its task',
      'ONTASKCOMMENTDELETE',
      'data[FIELDS_BEFORE][TASK_ID]=17&data[FIELDS_AFTER]=undefined',
      'task:17',
    ],
    [
      'a user field is its entity and id',
      'ONCRMDEALUSERFIELDADD',
      'data[FIELDS][ID]=5&data[FIELDS][ENTITY_ID]=CRM_DEAL',
      'userfield:CRM_DEAL:5',
    ],
    [
      'a user field of an invoice, in camel case',
      'ONCRMINVOICEUSERFIELDUPDATE',
      'data[id]=5&data[entityId]=CRM_INVOICE',
      'userfield:CRM_INVOICE:5',
    ],
    [
      'an address is whose it is and which one',
      'ONCRMADDRESSREGISTER',
      'data[FIELDS][TYPE_ID]=1&data[FIELDS][ENTITY_TYPE_ID]=8&data[FIELDS][ENTITY_ID]=9',
      'address:8:9:1',
    ],
    ['a timeline comment as the portal sends it', 'ONCRMTIMELINECOMMENTADD', 'data[FIELDS][ID]=9', 'timelinecomment:9'],
    ['a timeline comment as it is documented', 'ONCRMTIMELINECOMMENTADD', 'data[ID]=9', 'timelinecomment:9'],
    ['a currency is its code', 'ONCRMCURRENCYADD', 'data[FIELDS][ID]=CHE', 'currency:CHE'],
    ['a post of the feed', 'ONLIVEFEEDPOSTADD', 'data[FIELDS][POST_ID]=209', 'post:209'],
    ['a calendar entry, in lower case', 'ONCALENDARENTRYADD', 'data[id]=1414', 'calendarentry:1414'],
    ['a call', 'ONVOXIMPLANTCALLEND', 'data[CALL_ID]=a.b', 'call:a.b'],
    ['a line, which is the whole data', 'ONIMCONNECTORLINEDELETE', 'data=107', 'line:107'],
    ['a message to a bot is its chat', 'ONIMBOTMESSAGEADD', 'data[PARAMS][TO_CHAT_ID]=7', 'chat:7'],
    ['a message of an open line is its chat', 'ONOPENLINEMESSAGEADD', 'data[DATA][0][chat][id]=7', 'chat:7'],
  ])('%s', (_, event, text, object) => {
    expect(objectOf(event, dataOf(text))).toBe(object)
  })
})

describe('there is no object', () => {
  test.each([
    ['without data', 'ONCRMDEALUPDATE', ''],
    ['where data is a text', 'ONCRMDEALUPDATE', 'data=662'],
    ['where data is a list', 'ONCRMDEALUPDATE', 'data[]=662'],
    ['where the fields are a text', 'ONCRMDEALUPDATE', 'data[FIELDS]=undefined'],
    ['where the id is empty', 'ONCRMDEALUPDATE', 'data[FIELDS][ID]='],
    ['where the id is 0', 'ONCRMDEALUPDATE', 'data[FIELDS][ID]=0'],
    ['where the id is undefined', 'ONCRMDEALUPDATE', 'data[FIELDS][ID]=undefined'],
    ['where the id is an object', 'ONCRMDEALUPDATE', 'data[FIELDS][ID][x]=1'],
    ['where the id is as long as a body', 'ONCRMDEALUPDATE', `data[FIELDS][ID]=${'1'.repeat(1000)}`],
    ['where one of two ids is missing', 'ONCRMDYNAMICITEMUPDATE', 'data[FIELDS][ID]=21'],
    [
      'where both sides of a task are undefined',
      'ONTASKUPDATE',
      'data[FIELDS_BEFORE]=undefined&data[FIELDS_AFTER]=undefined',
    ],
    ['in an event about the portal', 'ONAPPINSTALL', 'data[FIELDS][ID]=1&data[ID]=1'],
    ['in an event that nobody documented', 'ONSOMETHINGNEW', 'data[FIELDS][ID]=1'],
    ['in a name in lower case, which no event has', 'oncrmdealupdate', 'data[FIELDS][ID]=1'],
  ])('%s', (_, event, text) => {
    expect(objectOf(event, dataOf(text))).toBeUndefined()
  })
})

test.each(['constructor', '__proto__', 'toString', 'hasOwnProperty', 'valueOf', 'prototype', 'get', 'size', ''])(
  'the name "%s" is not documented and gives no object',
  (name) => {
    for (const event of [name, name.toUpperCase(), `${name}_1`, `ONCRMDYNAMICITEMADD_${name}`]) {
      expect(isDocumented(event)).toBe(false)
      expect(objectOf(event, dataOf('data[FIELDS][ID]=1&data[ID]=1&data[id]=1'))).toBeUndefined()
    }
  },
)

test('an id is never read from a prototype', () => {
  // Handlers and replays may hand in what JSON.parse made.
  expect(objectOf('ONBOOKINGADD', {})).toBeUndefined()
  expect(objectOf('ONSIGNHCMLINKB2EDOCUMENTSIGNED', ['1'])).toBeUndefined()
})
