import { describe, expect, test } from 'vitest'
import { parseTargets } from '../../../src/backfill/targets.ts'
import { hasDocumentedShape, objectOf } from '../../../src/events/catalogue.ts'

const row = { id: '662', created: 1736405800, changed: 1736405807 }

test('the event of a record is of the documented shape, and about that record', () => {
  const targets = parseTargets('lead,deal,contact,company,quote,task,item:1032')
  const events = targets.flatMap((target) => (['add', 'update'] as const).map((what) => target.event(row, what)))
  for (const { event, data } of events) expect([event, hasDocumentedShape(event, data)]).toEqual([event, true])
  expect(events.map(({ event, data }) => [event, objectOf(event, data)])).toEqual([
    ['ONCRMLEADADD', 'lead:662'],
    ['ONCRMLEADUPDATE', 'lead:662'],
    ['ONCRMDEALADD', 'deal:662'],
    ['ONCRMDEALUPDATE', 'deal:662'],
    ['ONCRMCONTACTADD', 'contact:662'],
    ['ONCRMCONTACTUPDATE', 'contact:662'],
    ['ONCRMCOMPANYADD', 'company:662'],
    ['ONCRMCOMPANYUPDATE', 'company:662'],
    ['ONCRMQUOTEADD', 'quote:662'],
    ['ONCRMQUOTEUPDATE', 'quote:662'],
    ['ONTASKADD', 'task:662'],
    ['ONTASKUPDATE', 'task:662'],
    ['ONCRMDYNAMICITEMADD', 'item:1032:662'],
    ['ONCRMDYNAMICITEMUPDATE', 'item:1032:662'],
  ])
})

test.each([
  ['deals', '"deals" cannot be backfilled: it is one of lead, deal, contact, company, quote, item:<type>, task'],
  ['deal,,lead', '"" cannot be backfilled'],
  ['deal,deal', 'deal is named twice'],
  ['item:x', '"item:x" cannot be backfilled'],
])('%s is refused with what there is', (text, message) => {
  expect(() => parseTargets(text)).toThrow(message)
})

describe('rows', () => {
  const [deal, task] = parseTargets('deal,task')

  test('of the CRM and of tasks are read as they come', () => {
    const times = ['2025-01-09T06:56:40+00:00', '2025-01-09T09:56:47+03:00'] as const
    const item = { id: 662, createdTime: times[0], updatedTime: times[1] }
    expect(deal?.rows({ items: [item] })).toEqual([row])
    expect(task?.rows({ tasks: [{ id: '662', createdDate: times[0], changedDate: times[1] }] })).toEqual([row])
  })

  test('of a task that no one changed are as old as it is', () => {
    const tasks = [{ id: '662', createdDate: '2025-01-09T06:56:40+00:00', changedDate: null }]
    expect(task?.rows({ tasks })).toEqual([{ ...row, changed: row.created }])
  })

  test.each([[null], [{}], [{ items: 'x' }], [{ items: [{ id: 1 }] }], [{ items: [null] }]])(
    'that are not there are an error: %j',
    (result) => {
      expect(() => deal?.rows(result)).toThrow(TypeError)
    },
  )
})
