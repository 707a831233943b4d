import { expect, test } from 'vitest'
import { decodeForm } from '../../../src/intake/form.ts'
import { robotBody } from '../../../src/simulator/robot-body.ts'

test("a robot's body has its document and an auth without a token, and nothing else", () => {
  const portal = { domain: 'example.bitrix24.com', memberId: 'm' }
  const body = robotBody({
    document: ['crm', 'Bitrix\\Crm\\Integration\\BizProc\\Document\\Dynamic', 'DYNAMIC_147_5'],
    portal,
  })
  expect(body).toBe(
    'document_id%5B0%5D=crm&document_id%5B1%5D=Bitrix%5CCrm%5CIntegration%5CBizProc%5CDocument%5CDynamic&document_id%5B2%5D=DYNAMIC_147_5' +
      '&auth%5Bdomain%5D=example.bitrix24.com&auth%5Bclient_endpoint%5D=https%3A%2F%2Fexample.bitrix24.com%2Frest%2F' +
      '&auth%5Bserver_endpoint%5D=https%3A%2F%2Foauth.bitrix.info%2Frest%2F&auth%5Bmember_id%5D=m',
  )
  expect(Object.keys(decodeForm(body))).toEqual(['document_id', 'auth'])
})
