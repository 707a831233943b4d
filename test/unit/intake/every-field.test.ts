import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pino } from 'pino'
import { expect, test } from 'vitest'
import { parseRefusedLine } from '../../../src/intake/refused-line.ts'
import { openJournal } from '../../../src/journal/journal.ts'
import { listSegments } from '../../../src/journal/segments.ts'
import { robotBody } from '../../../src/simulator/robot-body.ts'
import { goodBody, heldToken, isObject, post, samples, startServer } from '../../support/intake.ts'
import { temporaryFolder } from '../../support/receiver.ts'

const robotPath = '/robot/0123456789abcdef0123456789abcdef'
const document = ['crm', 'Bitrix\\Crm\\Integration\\BizProc\\Document\\SmartB2eDocument', 'SMART_B2E_DOC_7']
const portal = { domain: 'example.bitrix24.com', memberId: 'm' }
const own = {
  code: 'my_robot',
  properties: { amount: 333, list: ['a', 'b'] },
  eventToken: '664fa13bbbb410.99176768|A40364_79843|MS1ekdI0CvXi8ycL8qNIn96hak8JEndG.54020ce2',
  ts: 1_716_494_651,
  token: heldToken,
}

function sample(name: string): string {
  const body = samples.find((one) => one.name === name)?.body.toString() ?? ''
  return body.replace(/(?<=auth%5Bapplication_token%5D=)\w+$/, heldToken)
}

/** The line of the journal that this post becomes, and what it is after a way over stderr. */
async function lineOf(target: string, body: string) {
  const dataDir = temporaryFolder('every-field')
  const journal = await openJournal({
    dataDir,
    segmentSize: 1024 ** 2,
    log: pino({ enabled: false }),
  })
  await using server = await startServer({ robotPath, beforeAppend: (event) => journal.append(event) })
  expect(await post(server.port, body, { target })).toMatchObject({ status: 200 })
  await journal.close()
  const [segment] = await listSegments(dataDir)
  const text = readFileSync(segment?.path ?? join(dataDir, 'none'), 'utf8').trim()
  const line: unknown = JSON.parse(text)
  const again: unknown = JSON.parse(JSON.stringify(parseRefusedLine(text, [heldToken]) ?? null))
  return { line, again }
}

const unknown = 'is_new=1&news[0][a]=b&news[1]=c&'
const extra = { is_new: '1', news: [{ a: 'b' }, 'c'] }

test.each([
  ['a webhook', '/bitrix24', goodBody, extra],
  ['an application', '/bitrix24', sample('application/ONAPPINSTALL'), extra],
  ['a bot', '/bitrix24', sample('application/ONIMBOTMESSAGEADD'), extra],
  ['the robot of Bitrix24', robotPath, robotBody({ document, portal }), extra],
  [
    'a robot of your own',
    `${robotPath}?a=1`,
    robotBody({ document, portal, own }),
    {
      ...extra,
      workflow_id: '664fa13bbbb410.99176768',
      code: 'my_robot',
      document_type: [document[0], document[1], 'SMART_B2E_DOC'],
      event_token: own.eventToken,
      properties: { amount: '333', list: ['a', 'b'] },
      use_subscription: 'Y',
      timeout_duration: '660',
    },
  ],
])('every field of the post of %s is in the line, also one that no one knows', async (_, target, body, expected) => {
  const { line, again } = await lineOf(target, `${unknown}${body}`)
  expect(line).toMatchObject({ extra: expected, auth: { domain: expect.any(String) } })
  expect(isObject(line) && JSON.stringify(line['extra']).length).toBe(JSON.stringify(expected).length)
  expect(isObject(line) && JSON.stringify(line)).not.toContain(heldToken)
  const { level, time, msg, ...event } = isObject(line) ? line : {}
  expect([level, typeof time, typeof msg]).toEqual([30, 'string', 'string'])
  expect(again).toEqual(event)
})

test('a robot of your own has its time, its document and the query of its URL at their places', async () => {
  const { line } = await lineOf(`${robotPath}?a=1`, robotBody({ document, portal, own }))
  expect(line).toMatchObject({
    event: 'ROBOT',
    object: 'item:39:7',
    document_id: document,
    ts: '1716494651',
    data: { a: '1' },
  })
})

test('a field of an unexpected form is kept, too, and no field named like a prototype can do harm', async () => {
  const body = 'document_id[]=crm&ts[a]=1&auth=text&event=E&event_handler_id=7&data[x]=1&toString[y]=1&constructor=2'
  const { line } = await lineOf(robotPath, body)
  expect(isObject(line) && JSON.stringify(line['extra'])).toBe(
    '{"ts":{"a":"1"},"auth":"text","event":"E","event_handler_id":"7","data":{"x":"1"},"toString":{"y":"1"},"constructor":"2"}',
  )
})
