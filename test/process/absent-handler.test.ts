import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { openSqliteDeliveries } from '../../src/queue/sqlite/deliveries.ts'
import { queuePath } from '../../src/queue/sqlite/queue.ts'
import { envOf, runCli } from '../support/cli.ts'
import {
  dealBody,
  type Receiver,
  readRecorded,
  recorder,
  startReceiver,
  temporaryFolder,
  until,
} from '../support/receiver.ts'

const bound = { HANDLER_LOAD_TIMEOUT: '2s' }
const hangs = 'await new Promise(() => setInterval(() => {}, 1_000))\nexport default () => {}\n'

function seenIn(name: string) {
  const path = join(temporaryFolder('seen'), name)
  return {
    source: recorder(path),
    deals: () =>
      readRecorded(path)
        .map((event) => Number(event.object?.slice('deal:'.length)))
        .sort((a, b) => a - b),
  }
}

async function postDeals(receiver: Receiver, ...ids: readonly number[]) {
  for (const id of ids) expect((await receiver.post(dealBody(id))).status).toBe(200)
}

interface Readiness {
  readonly status: string
  readonly dispatcher?: string
  readonly handlers?: readonly string[]
}

const readiness = async (receiver: Receiver) => (await receiver.readyz()) as Readiness

/** Resolves with what `/readyz` says of a handler that is not loaded, once it matches. */
const warned = (receiver: Receiver, pattern: RegExp) =>
  until(
    () => `a handler that is not loaded, ${pattern}\n${receiver.output()}`,
    async () => (await readiness(receiver)).handlers?.find((text) => pattern.test(text)),
  )

const isReady = (receiver: Receiver) =>
  until(
    () => `ready\n${receiver.output()}`,
    async () => (await readiness(receiver)).status === 'ready',
  )

const put = (receiver: Receiver, name: string, source: string) =>
  writeFileSync(join(receiver.handlersDir, name), source)

/** Both handlers have run for deal 1, and the receiver has stopped. */
async function startTwo() {
  const [one, two] = [seenIn('one'), seenIn('two')]
  const first = await startReceiver({ handlers: { 'one.mjs': one.source, 'two.mjs': two.source } })
  await postDeals(first, 1)
  await until('both have run', () => one.deals().length === 1 && two.deals().length === 1)
  await isReady(first)
  await first.stop()
  return { dataDir: first.dataDir, one, two }
}

const toolEnv = (receiver: Receiver) => ({ ...envOf(receiver), ...bound })

test('a file that is gone at a start with nothing pending is named, and its events are kept for it', async () => {
  const { dataDir, one, two } = await startTwo()
  const receiver = await startReceiver({ dataDir, handlers: { 'one.mjs': one.source } })
  const text = await warned(receiver, /two/)
  expect(text).toContain('"b24-receiver handlers forget two"')
  expect((await readiness(receiver)).status).toBe('degraded')
  await until('it is logged', () => receiver.logged('a handler is not loaded; its events are kept for it').length === 1)
  expect(receiver.logged('a handler is not loaded; its events are kept for it')).toMatchObject([
    { handler: 'two', level: 40 },
  ])
  await postDeals(receiver, 2, 3)
  await until('the other goes on', () => one.deals().length === 3)
  expect((await runCli({ env: toolEnv(receiver) }, 'status')).stdout).toContain('handlers forget two')
  expect((await runCli({ env: toolEnv(receiver) }, 'handlers')).stdout).toMatch(/two\s+gone\s+2/)
  expect((await runCli({ env: toolEnv(receiver) }, 'doctor')).stdout).toContain('handlers forget two')

  put(receiver, 'two.mjs', two.source)
  receiver.child.kill('SIGHUP')
  await until('it has them', () => two.deals().length === 3)
  expect(two.deals()).toEqual([1, 2, 3])
  await isReady(receiver)
})

test('a handler that is gone is forgotten beside the dispatcher at work, and what comes then is not kept', async () => {
  const { dataDir, one } = await startTwo()
  const receiver = await startReceiver({ dataDir, handlers: { 'one.mjs': one.source } })
  await warned(receiver, /two/)
  await postDeals(receiver, 2)
  await until('the other goes on', () => one.deals().length === 2)
  const { code, stdout } = await runCli({ env: toolEnv(receiver) }, 'handlers', 'forget', 'two', '--yes')
  expect([code, stdout]).toEqual([0, expect.stringContaining('forgotten; 1 dropped')])
  await isReady(receiver)
  await postDeals(receiver, 3)
  await until('the other goes on', () => one.deals().length === 3)
  const deliveries = openSqliteDeliveries({ path: queuePath(dataDir), mode: 'read' })
  expect((await deliveries.handlers()).map(({ name }) => name)).toEqual(['one'])
  expect(await deliveries.state()).toMatchObject({ ready: 0, waiting: 0, blocked: 0 })
  await deliveries.close()
})

test('a known file that never ends to load is named after the bound, and the others run meanwhile', async () => {
  const { dataDir, one, two } = await startTwo()
  const handlers = { 'one.mjs': one.source, 'two.mjs': hangs }
  const receiver = await startReceiver({ dataDir, handlers, env: bound })
  expect(await warned(receiver, /two\.mjs/)).toContain('HANDLER_LOAD_TIMEOUT')
  await postDeals(receiver, 2, 3)
  await until('the other goes on', () => one.deals().length === 3)
  expect((await runCli({ env: toolEnv(receiver) }, 'handlers')).stdout).toMatch(/two\s+broken\s+2/)
  const reload = await runCli({ env: toolEnv(receiver) }, 'reload')
  expect([reload.code, reload.stdout]).toEqual([1, expect.stringContaining('two.mjs')])
  await postDeals(receiver, 4)
  await until('the old one goes on', () => one.deals().length === 4)
  const doctor = await runCli({ env: toolEnv(receiver) }, 'doctor')
  expect(doctor.stdout).toMatch(/two\.mjs: .*HANDLER_LOAD_TIMEOUT/)

  put(receiver, 'two.mjs', two.source)
  receiver.child.kill('SIGHUP')
  await until('it has them', () => two.deals().length === 4)
  await isReady(receiver)
})

test('files that wait for one helper cost the bound once, and a file that comes late is run', async () => {
  const { dataDir, one, two } = await startTwo()
  const gate = join(temporaryFolder('gate'), 'open')
  const helper = `import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
while (!existsSync(${JSON.stringify(gate)})) await sleep(20)
`
  const handlers = { 'one.mjs': one.source, '_lib.mjs': helper, 'two.mjs': `import './_lib.mjs'\n${two.source}` }
  const receiver = await startReceiver({ dataDir, handlers, env: bound })
  await warned(receiver, /two\.mjs/)
  await postDeals(receiver, 2)
  await until('the other goes on', () => one.deals().length === 2)
  writeFileSync(gate, '')
  await until('it has them', () => two.deals().length === 2)
  await isReady(receiver)
  await postDeals(receiver, 3)
  await until('both go on', () => one.deals().length === 3 && two.deals().length === 3)
  const { stdout } = await runCli({ env: toolEnv(receiver) }, 'handlers')
  expect(stdout).toMatch(/two\s+loaded\s+0/)
})

test('a new file that never ends to load keeps the event that it is named after, if that is documented', async () => {
  const [one, deals] = [seenIn('one'), seenIn('deals')]
  const handlers = { 'one.mjs': one.source, 'ONCRMDEALUPDATE.mjs': hangs }
  const receiver = await startReceiver({ handlers, env: bound })
  await warned(receiver, /ONCRMDEALUPDATE\.mjs/)
  await postDeals(receiver, 1, 2)
  await until('the other goes on', () => one.deals().length === 2)
  put(receiver, 'ONCRMDEALUPDATE.mjs', deals.source)
  receiver.child.kill('SIGHUP')
  await until('it has them', () => deals.deals().length === 2)
  expect(deals.deals()).toEqual([1, 2])
})

test('a new file of any other name that never ends to load is waited for: its events are not known', async () => {
  const one = seenIn('one')
  const receiver = await startReceiver({ handlers: { 'one.mjs': one.source, 'two.mjs': hangs }, env: bound })
  const trouble = await until('trouble', async () => {
    const { dispatcher = '' } = await readiness(receiver)
    return dispatcher.includes('HANDLER_LOAD_TIMEOUT') ? dispatcher : undefined
  })
  expect(trouble).toContain('two.mjs')
  await postDeals(receiver, 1)
  rmSync(join(receiver.handlersDir, 'two.mjs'))
  await until('the other goes on', () => one.deals().length === 1)
  await isReady(receiver)
})

test.each([
  ['ends', 'process.exit(3)\n'],
  ['blocks', 'for (;;);\n'],
])('a file that %s the process that loads it is named, and only that one', async (_what, source) => {
  const one = seenIn('one')
  const env = { HANDLER_STALL: '3s', SHUTDOWN_GRACE: '500ms', ...bound }
  const receiver = await startReceiver({ handlers: { 'one.mjs': one.source, 'two.mjs': source }, env })
  const trouble = await until('trouble', async () => {
    const { dispatcher = '' } = await readiness(receiver)
    return dispatcher.includes('while it was loaded') ? dispatcher : undefined
  })
  expect(trouble).toContain('two.mjs')
  expect(trouble).not.toContain('one.mjs')
  const { stdout } = await runCli({ env: toolEnv(receiver) }, 'handlers')
  await until('it is shown', async () =>
    /two\s+broken/.test((await runCli({ env: toolEnv(receiver) }, 'handlers')).stdout),
  )
  expect(stdout).not.toMatch(/one\s+broken/)
  await postDeals(receiver, 1)
  put(receiver, 'two.mjs', 'export default () => {}\n')
  await until('the other goes on', () => one.deals().length === 1)
  await isReady(receiver)
})

test('a helper, a test and the settings of a tool stop no handler, and are reported', async () => {
  const one = seenIn('one')
  const receiver = await startReceiver({
    handlers: {
      'one.mjs': one.source,
      'helper.mjs': 'export const money = Number',
      'one.spec.mjs': 'throw new Error()',
      'vitest.config.mjs': 'throw new Error()',
    },
  })
  await isReady(receiver)
  await postDeals(receiver, 1)
  await until('it has run', () => one.deals().length === 1)
  const leftOut = () => receiver.logged('a file is left out: it is no handler')
  await expect.poll(leftOut).toHaveLength(3)
  const told = leftOut()
  expect(told.map(({ level }) => Number(level)).sort((a, b) => a - b)).toEqual([30, 30, 40])
  expect(told.map(({ file }) => String(file)).sort()).toEqual(
    ['helper.mjs', 'one.spec.mjs', 'vitest.config.mjs'].map((name) => join(receiver.handlersDir, name)),
  )
  const listed = await runCli({ env: toolEnv(receiver) }, 'handlers')
  expect(listed.stdout).toMatch(/^one +loaded/m)
  expect(listed.stdout).not.toContain('helper')
  expect(listed.stderr).toContain('helper.mjs is left out: its default export must be')
  const checked = await runCli({ env: toolEnv(receiver) }, 'doctor')
  expect(checked.stdout).toMatch(/warn +handlers +helper\.mjs is left out/)
})

test('a handler that runs is not left out by a reload that finds no default export', async () => {
  const one = seenIn('one')
  const receiver = await startReceiver({ handlers: { 'one.mjs': one.source } })
  await isReady(receiver)
  put(receiver, 'one.mjs', 'export const other = 1')
  const told = await runCli({ env: toolEnv(receiver) }, 'reload')
  expect(told).toMatchObject({ code: 1, stdout: expect.stringContaining('its default export must be') })
  await postDeals(receiver, 1)
  await until('the old one has run', () => one.deals().length === 1)
})
