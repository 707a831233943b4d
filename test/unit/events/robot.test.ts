import { describe, expect, test } from 'vitest'
import { objectOfDocument } from '../../../src/events/robot.ts'

describe('the object of', () => {
  test.each([
    ['a lead', ['crm', 'CCrmDocumentLead', 'LEAD_777'], 'lead:777'],
    ['a deal', ['crm', 'CCrmDocumentDeal', 'DEAL_662'], 'deal:662'],
    ['a contact', ['crm', 'CCrmDocumentContact', 'CONTACT_777'], 'contact:777'],
    ['a company', ['crm', 'CCrmDocumentCompany', 'COMPANY_777'], 'company:777'],
    ['a quote', ['crm', 'Bitrix\\Crm\\Integration\\BizProc\\Document\\Quote', 'QUOTE_777'], 'quote:777'],
    [
      'an invoice of the old kind',
      ['crm', 'Bitrix\\Crm\\Integration\\BizProc\\Document\\Invoice', 'INVOICE_7'],
      'invoice:7',
    ],
    ['an order', ['crm', 'Bitrix\\Crm\\Integration\\BizProc\\Document\\Order', 'ORDER_7'], 'order:7'],
    [
      'an invoice',
      ['crm', 'Bitrix\\Crm\\Integration\\BizProc\\Document\\SmartInvoice', 'SMART_INVOICE_3'],
      'item:31:3',
    ],
    [
      'a document to sign',
      ['crm', 'Bitrix\\Crm\\Integration\\BizProc\\Document\\SmartDocument', 'SMART_DOCUMENT_3'],
      'item:36:3',
    ],
    [
      'a document of the company',
      ['crm', 'Bitrix\\Crm\\Integration\\BizProc\\Document\\SmartB2eDocument', 'SMART_B2E_DOC_7'],
      'item:39:7',
    ],
    ['a requisite', ['crm', 'X', 'REQUISITE_7'], 'requisite:7'],
    [
      'an item of a smart process',
      ['crm', 'Bitrix\\Crm\\Integration\\BizProc\\Document\\Dynamic', 'DYNAMIC_147_5'],
      'item:147:5',
    ],
    ['a task', ['tasks', 'Bitrix\\Tasks\\Integration\\Bizproc\\Document\\Task', '13'], 'task:13'],
  ])('%s', (_, document, object) => {
    expect(objectOfDocument(document)).toBe(object)
  })
})

describe('there is no object', () => {
  test.each([
    ['of a file', ['disk', 'Bitrix\\Disk\\BizProcDocument', '777']],
    ['of an element of a list', ['lists', 'Bitrix\\Lists\\BizprocDocumentLists', '777']],
    ['of a type that is not known', ['crm', 'X', 'PARCEL_7']],
    ['of a type named like a prototype', ['crm', 'X', 'constructor_7']],
    ['in small letters', ['crm', 'CCrmDocumentDeal', 'deal_662']],
    ['of another module that has the id of a deal', ['lists', 'CCrmDocumentDeal', 'DEAL_662']],
    ['of an id alone', ['crm', 'CCrmDocumentDeal', '662']],
    ['of a task with a type', ['tasks', 'X', 'TASK_13']],
    ['where the id is 0', ['crm', 'CCrmDocumentDeal', 'DEAL_0']],
    ['where the id is no number', ['crm', 'CCrmDocumentDeal', 'DEAL_6a']],
    ['where the id has zeros in front', ['crm', 'CCrmDocumentDeal', 'DEAL_007']],
    ['where the id is as long as a body', ['crm', 'CCrmDocumentDeal', `DEAL_${'1'.repeat(1000)}`]],
    ['where something stands behind the id', ['crm', 'CCrmDocumentDeal', 'DEAL_662\n']],
    ['where the smart process has no id', ['crm', 'X', 'DYNAMIC_147']],
    ['of two parts', ['crm', 'CCrmDocumentDeal']],
    ['of nothing', []],
  ])('%s', (_, document) => {
    expect(objectOfDocument(document)).toBeUndefined()
  })
})
