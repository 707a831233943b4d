import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { readings } from '../../src/bitrix24/record-source.ts'
import { blockWith, root, tableOf } from '../support/docs.ts'
import { temporaryFolder } from '../support/receiver.ts'

const page = 'docs/handlers.md'

const namesIn = (cell = '') => [...cell.matchAll(/`([^`]+)`/g)].map(([, name = '']) => name)

test('the page names every object that has a record, and the method that reads it', () => {
  const listed = tableOf(page, 'object', 'method').flatMap(([objects, method]) =>
    namesIn(objects).map((object): [string, string] => [object, namesIn(method).join()]),
  )
  expect(new Map(listed)).toEqual(new Map([...readings].map(([kind, { method }]) => [kind, method])))
  expect(listed).toHaveLength(readings.size)
})

test('the fields that the page names are those of the types', () => {
  const rows = tableOf(page, 'what', 'in the CRM', 'in a task', 'in older methods')
  const item = rows.flatMap(([, cell]) => namesIn(cell))
  const task = rows.flatMap(([, , cell]) => namesIn(cell))
  expect(Math.min(item.length, task.length)).toBeGreaterThan(9)
  const source = `import type { CrmItem, Task } from 'bitrix24-webhook-receiver'
export const item: (keyof CrmItem)[] = ${JSON.stringify(item)}
export const task: (keyof Task)[] = ${JSON.stringify(task)}
// @ts-expect-error: the name in older methods
export const old: keyof CrmItem = 'STAGE_ID'
`
  const folder = temporaryFolder('record')
  const config = blockWith(page, '"compilerOptions"').replaceAll('/srv/bitrix24-webhook-receiver', root)
  writeFileSync(join(folder, 'tsconfig.json'), config)
  writeFileSync(join(folder, 'names.ts'), source)
  expect(() => execFileSync(join(root, 'node_modules/.bin/tsc'), ['-p', folder], { stdio: 'pipe' })).not.toThrow()
})
