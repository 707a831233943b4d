import { describe, expect, test } from 'vitest'
import { maxCommands, toQueries } from '../../../src/bitrix24/batch.ts'
import type { Commands } from '../../../src/bitrix24/commands.ts'
import { commandsOf, withholdWrites } from '../../../src/bitrix24/dry-run.ts'
import { toBatch } from '../../../src/bitrix24/parameters.ts'
import { isRead } from '../../../src/bitrix24/reads.ts'
import { readings } from '../../../src/bitrix24/record-source.ts'
import type { Envelope } from '../../../src/bitrix24/transport.ts'

const toCmd = (commands: Commands) => toQueries(toBatch(commands, maxCommands, toCmd))

/** A way to a portal that answers every command with its name. */
function start() {
  const sent: unknown[] = []
  const send = withholdWrites((method, params) => {
    sent.push(method === 'batch' ? Object.values(Object(params).cmd) : method)
    const result =
      method === 'batch' ? Object.fromEntries(commandsOf(params).map((one) => [one.key, one.method])) : method
    return Promise.resolve({ result: method === 'batch' ? { result, result_error: [], result_time: [] } : result })
  })
  const batch = (commands: Commands, halt = 0) => send('batch', { halt, cmd: toCmd(commands) })
  return { sent, send, batch }
}

const resultOf = ({ result }: Envelope) => result

describe('a read', () => {
  test('is every method that gives a record', () => {
    expect([...readings.values()].filter(({ method }) => !isRead(method))).toEqual([])
  })

  test.each([
    'crm.item.list',
    'crm.deal.fields',
    'CRM.Deal.Get',
    'tasks.task.getFields',
    'crm.deal.productrows.get',
    'user.current',
    'profile',
    'crm.enum.ownertype',
    'disk.folder.getchildren',
  ])('is %s', (method) => {
    expect(isRead(method)).toBe(true)
  })

  test.each([
    'crm.item.add',
    'crm.deal.productrows.set',
    'tasks.task.complete',
    'im.message.add',
    'disk.file.getExternalLink',
    'crm.deal.list.remove',
    'event.bind',
    'targets',
    'batch',
    '',
  ])('is not "%s"', (method) => {
    expect(isRead(method)).toBe(false)
  })
})

describe('a dry run', () => {
  test.each<[string, object, unknown]>([
    ['crm.deal.update', { id: 662, fields: { TITLE: 'Boat' } }, true],
    ['crm.deal.add', { fields: { TITLE: 'Boat' } }, 999_999_999],
    ['crm.item.add', { entityTypeId: 2, fields: { title: 'Boat' } }, { item: { title: 'Boat', id: 999_999_999 } }],
    ['crm.item.update', { entityTypeId: 2, id: '662', fields: { title: 'A' } }, { item: { title: 'A', id: 662 } }],
    ['tasks.task.add', { fields: { TITLE: 'Paint' } }, { task: { TITLE: 'Paint', id: '999999999' } }],
    ['tasks.task.update', { taskId: 17, fields: {} }, { task: { id: '17' } }],
    ['im.message.add', { DIALOG_ID: 'chat1' }, 999_999_999],
    ['some.method.nobody.knows', {}, true],
  ])('answers %s itself', async (method, params, result) => {
    const { sent, send } = start()
    expect(resultOf(await send(method, params))).toEqual(result)
    expect(sent).toEqual([])
  })

  test('sends a read, and a batch of reads as it is', async () => {
    const { sent, send, batch } = start()
    expect(resultOf(await send('crm.deal.get', { id: 1 }))).toBe('crm.deal.get')
    await batch({ a: ['crm.deal.get', { id: 1 }], b: ['crm.contact.get', { id: '$result[a][CONTACT_ID]' }] })
    expect(sent).toEqual(['crm.deal.get', ['crm.deal.get?id=1', 'crm.contact.get?id=%24result%5Ba%5D%5BCONTACT_ID%5D']])
  })

  test('of a batch sends only what reads, and nothing that goes by what was not sent', async () => {
    const { sent, batch } = start()
    const commands: Commands = {
      deal: ['crm.deal.get', { id: 1 }],
      made: ['crm.contact.add', { fields: { NAME: 'Ann' } }],
      link: ['crm.deal.update', { id: 1, fields: { CONTACT_ID: '$result[made]' } }],
      contact: ['crm.contact.get', { id: '$result[made]' }],
      company: ['crm.company.get', { id: '$result[deal][COMPANY_ID]' }],
    }
    expect(resultOf(await batch(commands))).toMatchObject({
      result: {
        deal: 'crm.deal.get',
        made: 999_999_999,
        link: true,
        contact: null,
        company: 'crm.company.get',
      },
    })
    expect(sent).toEqual([['crm.deal.get?id=1', 'crm.company.get?id=%24result%5Bdeal%5D%5BCOMPANY_ID%5D']])
  })

  test('of a batch of writes sends nothing', async () => {
    const { sent, batch } = start()
    expect(resultOf(await batch({ a: ['crm.deal.add', {}], b: ['crm.deal.delete', { id: 1 }] }))).toMatchObject({
      result: { a: 999_999_999, b: true },
    })
    expect(sent).toEqual([])
  })

  test('of a batch that a failure ends does not answer what the portal would not have come to', async () => {
    const send = withholdWrites(() =>
      Promise.resolve({ result: { result: {}, result_error: { deal: { error: 'NOT_FOUND' } } } }),
    )
    const cmd = toCmd({
      before: ['crm.lead.add', {}],
      deal: ['crm.deal.get', { id: 1 }],
      after: ['crm.deal.add', {}],
    })
    expect(resultOf(await send('batch', { halt: 1, cmd }))).toMatchObject({ result: { before: 999_999_999 } })
    expect(Object(resultOf(await send('batch', { halt: 1, cmd }))).result).not.toHaveProperty('after')
    expect(Object(resultOf(await send('batch', { halt: 0, cmd }))).result).toHaveProperty('after')
  })
})
