import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { type LoadReport, readLoadReport, writeLoadReport } from '../../../src/dispatch/load-report.ts'
import { temporaryFolder } from '../../support/receiver.ts'

test('what was made of the handlers is read as it was last written, and is one file', () => {
  const dataDir = temporaryFolder('load')
  expect(readLoadReport(dataDir)).toBeUndefined()
  const reports: LoadReport[] = [
    {
      at: 1,
      loaded: [],
      broken: [{ file: '/handlers/a.ts', place: '/handlers/a.ts:3', error: 'SyntaxError: unexpected' }],
    },
    { at: 2, loaded: ['a', 'b'], broken: [] },
    { at: 3, loaded: [], broken: [], trouble: 'the folder is empty' },
    { at: 4, loaded: [], broken: [], loading: ['/handlers/a.ts'] },
  ]
  for (const report of reports) {
    writeLoadReport(dataDir, report)
    expect(readLoadReport(dataDir)).toEqual(report)
  }
  expect(readdirSync(dataDir)).toEqual(['loaded.json'])
})

test.each([
  '',
  '{"at":1,"loaded":[',
  '[]',
  'null',
  '{"at":"now","loaded":[],"broken":[]}',
  '{"at":1,"loaded":[2],"broken":[]}',
  '{"at":1,"loaded":[],"broken":[{"file":"a","error":"b"}]}',
  '{"at":1,"loaded":[],"broken":[],"trouble":1}',
  '{"at":1,"loaded":[],"broken":[],"loading":[1]}',
])('a file that says %s is none of ours, and the error says what to do', (text) => {
  const dataDir = temporaryFolder('load')
  writeFileSync(join(dataDir, 'loaded.json'), text)
  expect(() => readLoadReport(dataDir)).toThrow(`${dataDir}/loaded.json is not what a dispatcher wrote: delete it`)
})
