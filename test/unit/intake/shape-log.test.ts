import { expect, test } from 'vitest'
import { createShapeLog } from '../../../src/intake/shape-log.ts'
import { createLines } from '../../support/intake.ts'

test('the first event of a name with an unexpected shape is reported, then every tenfold, with the count', () => {
  const { log, lines } = createLines()
  const { count, counts } = createShapeLog(log)
  for (let index = 0; index < 150; index++) count('ONCRMDEALUPDATE')
  count('ONCRMLEADADD')
  expect(lines.map(({ level, event, count: told }) => [level, event, told])).toEqual([
    [40, 'ONCRMDEALUPDATE', 1],
    [40, 'ONCRMDEALUPDATE', 10],
    [40, 'ONCRMDEALUPDATE', 100],
    [40, 'ONCRMLEADADD', 1],
  ])
  expect([...counts]).toEqual([
    ['ONCRMDEALUPDATE', 150],
    ['ONCRMLEADADD', 1],
  ])
})

test('the events of all dynamic types are counted as one, so that their number is limited', () => {
  const { log, lines } = createLines()
  const { count, counts } = createShapeLog(log)
  for (let type = 0; type < 9; type++) count(`ONCRMDYNAMICITEMADD_${type}`)
  expect([...counts]).toEqual([['ONCRMDYNAMICITEMADD_{entityTypeId}', 9]])
  expect(lines).toMatchObject([
    { page: 'https://apidocs.bitrix24.com/api-reference/crm/universal/events/index.html', count: 1 },
  ])
})
