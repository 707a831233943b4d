import { describe, expect, test } from 'vitest'
import {
  documentedEvents,
  entries,
  entryOf,
  eventsOfType,
  hasDocumentedShape,
  isDeletion,
  isDocumented,
  objectOf,
} from '../../../src/events/catalogue.ts'
import type { FormValue } from '../../../src/events/form.ts'
import { fieldsOf, isOneOf, type Shape } from '../../../src/events/shape.ts'
import { toEvent } from '../../../src/intake/event.ts'
import { decodeForm } from '../../../src/intake/form.ts'
import { isObject, readFixture, samples } from '../../support/intake.ts'
import { fc } from '../../support/random.ts'

interface Documented {
  readonly event: string
  readonly scope: string
  readonly webhook: boolean | null
  /** The page's file in bitrix24/b24restdocs. */
  readonly doc: string
  /** `FIELDS.ID`, `DATA[].chat.id`, `BOT.{BOT_ID}.BOT_CODE` */
  readonly data: readonly { readonly path: string }[]
}

/** Every event of the documentation, those of one dynamic type as `ONCRMDYNAMICITEMADD_{entityTypeId}`. */
const documentation = readFixture('events.json') as { readonly events: readonly Documented[] }
const documented = documentation.events.map(({ event }) => event)
const patterns = documented.filter((name) => name.includes('{'))

/** `webhook/ONCRMDEALUPDATE` → `deal:759`, or null where the event is about nothing that has an id. */
const objects = readFixture('objects.json')
if (!isObject(objects)) throw new Error('an object of objects')

const dataOf = (text: string) => decodeForm(text)['data']

test('the catalogue holds every documented event and no other', () => {
  expect(documented).toHaveLength(202)
  expect(entries.map(({ name }) => name).toSorted()).toEqual(documented.toSorted())
  expect(documentedEvents.toSorted()).toEqual(documented.filter((name) => !patterns.includes(name)).toSorted())
  expect(documentedEvents.every(isDocumented)).toBe(true)
})

test.each(documentation.events)(
  '$event has the scope, the page and the subscribers that are documented',
  ({ event, scope, webhook, doc }) => {
    const entry = entries.find(({ name }) => name === event)
    expect({ ...entry, webhook: entry?.webhook ?? null }).toMatchObject({
      scope,
      webhook,
      page: `https://apidocs.bitrix24.com/${doc.replace('.md', '.html')}`,
    })
  },
)

/** A secret, so it is no longer there when the shape is looked at. */
const removed = new Set(['ONAPPMETHODCONFIRM TOKEN'])

describe('the shape', () => {
  test.each(documentation.events)('of $event has a place for every documented key', ({ event, data }) => {
    const shape = entries.find(({ name }) => name === event)?.shape
    const paths = data.map(({ path }) => path).filter((path) => !removed.has(`${event} ${path}`))
    expect(paths.filter((path) => shape === undefined || !hasPlace(shape, keysOf(path)))).toEqual([])
  })

  test.each(documentation.events)('of $event demands nothing that is not documented', ({ event, data }) => {
    const shape = entries.find(({ name }) => name === event)?.shape ?? 'anything'
    const paths = data.map(({ path }) => keysOf(path).join('.'))
    // Of some objects the documentation says only that they are there.
    const isSpelled = (parent: string) => paths.some((path) => parent === '' || path.startsWith(`${parent}.`))
    expect(
      demanded(shape).filter((path) => {
        const parent = path.slice(0, Math.max(0, path.lastIndexOf('.')))
        return isSpelled(parent) && !paths.some((known) => known === path || known.startsWith(`${path}.`))
      }),
    ).toEqual([])
  })
})

/** `DATA[].chat.id` → DATA, [], chat, id */
function keysOf(path: string): string[] {
  return path
    .replaceAll('[]', '.[]')
    .split('.')
    .map((key) => (key.startsWith('{') ? '*' : key))
}

function hasPlace(shape: Shape, [key, ...rest]: readonly string[]): boolean {
  if (key === undefined || shape === 'anything') return true
  if (typeof shape === 'string') return false
  if (isOneOf(shape)) return shape.some((one) => hasPlace(one, [key, ...rest]))
  const field = fieldsOf(shape).find((known) => known.key === key) ?? fieldsOf(shape).find((known) => known.key === '*')
  return field !== undefined && hasPlace(field.shape, rest)
}

function demanded(shape: Shape): string[] {
  if (typeof shape === 'string') return []
  if (isOneOf(shape)) return shape.flatMap(demanded)
  return fieldsOf(shape)
    .filter(({ isOptional }) => !isOptional)
    .flatMap(({ key, shape: inner }) => [
      ...(key === '*' ? [] : [key]),
      ...demanded(inner).map((path) => `${key}.${path}`),
    ])
}

describe('the documented shape', () => {
  test.each([
    ['more keys than the documented ones', 'ONCRMDEALUPDATE', 'data[FIELDS][ID]=1&data[FIELDS][NEW]=2&data[X][Y]=3'],
    ['an id that is empty', 'ONCRMDEALUPDATE', 'data[FIELDS][ID]='],
    ['a null that was left out', 'ONSALEORDERSAVED', 'data[FIELDS][ID]=1&data[FIELDS][ACTION]=save'],
    [
      'a call that was registered by REST',
      'ONVOXIMPLANTCALLINIT',
      'data[CALL_ID]=a&data[CALL_TYPE]=1&data[CALLER_ID]=2',
    ],
    [
      'the word undefined where a task has no fields',
      'ONTASKDELETE',
      'data[FIELDS_BEFORE]=undefined&data[FIELDS_AFTER]=undefined&data[IS_ACCESSIBLE_BEFORE]=N&data[IS_ACCESSIBLE_AFTER]=N',
    ],
    ['a comment that is a message', 'ONTASKCOMMENTADD', comment('data[FIELDS_AFTER][MESSAGE_ID]=5')],
    ['an event of one dynamic type', 'ONCRMDYNAMICITEMADD_147', 'data[FIELDS][ID]=1&data[FIELDS][ENTITY_TYPE_ID]=147'],
    ['data that is one text', 'ONIMCONNECTORLINEDELETE', 'data=107'],
    ['no data', 'ONOFFLINEEVENT', ''],
    ['whatever comes with an event that nobody documented', 'ONSOMETHINGNEW', 'data[]=1'],
  ])('is %s', (_, event, text) => {
    expect(hasDocumentedShape(event, dataOf(text))).toBe(true)
  })

  test.each([
    ['without data', 'ONCRMDEALUPDATE', ''],
    ['with data that is a text', 'ONCRMDEALUPDATE', 'data=1'],
    ['with data that is a list', 'ONCRMDEALUPDATE', 'data[]=1'],
    ['with fields that are a text', 'ONCRMDEALUPDATE', 'data[FIELDS]=1'],
    ['without the id', 'ONCRMDEALUPDATE', 'data[FIELDS][NEW]=1'],
    ['with an id that is an object', 'ONCRMDEALUPDATE', 'data[FIELDS][ID][x]=1'],
    ['with an id that is a list', 'ONCRMDEALUPDATE', 'data[FIELDS][ID][]=1'],
    [
      'with an optional text that is an object',
      'ONSALEORDERSAVED',
      'data[FIELDS][ID]=1&data[FIELDS][ACTION]=save&data[FIELDS][XML_ID][x]=1',
    ],
    ['with the id where only the documentation has it', 'ONCRMTIMELINECOMMENTADD', 'data[ID]=1'],
    ['with another word where a task has no fields', 'ONTASKCOMMENTADD', comment('data[FIELDS_BEFORE]=null')],
    ['with an object where there is a text', 'ONIMCONNECTORLINEDELETE', 'data[line]=107'],
    ['with data where there is none', 'ONOFFLINEEVENT', 'data[ID]=1'],
    ['with an item of a list that is otherwise', 'ONSESSIONSTART', 'data[DATA][0]=1'],
    ['without one of two keys', 'ONIMBOTDELETE', 'data[BOT_ID]=1'],
    [
      'with a text where a bot is',
      'ONIMBOTMESSAGEADD',
      'data[BOT][567]=1&data[PARAMS][DIALOG_ID]=1&data[PARAMS][MESSAGE_ID]=2',
    ],
    ['of one dynamic type', 'ONCRMDYNAMICITEMADD_147', 'data[FIELDS][ID]=1'],
  ])('is not that of an event %s', (_, event, text) => {
    expect(hasDocumentedShape(event, dataOf(text))).toBe(false)
  })

  test('is asked about whatever comes, and answers', () => {
    const value = fc.letrec<{ value: FormValue }>((tie) => ({
      value: fc.oneof(
        { depthSize: 'small' },
        fc.string(),
        fc.array(tie('value')),
        fc.dictionary(fc.constantFrom('FIELDS', 'ID', 'id', 'DATA', 'BOT', '571', 'bot', 'x'), tie('value')),
      ),
    })).value
    fc.assert(
      fc.property(fc.constantFrom(...documentedEvents, 'ONNEW'), value, (event, data) => {
        expect([true, false]).toContain(hasDocumentedShape(event, data))
      }),
    )
  })
})

function comment(field: string): string {
  const rest = 'data[FIELDS_BEFORE]=undefined&data[IS_ACCESSIBLE_BEFORE]=N&data[IS_ACCESSIBLE_AFTER]=undefined'
  return `${rest}&data[FIELDS_AFTER][ID]=0&data[FIELDS_AFTER][TASK_ID]=17&${field}`
}

test('the events of one dynamic type are documented as those of all types are', () => {
  expect(patterns).toHaveLength(3)
  for (const pattern of patterns) {
    expect(isDocumented(pattern.replace('{entityTypeId}', '147'))).toBe(true)
    expect(isDocumented(pattern.replace('{entityTypeId}', ''))).toBe(false)
    expect(isDocumented(pattern.replace('{entityTypeId}', 'x'))).toBe(false)
    expect(isDocumented(pattern)).toBe(false)
  }
  expect(eventsOfType('147').toSorted()).toEqual(
    patterns.map((pattern) => pattern.replace('{entityTypeId}', '147')).toSorted(),
  )
  expect(entryOf('ONCRMDYNAMICITEMADD_147')?.name).toBe('ONCRMDYNAMICITEMADD_{entityTypeId}')
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
      expect(hasDocumentedShape(event, dataOf('data=1'))).toBe(true)
    }
  },
)

test('an id is never read from a prototype', () => {
  // Handlers and replays may hand in what JSON.parse made.
  expect(objectOf('ONBOOKINGADD', {})).toBeUndefined()
  expect(objectOf('ONSIGNHCMLINKB2EDOCUMENTSIGNED', ['1'])).toBeUndefined()
})
