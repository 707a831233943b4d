import { writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { expect, test } from 'vitest'
import { defineHandler } from '../../../src/handler/handler.ts'
import { HandlersError } from '../../../src/handler/handler-files.ts'
import { loadHandlers as loadAll } from '../../../src/handler/loader.ts'
import { unknownEvents } from '../../../src/handler/unknown-events.ts'
import { makeFolder, temporaryFolder } from '../../support/receiver.ts'

// The brand, not the import, makes a definition: a folder of a test needs no resolution of our name.
const defined = (events: string[]) =>
  `export default { [Symbol.for('bitrix24-webhook-receiver.handler')]: true, events: ${JSON.stringify(events)}, handle() {}, options: { coalesce: false, debounce: 0, order: 'object' } }`

const loadHandlers = async (dir: string) => (await loadAll(dir, { timeout: 60_000 })).handlers

function folderOf(files: Record<string, string>): string {
  const folder = temporaryFolder('handlers')
  for (const [name, source] of Object.entries(files)) writeFileSync(join(folder, name), source)
  return folder
}

async function problemsOf(files: Record<string, string>): Promise<string[]> {
  const folder = folderOf(files)
  const error = await loadHandlers(folder).catch((thrown: unknown) => thrown)
  if (!(error instanceof HandlersError)) throw new Error('it loaded')
  return error.problems.map(({ file, error: cause }) => `${file.slice(folder.length + 1)}: ${String(cause)}`)
}

test('a function handles the event its file is named after, in any case', async () => {
  const [handler] = await loadHandlers(
    folderOf({ 'onCrmDealUpdate.ts': 'export default (event: unknown): unknown => event' }),
  )
  expect(handler?.name).toBe('onCrmDealUpdate')
  expect(handler?.matches('ONCRMDEALUPDATE')).toBe(true)
  expect(handler?.matches('ONCRMDEALUPDATEX')).toBe(false)
})

test('an event with dots is a file name too', async () => {
  const [handler] = await loadHandlers(folderOf({ 'CATALOG.PRICE.ON.ADD.mjs': 'export default () => {}' }))
  expect(handler?.matches('CATALOG.PRICE.ON.ADD')).toBe(true)
  expect(handler?.matches('CATALOGXPRICE.ON.ADD')).toBe(false)
})

test('a definition handles several names and patterns', async () => {
  const [handler] = await loadHandlers(folderOf({ 'some.mjs': defined(['onTaskAdd', 'ONCRMDEAL*', '*.ON.ADD']) }))
  const names = ['ONTASKADD', 'ONCRMDEALADD', 'ONCRMDEAL', 'CATALOG.PRICE.ON.ADD', 'ONTASKUPDATE', 'XONCRMDEALADD']
  expect(names.map((name) => handler?.matches(name))).toEqual([true, true, true, true, false, false])
})

test('helpers, hidden files, types, tests, folders and other files are no handlers', async () => {
  const folder = folderOf({
    '_helper.ts': 'throw new Error()',
    '.hidden.ts': 'throw new Error()',
    'types.d.ts': 'throw new Error()',
    'ONTASKADD.test.ts': 'throw new Error()',
    'README.md': '',
    'package.json': '{}',
    'b.mjs': defined(['ONTASKADD']),
    'a.mts': defined(['ONTASKADD']),
  })
  makeFolder(folder, 'lib.ts')
  expect((await loadHandlers(folder)).map(({ name }) => name)).toEqual(['a', 'b'])
})

test('every file that is wrong is named, with what is wrong', async () => {
  const problems = await problemsOf({
    'a.mjs': 'export default 7',
    'b.mjs': 'export const handler = () => {}',
    'c.mjs': 'throw new Error("at load")',
    'd.mjs': 'import "no-such-package"',
    'e.mjs': 'export default () => {}',
    'e.ts': 'export default () => {}',
    'f.ts': 'export default (',
  })
  expect(problems).toHaveLength(6)
  expect(problems[0]).toBe('a.mjs: TypeError: its default export must be a function or defineHandler(…), not number')
  expect(problems[1]).toContain('not missing')
  expect(problems[2]).toBe('c.mjs: Error: at load')
  expect(problems[3]).toContain('no-such-package')
  expect(problems[4]).toBe('e.ts: TypeError: e.mjs is a handler of the same name')
  expect(problems[5]).toMatch(/^f\.ts: /)
})

test('what is plainly no handler is left out, with why', async () => {
  const files = {
    'helper.ts': 'export const money = (text: string): number => Number(text)',
    'again.spec.ts': 'throw new Error()',
    'again.test.mjs': 'throw new Error()',
    'vitest.config.ts': 'throw new Error()',
    'old.cjs': 'throw new Error()',
    'page.tsx': 'throw new Error()',
    'ONTASKADD.mjs': 'export default () => {}',
  }
  const { handlers, leftOut } = await loadAll(folderOf(files), { timeout: 60_000 })
  expect(handlers.map(({ name }) => name)).toEqual(['ONTASKADD'])
  const told = leftOut.map(({ file, isDoubtful, reason }) => [basename(file), isDoubtful, reason.split(',')[0]])
  expect(told.sort((a, b) => (String(a[0]) < String(b[0]) ? -1 : 1))).toEqual([
    ['again.spec.ts', false, 'its name says that it is a test'],
    ['again.test.mjs', false, 'its name says that it is a test'],
    ['helper.ts', true, 'its default export must be a function or defineHandler(…)'],
    ['old.cjs', true, 'a handler ends in .ts'],
    ['page.tsx', true, 'a handler ends in .ts'],
    ['vitest.config.ts', false, 'its name says that it is a test'],
  ])
})

test.for([
  ['named after an event', 'ONTASKADD.mjs', 'export const x = 1'],
  ['named as events are', 'onMyThing.mjs', 'export const x = 1'],
  ['named after the robot', 'robot.mjs', 'export const x = 1'],
  ['that exports a handler by another name', 'deals.mjs', defined(['ONTASKADD']).replace('default', 'const deals =')],
  ['that exports a function named handle', 'deals.mjs', 'export function handle() {}'],
  ['whose default export is something else', 'deals.mjs', 'export default { plugins: [] }'],
  ['that exports nothing', 'deals.mjs', 'globalThis.something = 1'],
])(
  'a file %s may have been meant as a handler: it is wrong, and the rule for others is named',
  async ([, name = '', text = '']) => {
    const error = await loadHandlers(folderOf({ [name]: text })).catch((thrown: unknown) => thrown)
    expect(String(error)).toContain(`${name}: TypeError: its default export must be`)
    expect(String(error)).toContain('a file that is no handler is left out where its name begins with _')
  },
)

test('a folder that is missing is a problem, an empty one is not', async () => {
  await expect(loadHandlers(join(temporaryFolder('x'), 'missing'))).rejects.toBeInstanceOf(HandlersError)
  expect(await loadHandlers(temporaryFolder('empty'))).toEqual([])
})

test('names that the documentation does not know are reported, with the nearest that it knows', async () => {
  const files = {
    'x.mjs': defined(['onCrmDealUpdaet', 'ONCRMDYNAMICITEMADD_147', 'ONTASKADD', 'ONSOMETHINGNEW', 'ROBOT']),
    'ONCRMLEADAD.mjs': 'export default () => {}',
    'ROBOTS.mjs': 'export default () => {}',
  }
  expect((await loadHandlers(folderOf(files))).flatMap(unknownEvents)).toEqual([
    { event: 'ONCRMLEADAD', nearest: 'ONCRMLEADADD' },
    { event: 'ROBOTS', nearest: 'ROBOT' },
    { event: 'ONCRMDEALUPDAET', nearest: 'ONCRMDEALUPDATE' },
    { event: 'ONSOMETHINGNEW', nearest: undefined },
  ])
})

test('a pattern that matches no documented name is reported only where it nearly does', async () => {
  const patterns = ['ONCRMDEAL*', '*', 'ONCRMDYNAMICITEM*_147', 'ONCRMDYNAMICITEMADD_*', 'ONNEW*', 'ONCRMDEEL*']
  expect((await loadHandlers(folderOf({ 'x.mjs': defined(patterns) }))).flatMap(unknownEvents)).toEqual([
    { event: 'ONCRMDEEL*', nearest: 'ONCRMDEALADD' },
  ])
})

test('defineHandler refuses what it would otherwise ignore', () => {
  const handle = () => undefined
  expect(() => defineHandler([], handle)).toThrow('name at least one event')
  expect(() => defineHandler('ONCRM DEAL', handle)).toThrow('"ONCRM DEAL" is no event name')
  // @ts-expect-error the handler is missing
  expect(() => defineHandler('ONCRMDEALADD')).toThrow('must be the handler function')
  // @ts-expect-error no such option
  expect(() => defineHandler('ONTASKADD', handle, { typo: 1 })).toThrow('the option "typo" is not supported')
  // @ts-expect-error a number is no time
  expect(() => defineHandler('ONTASKADD', handle, { debounce: 10 })).toThrow(
    'debounce must be a time such as 10s or 5m, got 10',
  )
  expect(() => defineHandler('ONTASKADD', handle, { timeout: 'soon' })).toThrow('timeout must be a time')
  for (const timeout of ['0s', '25h'])
    expect(() => defineHandler('ONTASKADD', handle, { timeout })).toThrow('timeout must be a time from 1ms to 1d')
  expect(() => defineHandler('ONTASKADD', handle, { concurrency: 0 })).toThrow('concurrency must be a whole number')
  // @ts-expect-error a text is no yes or no
  expect(() => defineHandler('ONTASKADD', handle, { ignoreOwnChanges: 'yes' })).toThrow('ignoreOwnChanges must be true')
  expect(() => defineHandler('ONTASKADD', handle, { order: 'none', coalesce: true })).toThrow('order must be')
  expect(() => defineHandler('ONTASKADD', handle, { order: 'none', onChange: ['title'] })).toThrow(
    "order must be 'object' where onChange is set",
  )
  // @ts-expect-error it is neither of the two
  expect(() => defineHandler('ONTASKADD', handle, { onChange: ['title'], first: 'skip' })).toThrow(
    "first must be 'run' or 'remember'",
  )
  expect(() => defineHandler('ONTASKADD', handle, { first: 'remember' })).toThrow(
    'first must be set only beside onChange',
  )
  // @ts-expect-error a text is no list
  expect(() => defineHandler('ONTASKADD', handle, { onChange: 'title' })).toThrow('onChange must be a list of names')
  for (const onChange of [[], [''], ['title', 7], ['title', 'title'], [['title']], null]) {
    // @ts-expect-error not all of them are lists of names
    expect(() => defineHandler('ONTASKADD', handle, { onChange })).toThrow('onChange must be a list of names')
  }
})
