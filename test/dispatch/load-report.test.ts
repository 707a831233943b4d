import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { readLoadReport, writeLoadReport } from '../../src/dispatch/load-report.ts'
import { temporaryFolder } from '../support/receiver.ts'

test('what was made of the handlers is read as it was last written, and is one file', () => {
  const dataDir = temporaryFolder('load')
  expect(readLoadReport(dataDir)).toBeUndefined()
  const before = Date.now()
  writeLoadReport(dataDir, { broken: [{ file: '/handlers/a.ts', error: 'SyntaxError: unexpected' }] })
  const report = readLoadReport(dataDir)
  expect(report).toEqual({
    at: expect.any(Number),
    loaded: [],
    broken: [{ file: '/handlers/a.ts', error: 'SyntaxError: unexpected' }],
  })
  expect(report?.at).toBeGreaterThanOrEqual(before)
  writeLoadReport(dataDir, { loaded: ['a', 'b'] })
  expect(readLoadReport(dataDir)).toMatchObject({ loaded: ['a', 'b'], broken: [] })
  writeLoadReport(dataDir, { trouble: 'the folder is empty' })
  expect(readLoadReport(dataDir)).toMatchObject({ loaded: [], broken: [], trouble: 'the folder is empty' })
  expect(readdirSync(dataDir)).toEqual(['loaded.json'])
})

test.each([
  '[]',
  'null',
  '{"at":"now","loaded":[],"broken":[]}',
  '{"at":1,"loaded":[2],"broken":[]}',
  '{"at":1,"loaded":[],"broken":[{"file":"a"}]}',
  '{"at":1,"loaded":[],"broken":[],"trouble":1}',
])('a file that says %s is none of ours, and the error says what to do', (text) => {
  const dataDir = temporaryFolder('load')
  writeFileSync(join(dataDir, 'loaded.json'), text)
  expect(() => readLoadReport(dataDir)).toThrow(`${dataDir}/loaded.json is not what a dispatcher wrote: delete it`)
})
