import { expect, test } from 'vitest'
import { nearestName } from '../../src/events/nearest.ts'

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
