import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { linesOf, scripted } from '../support/dispatcher.ts'
import { type Postgres, startPostgres } from '../support/postgres.ts'
import { dealBody, type Receiver, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

/** What a handler may do to what all handlers of its process share. */
const hostile: Record<string, string> = {
  'adds a value to Object.prototype': 'Object.prototype.foo = 1',
  'adds toJSON to Object.prototype': 'Object.prototype.toJSON = () => undefined',
  'adds toJSON to Array.prototype': 'Array.prototype.toJSON = () => undefined',
  'adds a getter to Object.prototype':
    'Object.defineProperty(Object.prototype, "foo", { configurable: true, enumerable: true, get() { throw new Error("got") } })',
  'merges __proto__ of its data into an object':
    'const merge = (to, from) => { for (const key in from) if (typeof from[key] === "object") merge(to[key] ??= {}, from[key]); else to[key] = from[key]; return to }; merge({}, JSON.parse(`{"__proto__": {"foo": 1}}`)); merge({}, event.data)',
  'patches JSON.stringify to throw': 'JSON.stringify = () => { throw new Error("stringify") }',
  'patches JSON.stringify to return nothing': 'JSON.stringify = () => undefined',
  'replaces JSON': 'globalThis.JSON = {}',
  'patches fetch': 'globalThis.fetch = () => { throw new Error("fetch") }',
  'patches Array.prototype.map': 'Array.prototype.map = () => []',
  'patches Map.prototype.get': 'Map.prototype.get = () => { throw new Error("get") }',
  'patches Promise.prototype.then': 'Promise.prototype.then = () => { throw new Error("then") }',
  'patches Date.now': 'Date.now = () => { throw new Error("now") }',
  'patches setTimeout': 'globalThis.setTimeout = () => { throw new Error("timer") }',
  'patches Object.prototype.hasOwnProperty': 'Object.prototype.hasOwnProperty = () => true',
  'patches Function.prototype.call': 'Function.prototype.call = () => { throw new Error("call") }',
}

/** The data of an event can have a key of any name. */
const body = (id: number) => `data[constructor][prototype][merged]=1&${dealBody(id)}`

const good = (folder: string) =>
  scripted(
    folder,
    `const sum = [1, 2].map((number) => number * 2)
  await sleep(5)
  if (new Map([[1, 2]]).get(1) !== 2 || Date.now() < 1 || typeof fetch('data:,').then !== 'function') throw new Error('wrong')
  mark('good', event.object + JSON.stringify([...sum, Object.keys({}).concat(Object.hasOwn({}, 'a'))]))`,
  )

let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres()
})
afterAll(() => postgres.remove())

describe.each(['embedded', 'postgres'])('%s engine', (engine) => {
  test.each(Object.keys(hostile))('a handler that %s is named; its neighbour goes on', async (what) => {
    const folder = temporaryFolder('talk')
    const env = engine === 'postgres' ? { DATABASE_URL: postgres.url(await postgres.createDatabase()) } : {}
    const receiver = await startReceiver({
      env,
      handlers: {
        'good.mjs': defined(good(folder)),
        'hostile.mjs': defined(scripted(folder, `mark('ran'); await sleep(1); ${hostile[what]}`)),
      },
    })
    for (let id = 1; id <= 5; id++) await receiver.post(body(id))
    await until('the hostile one ran', () => linesOf(folder, 'ran').length > 0)
    for (let id = 6; id <= 10; id++) await receiver.post(body(id))
    const objects = () => linesOf(folder, 'good').toSorted()
    await until(
      () => `ten are handled\n${objects().join('\n')}\n${receiver.output().slice(-3_000)}`,
      () => objects().length >= 10,
      15_000,
    )
    expect(objects()).toEqual(Array.from({ length: 10 }, (_, at) => `deal:${at + 1}[2,4,[false]]`).toSorted())
    await until('it is named', () => namings(receiver).length > 0)

    writeFileSync(join(receiver.handlersDir, 'hostile.mjs'), defined(scripted(folder, `mark('fixed', event.object)`)))
    receiver.child.kill('SIGHUP')
    await until('the fixed one is loaded', () => receiver.logged('handlers were loaded anew').length > 0)
    await receiver.post(body(11))
    await until(
      () => `all is handled\n${receiver.output().slice(-3_000)}`,
      async () => {
        const { status, backlog } = await readyz(receiver)
        return (
          status === 'ready' &&
          backlog?.owed === 0 &&
          backlog.dead === 0 &&
          linesOf(folder, 'fixed').includes('deal:11')
        )
      },
      30_000,
    )
    expect(objects()).toHaveLength(11)
  })
})

test('a file that changes a built-in while it is loaded is broken, and named with its line', async () => {
  const receiver = await startReceiver({
    handlers: { 'early.mjs': 'export default () => undefined\nJSON.stringify = () => undefined\n' },
  })
  const broken = await until('it is named', () => receiver.logged('a handler cannot be loaded')[0])
  expect(String(broken['at'])).toMatch(/early\.mjs:2$/)
})

test('whose handler changes what cannot be fixed: its process is replaced, and nobody is charged', async () => {
  const folder = temporaryFolder('talk')
  const receiver = await startReceiver({
    handlers: {
      'good.mjs': defined(scripted(folder, `await marked('go'); mark('good', event.object)`)),
      'hostile.mjs': defined(scripted(folder, `mark('ran', event.object); Object.prototype.valueOf = () => 1`)),
    },
  })
  await receiver.post(dealBody(1))
  const named = () => receiver.logged('a handler changed built-ins; its process is replaced')[0]
  const line = await until('it is named', named)
  expect(line['handlers']).toContain('hostile')
  writeFileSync(join(folder, 'go'), '')
  await until('all is done', async () => {
    const { status, backlog } = await readyz(receiver)
    return status === 'ready' && backlog?.owed === 0 && backlog.dead === 0
  })
  expect(linesOf(folder, 'ran')).toEqual(['deal:1'])
  expect(linesOf(folder, 'good')).toEqual(['deal:1'])
  expect(receiver.logged('failed, will be tried again')).toEqual([])
})

function defined(source: string): string {
  return source.replace('export default', 'const handle =').concat(`
import { defineHandler } from 'bitrix24-webhook-receiver'
export default defineHandler('ONCRMDEALUPDATE', handle)
`)
}

function namings(receiver: Receiver): string[] {
  const lines = receiver.output().split('\n')
  return lines.filter(
    (line) => /"handler":"hostile"|"handlers":\[[^\]]*"hostile"/.test(line) && /"level":[45]0/.test(line),
  )
}

async function readyz(receiver: Receiver) {
  return (await receiver.readyz()) as { status: string; backlog?: { owed: number; dead: number } }
}
