import { expect, test } from 'vitest'
import { nearestName, nearNames } from '../../../src/events/nearest.ts'

test.each([
  ['two letters in the wrong order', 'ONCRMDEALUPDAET', 'ONCRMDEALUPDATE'],
  ['a letter too many', 'ONTASKUPDATES', 'ONTASKUPDATE'],
  ['a missing beginning', 'DEALUPDATE', 'ONCRMDEALUPDATE'],
  ['a missing part', 'CATALOG.PRICE.ADD', 'CATALOG.PRICE.ON.ADD'],
  ['an event of one dynamic type', 'ONCRMDYNAMICITEMUPDAT_147', 'ONCRMDYNAMICITEMUPDATE_147'],
  ['a pattern', 'CRMLEADU*', 'ONCRMLEADUPDATE'],
])('%s: %s may mean %s', (_, name, nearest) => {
  expect(nearestName(name)).toBe(nearest)
})

test.each(['ONSOMETHINGNEW', 'ONMYAPPCOUNTED', 'ON', 'HELPER', 'ONNEW*', ''])('"%s" is near no known name', (name) => {
  expect(nearestName(name)).toBeUndefined()
})

const fields = [
  'id',
  'title',
  'stageId',
  'stageSemanticId',
  'opportunity',
  'UF_CRM_1639669411830',
  'UF_CRM_1639669411831',
]

test.each([
  ['in upper case, with underlines', 'STAGE_ID', ['stageId']],
  ['as another method has it', 'ufCrm_1639669411830', ['UF_CRM_1639669411830', 'UF_CRM_1639669411831']],
  ['with a letter missing', 'opportunty', ['opportunity']],
  ['short, with two letters in the wrong order', 'titel', ['title']],
  ['of another kind', 'currencyId', []],
  ['empty', '', []],
])('a field %s: "%s" is near %j', (_, name, near) => {
  expect(nearNames(name, fields)).toEqual(near)
})
