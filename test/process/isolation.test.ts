import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { linesOf, scripted } from '../support/dispatcher.ts'
import { type Postgres, startPostgres } from '../support/postgres.ts'
import { dealBody, type Receiver, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

/** What a handler may do to what all handlers of its process share. Each of these fails at its own line. */
const refused: Record<string, string> = {
  'value-on-object': 'Object.prototype.foo = 1',
  'json-on-object': 'Object.prototype.toJSON = () => undefined',
  'json-on-array': 'Array.prototype.toJSON = () => undefined',
  'getter-on-object':
    'Object.defineProperty(Object.prototype, "foo", { configurable: true, enumerable: true, get() { throw new Error("got") } })',
  'merge-proto':
    'const merge = (to, from) => { for (const key in from) if (typeof from[key] === "object") merge(to[key] ??= {}, from[key]); else to[key] = from[key]; return to }; merge({}, JSON.parse(`{"__proto__": {"foo": 1}}`))',
  'stringify-throws': 'JSON.stringify = () => { throw new Error("stringify") }',
  'stringify-nothing': 'JSON.stringify = () => undefined',
  'no-json': 'globalThis.JSON = {}',
  'array-map': 'Array.prototype.map = () => []',
  'map-get': 'Map.prototype.get = () => { throw new Error("get") }',
  'promise-then': 'Promise.prototype.then = () => { throw new Error("then") }',
  'date-now': 'Date.now = () => { throw new Error("now") }',
  'set-timeout': 'globalThis.setTimeout = () => { throw new Error("timer") }',
  fetch: 'globalThis.fetch = () => { throw new Error("fetch") }',
  'function-call': 'Function.prototype.call = () => { throw new Error("call") }',
  'own-event': 'event.object = "deal:0"; event.id = "0"; event.auth = {}; throw new Error("it has changed its event")',
}

/** These are found after the run: the process is another's then. */
const undone: Record<string, string> = {
  'value-of': 'Object.prototype.valueOf = () => 1',
  'has-own-property': 'Object.prototype.hasOwnProperty = () => true',
}

/** The data of an event can have a key of any name. */
const body = (id: number) => `data[constructor][prototype][merged]=1&${dealBody(id)}`

const good = (folder: string) =>
  scripted(
    folder,
    `await sleep(5)
  if (new Map([[1, 2]]).get(1) !== 2 || Date.now() < 1 || Object.hasOwn({}, 'a') || 'foo' in {}) throw new Error('wrong')
  mark('good', event.object + JSON.stringify([1, 2].map((number) => number * 2)))`,
  )

let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres()
})
afterAll(() => postgres.remove())

describe.each(['embedded', 'postgres'])('%s engine', (engine) => {
  test.each([
    ['that cannot be', refused],
    ['that is undone', undone],
  ])(
    'a handler that changes what all share, %s, is named, and its neighbour handles every event once',
    async (_, hostile) => {
      const folder = temporaryFolder('talk')
      const env = engine === 'postgres' ? { DATABASE_URL: postgres.url(await postgres.createDatabase()) } : {}
      const names = Object.keys(hostile)
      const receiver = await startReceiver({
        env: { ...env, CONCURRENCY: '32' },
        handlers: {
          'good.mjs': defined(good(folder)),
          ...Object.fromEntries(
            names.map((name) => [
              `${name}.mjs`,
              defined(scripted(folder, `mark('ran-${name}'); await sleep(1); ${hostile[name]}`)),
            ]),
          ),
        },
      })
      for (let id = 1; id <= 5; id++) await receiver.post(body(id))
      for (const name of names) await until(`${name} ran`, () => linesOf(folder, `ran-${name}`).length > 0)
      for (let id = 6; id <= 10; id++) await receiver.post(body(id))
      const handled = () => linesOf(folder, 'good').toSorted()
      await until(
        () => `ten are handled\n${handled().join('\n')}\n${receiver.output().slice(-3_000)}`,
        () => handled().length >= 10,
      )
      expect(handled()).toEqual(Array.from({ length: 10 }, (_, at) => `deal:${at + 1}[2,4]`).toSorted())
      for (const name of names) await until(`${name} is named`, () => namings(receiver, name).length > 0)

      for (const name of names)
        writeFileSync(
          join(receiver.handlersDir, `${name}.mjs`),
          defined(scripted(folder, `mark('fixed-${name}', event.object)`)),
        )
      receiver.child.kill('SIGHUP')
      await until('the fixed ones are loaded', () => receiver.logged('handlers were loaded again').length > 0)
      await receiver.post(body(11))
      for (const name of names)
        await until(`${name} handles again`, () => linesOf(folder, `fixed-${name}`).includes('deal:11'))
      await until('the neighbour has it, too', () => handled().length === 11)
      await until(
        () => `all is handled\n${receiver.output().slice(-3_000)}`,
        async () => {
          const { status, backlog } = await readyz(receiver)
          return status === 'ready' && backlog?.pending === 0 && backlog.dead === 0
        },
      )
      expect(handled()).toHaveLength(11)
    },
  )
})

test('a file that changes a built-in while it is loaded is broken, and named with its line', async () => {
  const receiver = await startReceiver({
    handlers: { 'early.mjs': 'export default () => undefined\nJSON.stringify = () => undefined\n' },
  })
  const broken = await until('it is named', () => receiver.logged('a handler cannot be loaded')[0])
  expect(String(broken['at'])).toMatch(/early\.mjs:2$/)
})

test('a handler that changes what cannot be restored costs its process, and no delivery is charged', async () => {
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
    return status === 'ready' && backlog?.pending === 0 && backlog.dead === 0
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

/** In the log, as the one whose run failed, or one of those for whom the process is replaced. */
function namings(receiver: Receiver, name: string): string[] {
  const told = new RegExp(`"handler":"${name}"|"handlers":\\[[^\\]]*"${name}"`)
  const lines = receiver.output().split('\n')
  return lines.filter((line) => /"level":[45]0/.test(line) && told.test(line))
}

async function readyz(receiver: Receiver) {
  return (await receiver.readyz()) as { status: string; backlog?: { pending: number; dead: number } }
}
