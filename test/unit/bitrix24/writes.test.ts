import { describe, expect, test } from 'vitest'
import { lastChangeOf } from '../../../src/bitrix24/last-change.ts'
import { writeOf } from '../../../src/bitrix24/writes.ts'
import { isDocumented } from '../../../src/events/catalogue.ts'

type Params = Record<string, unknown>

describe('what a call writes', () => {
  test.each<[method: string, params: Params, result: unknown, object: string, event: string | undefined]>([
    ['crm.item.add', { entityTypeId: 1 }, { item: { id: 9 } }, 'lead:9', 'ONCRMLEADADD'],
    ['crm.item.update', { entityTypeId: 2, id: 662 }, { item: { id: 662 } }, 'deal:662', 'ONCRMDEALUPDATE'],
    ['crm.item.update', { entityTypeId: '3', id: '5' }, {}, 'contact:5', 'ONCRMCONTACTUPDATE'],
    ['crm.item.update', { entityTypeId: 4, id: 5 }, {}, 'company:5', 'ONCRMCOMPANYUPDATE'],
    ['crm.item.update', { entityTypeId: 7, id: 5 }, {}, 'quote:5', 'ONCRMQUOTEUPDATE'],
    ['crm.item.update', { entityTypeId: 31, id: 5 }, {}, 'item:31:5', 'ONCRMDYNAMICITEMUPDATE'],
    ['crm.item.add', { entityTypeId: 1032 }, { item: { id: 21 } }, 'item:1032:21', 'ONCRMDYNAMICITEMADD'],
    ['crm.item.delete', { entityTypeId: 1032, id: 21 }, [], 'item:1032:21', undefined],
    ['crm.deal.update', { id: 662 }, true, 'deal:662', 'ONCRMDEALUPDATE'],
    ['crm.deal.update', { ID: '662' }, true, 'deal:662', 'ONCRMDEALUPDATE'],
    ['CRM.Deal.Update', { Id: 662 }, true, 'deal:662', 'ONCRMDEALUPDATE'],
    ['crm.deal.add', { fields: {} }, 662, 'deal:662', 'ONCRMDEALADD'],
    ['crm.lead.delete', { id: 7 }, true, 'lead:7', undefined],
    ['crm.company.add', {}, '8', 'company:8', 'ONCRMCOMPANYADD'],
    ['crm.invoice.update', { id: 3 }, 3, 'invoice:3', 'ONCRMINVOICEUPDATE'],
    ['crm.deal.contact.items.set', { id: 662, items: [] }, true, 'deal:662', 'ONCRMDEALUPDATE'],
    ['crm.contact.company.add', { id: 5, fields: {} }, true, 'contact:5', 'ONCRMCONTACTUPDATE'],
    ['crm.deal.productrows.set', { id: 662, rows: [] }, true, 'deal:662', 'ONCRMDEALUPDATE'],
    ['crm.item.productrow.set', { ownerType: 'D', ownerId: 662 }, {}, 'deal:662', 'ONCRMDEALUPDATE'],
    ['crm.item.productrow.set', { ownerType: 'SI', ownerId: 4 }, {}, 'item:31:4', 'ONCRMDYNAMICITEMUPDATE'],
    ['crm.item.productrow.set', { ownerType: 'T80', ownerId: 4 }, {}, 'item:128:4', 'ONCRMDYNAMICITEMUPDATE'],
    ['crm.item.productrow.add', { fields: { ownerType: 'Q', ownerId: 4 } }, {}, 'quote:4', 'ONCRMQUOTEUPDATE'],
    [
      'crm.item.productrow.delete',
      { id: 1 },
      { productRow: { ownerType: 'D', ownerId: 4 } },
      'deal:4',
      'ONCRMDEALUPDATE',
    ],
    ['tasks.task.add', { fields: {} }, { task: { id: '17' } }, 'task:17', 'ONTASKADD'],
    ['tasks.task.update', { taskId: 17 }, { task: { id: '17' } }, 'task:17', 'ONTASKUPDATE'],
    ['tasks.task.complete', { taskId: 17 }, { task: { id: '17' } }, 'task:17', 'ONTASKUPDATE'],
    ['tasks.task.delete', { taskId: 17 }, { task: true }, 'task:17', undefined],
    ['task.commentitem.add', { TASKID: 17, FIELDS: {} }, 340, 'task:17', undefined],
    ['crm.activity.add', { fields: { OWNER_TYPE_ID: 2, OWNER_ID: 662 } }, 31, 'activity:31', 'ONCRMACTIVITYADD'],
    ['crm.activity.todo.add', { ownerTypeId: 2, ownerId: 662 }, { id: 31 }, 'activity:31', 'ONCRMACTIVITYADD'],
    ['crm.activity.configurable.add', {}, { activity: { id: 31 } }, 'activity:31', 'ONCRMACTIVITYADD'],
    ['crm.timeline.comment.add', { fields: {} }, 99, 'timelinecomment:99', 'ONCRMTIMELINECOMMENTADD'],
  ])('%s %j', (method, params, result, object, event) => {
    expect(writeOf({ method, params, result })).toEqual({ object, event })
    expect(event === undefined || isDocumented(event)).toBe(true)
  })

  test('an id that is a reference within a batch is read from the answer', () => {
    const update = { method: 'crm.item.update', params: { entityTypeId: 2, id: '$result[first][items][0][id]' } }
    expect(writeOf({ ...update, result: { item: { id: 662 } } })?.object).toBe('deal:662')
    expect(writeOf({ ...update, method: 'crm.deal.update', result: true })).toBeUndefined()
  })

  test.each<[method: string, params: Params, result: unknown]>([
    ['crm.item.get', { entityTypeId: 2, id: 662 }, { item: { id: 662 } }],
    ['crm.item.update', { entityTypeId: 99, id: 662 }, {}],
    ['crm.deal.userfield.update', { id: 12 }, true],
    ['crm.deal.update.everything', { id: 12 }, true],
    ['im.message.add', { DIALOG_ID: 'chat9' }, 11],
    ['crm.deal.update', {}, true],
    ['crm.deal.add', {}, null],
    ['', {}, true],
  ])('%s %j: no object that we know', (method, params, result) => {
    expect(writeOf({ method, params, result })).toBeUndefined()
  })
})

describe('the last change of a record', () => {
  const at = Date.UTC(2026, 10, 23, 8) / 1000

  test.each<[string, unknown]>([
    ['crm.item.get', { item: { updatedTime: '2026-11-23T11:00:00+03:00', updatedBy: 17 } }],
    ['its item alone', { updatedTime: '2026-11-23T08:00:00Z', updatedBy: 17 }],
    ['tasks.task.get', { task: { changedDate: '2026-11-23T11:00:00+03:00', changedBy: '17' } }],
    ['crm.deal.get', { DATE_MODIFY: '2026-11-23T11:00:00+03:00', MODIFY_BY_ID: '17' }],
    ['crm.activity.get', { LAST_UPDATED: '2026-11-23T11:00:00+03:00', EDITOR_ID: '17' }],
  ])('of %s', (_, record) => expect(lastChangeOf(record)).toEqual({ at, user: '17' }))

  test.each<[string, unknown]>([
    ['nothing', null],
    ['a task that is gone', []],
    ['a record without a user', { updatedTime: '2026-11-23T08:00:00Z' }],
    ['a record without a time', { updatedBy: 17 }],
    ['a time without a zone', { updatedTime: '2026-11-23T08:00:00', updatedBy: 17 }],
    ['a time that is none', { updatedTime: '2026-99-23T08:00:00Z', updatedBy: 17 }],
  ])('of %s is not known', (_, record) => expect(lastChangeOf(record)).toBeUndefined())
})
