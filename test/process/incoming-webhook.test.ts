import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, onTestFinished, test } from 'vitest'
import { openSqliteDeliveries } from '../../src/queue/sqlite/deliveries.ts'
import { queuePath } from '../../src/queue/sqlite/queue.ts'
import { dispatcherOf } from '../support/dispatcher.ts'
import { RestError } from '../support/portal/rest-error.ts'
import { type Portal, type PortalOptions, startPortal } from '../support/portal.ts'
import {
  dealBody,
  quickProbes,
  type Receiver,
  readRecorded,
  recorder,
  spawnReceiver,
  startReceiver,
  TOKEN,
  temporaryFolder,
  until,
} from '../support/receiver.ts'

const DEAL = 2
const plenty = { rate: 1000, burst: 1000 }

/** A handler that reads its deal and appends what it saw, as a line of JSON. */
function reader(seen: string): string {
  return `import { appendFileSync } from 'node:fs'
export default async ({ id, object, auth }, { bitrix24, attempt }) => {
  const { item } = await bitrix24.call('crm.item.get', { entityTypeId: 2, id: object.slice('deal:'.length) })
  const line = { id, object, domain: auth.domain, attempt, title: item.title }
  appendFileSync(${JSON.stringify(seen)}, JSON.stringify(line) + '\\n')
}
`
}

interface Read {
  readonly id: string
  readonly object: string
  readonly domain: string
  readonly attempt: number
  readonly title: string
}

function readsOf(seen: string): Read[] {
  if (!existsSync(seen)) return []
  const lines = readFileSync(seen, 'utf8').split('\n').slice(0, -1)
  return lines.map((line): Read => JSON.parse(line))
}

async function startFull(options: PortalOptions = {}): Promise<Portal> {
  const portal = await startPortal({ limit: plenty, ...options })
  for (let id = 1; id <= 9; id++) portal.records.add(DEAL, { title: `Deal ${id}` }, 7, id)
  return portal
}

function startWith(
  portal: Portal,
  handlers: Record<string, string>,
  env: Record<string, string> = {},
  args: readonly string[] = quickProbes,
) {
  return startReceiver({
    args,
    handlers,
    env: {
      ...portal.env,
      B24_HOOK: portal.incomingWebhook(),
      B24_RATE: String(plenty.rate),
      B24_BURST: String(plenty.burst),
      ...env,
    },
  })
}

const incomingWebhooksOf = async (receiver: Receiver) =>
  ((await receiver.readyz()) as { incoming_webhooks?: string[] }).incoming_webhooks ?? []

/** Every byte that a receiver left behind. */
function leftBehind({ output, dataDir }: Receiver): string {
  const files = readdirSync(dataDir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
  return [output(), ...files.map(({ parentPath, name }) => readFileSync(join(parentPath, name), 'latin1'))].join('\n')
}

function deliveryStates({ dataDir }: Receiver) {
  const db = new DatabaseSync(join(dataDir, 'dispatch.db'), { readOnly: true })
  try {
    return db.prepare('SELECT DISTINCT state, attempts FROM delivery').all()
  } finally {
    db.close()
  }
}

test('what needs a dead incoming webhook or a lost portal waits, uncharged, and is then handled in order', async () => {
  const folder = temporaryFolder('seen')
  const [read, noted] = [join(folder, 'read'), join(folder, 'noted')]
  const portal = await startFull()
  const receiver = await startWith(portal, {
    'ONCRMDEALUPDATE.mjs': reader(read),
    'note.mjs': recorder(noted, 'ONCRMDEALUPDATE'),
  })
  portal.subscribe({ url: receiver.url, token: TOKEN })
  await until('it is loaded', () => receiver.logged('handler loaded').length === 2)
  await until('it follows', async () => JSON.stringify(await receiver.readyz()).includes('"ready"'))
  const queue = openSqliteDeliveries({ path: queuePath(receiver.dataDir), mode: 'read' })
  onTestFinished(() => queue.close())
  let edits = 0
  const edit = (times: number) => {
    for (const end = edits + times; edits < end; edits++)
      portal.edit(DEAL, (edits % 9) + 1, { title: `Version ${edits}` })
  }
  const callsOfRuns = () => portal.called().filter((method) => method !== 'scope').length

  async function live(down: () => unknown, up: () => unknown): Promise<string[]> {
    edit(40)
    await until('some are handled', () => readsOf(read).length > edits - 40)
    await down()
    edit(60)
    await until('it is said', async () => (await incomingWebhooksOf(receiver)).length > 0)
    const told = await incomingWebhooksOf(receiver)
    expect(await receiver.readyz()).toMatchObject({ status: 'degraded' })
    await until('the handler that calls nobody goes on', () => readRecorded(noted).length === edits)
    await until('what waits has stopped calling', async () => (await queue.state()).running === 0)
    const calls = callsOfRuns()
    edit(9)
    await until('it still does', () => readRecorded(noted).length === edits)
    expect(callsOfRuns()).toBe(calls)
    expect(readsOf(read).length).toBeLessThan(edits - 9)
    await up()
    await until(
      () => `all are handled\n${receiver.output().slice(-2_000)}`,
      () => readsOf(read).length === edits,
    )
    await expect.poll(receiver.readyz).toMatchObject({ status: 'ready' })
    return told
  }

  const dead = await live(
    () => {
      portal.behaviour.dead = 'expired_token'
    },
    () => {
      portal.behaviour.dead = undefined
    },
  )
  const gone = await live(
    () => portal.unplug(),
    () => portal.plugIn(),
  )
  const incomingWebhook = `the incoming webhook of ${portal.host}`
  expect(dead).toEqual([`${incomingWebhook} is dead: expired_token (The access token provided has expired)`])
  expect(gone).toEqual([expect.stringContaining(`${incomingWebhook} is unreachable: `)])

  const events = await receiver.journal()
  const reads = readsOf(read)
  const idsOf = (
    of: readonly { readonly id: string; readonly object?: string | undefined }[],
    object: string | undefined,
  ) => of.filter((one) => one.object === object).map(({ id }) => id)
  for (const { object } of events) expect(idsOf(reads, object)).toEqual(idsOf(events, object))
  expect(new Set(reads.map(({ attempt }) => attempt))).toEqual(new Set([1]))
  await until('the last is done', async () => (await queue.state()).running === 0)
  expect(deliveryStates(receiver)).toEqual([{ state: 'done', attempts: 1 }])
  const said = (msg: string) => receiver.logged(msg).map((line) => [line['level'], line['incoming_webhook']])
  await expect
    .poll(() => said('an incoming webhook does not work; what needs it waits'))
    .toEqual([50, 50].map((level) => [level, incomingWebhook]))
  await expect
    .poll(() => said('an incoming webhook works again; what waited for it goes on'))
    .toEqual([30, 30].map((level) => [level, incomingWebhook]))
  expect(leftBehind(receiver)).not.toContain(portal.code())
})

test('of two portals with a deal of the same number each run reads from its own', async () => {
  const read = join(temporaryFolder('seen'), 'read')
  const portals = [await startFull({ address: '127.0.0.1' }), await startFull({ address: '127.0.0.2' })] as const
  const named = ['one', 'two'].map((name, index) => ({
    name,
    portal: portals[index] ?? portals[0],
    token: name + TOKEN,
  }))
  const receiver = await startWith(
    portals[0],
    { 'ONCRMDEALUPDATE.mjs': reader(read) },
    {
      B24_APPLICATION_TOKEN: named.map(({ name, token }) => `${name}=${token}`).join(),
      B24_HOOK: named.map(({ name, portal }) => `${name}=${portal.incomingWebhook()}`).join(),
    },
  )
  for (const { portal, token } of named) portal.subscribe({ url: receiver.url, token })
  for (let edit = 0; edit < 10; edit++)
    for (const { portal, name } of named) portal.edit(DEAL, 1, { title: `${name}, version ${edit}` })
  await until('all are handled', () => readsOf(read).length === 20)
  for (const { portal, name } of named) {
    const titles = readsOf(read).flatMap(({ domain, title }) => (domain === portal.host ? title : []))
    expect(titles.filter((title) => title.startsWith(`${name}, `))).toHaveLength(10)
  }
})

test('nothing that a receiver leaves behind contains the incoming webhook, whatever the portal answers', async () => {
  const portal = await startFull()
  const url = portal.incomingWebhook()
  const code = portal.code()
  const receiver = await startWith(
    portal,
    { 'ONCRMDEALUPDATE.mjs': reader(join(temporaryFolder('seen'), 'read')) },
    { LOG_LEVEL: 'trace', RETRY_FOR: '0s' },
  )
  portal.subscribe({ url: receiver.url, token: TOKEN })
  portal.behaviour.failing.set('crm.item.get', [
    new RestError(url, `no ${url}`, 500),
    RestError.system('insufficient_scope'),
    RestError.system('INTERNAL_SERVER_ERROR'),
  ])
  for (let id = 1; id <= 3; id++) portal.edit(DEAL, id, { title: 'changed' })
  await until('three are dead', () => receiver.logged('failed for good: this delivery is dead').length === 3)
  portal.changeCode()
  portal.edit(DEAL, 4, { title: 'changed' })
  await until('it is down', async () => (await incomingWebhooksOf(receiver)).length === 1)
  await receiver.stop()
  const left = leftBehind(receiver)
  expect(left).toContain('needs the scope')
  expect(left).toContain('INVALID_CREDENTIALS')
  expect(code).toHaveLength(16)
  expect(left).not.toContain(code)
})

test('a new incoming webhook in B24_HOOK_FILE and a SIGHUP: what waited for the old one is handled at once', async () => {
  const folder = temporaryFolder('incoming_webhook')
  const [file, read] = [join(folder, 'incoming_webhook'), join(folder, 'read')]
  const portal = await startFull()
  writeFileSync(file, portal.incomingWebhook())
  // With the minute as it is.
  const receiver = await startWith(
    portal,
    { 'ONCRMDEALUPDATE.mjs': reader(read) },
    { B24_HOOK: '', B24_HOOK_FILE: file },
    [],
  )
  portal.subscribe({ url: receiver.url, token: TOKEN })
  portal.changeCode()
  for (let id = 1; id <= 9; id++) portal.edit(DEAL, id, { title: 'changed' })
  await until('they wait', () => receiver.logged('postponed until the incoming webhook works').length === 9)
  await expect.poll(() => incomingWebhooksOf(receiver)).toHaveLength(1)
  writeFileSync(file, portal.incomingWebhook())
  receiver.child.kill('SIGHUP')
  await until(
    () => `handled\n${receiver.output()}`,
    () => readsOf(read).length === 9,
  )
  expect(new Set(readsOf(read).map(({ attempt }) => attempt))).toEqual(new Set([1]))
  await expect.poll(receiver.readyz).toMatchObject({ status: 'ready' })
})

test('the report of a dead dispatcher about an incoming webhook ends with it, and the next one goes on', async () => {
  const read = join(temporaryFolder('seen'), 'read')
  const portal = await startFull()
  const receiver = await startWith(portal, { 'ONCRMDEALUPDATE.mjs': reader(read) }, {}, [])
  portal.subscribe({ url: receiver.url, token: TOKEN })
  portal.behaviour.dead = 'expired_token'
  portal.edit(DEAL, 1, { title: 'changed' })
  await until('it waits', async () => (await incomingWebhooksOf(receiver)).length === 1)
  portal.behaviour.dead = undefined
  process.kill(await dispatcherOf(receiver), 'SIGKILL')
  await until('handled', () => readsOf(read).length === 1)
  await expect.poll(receiver.readyz).toMatchObject({ status: 'ready' })
})

test('a wrong incoming webhook is reported at the start with every other problem, without its value', async () => {
  const receiver = await spawnReceiver({
    env: { B24_HOOK: 'http://example.bitrix24.com/rest/1/hidden/', CONCURRENCY: '0' },
  })
  expect(await receiver.exited).toEqual({ code: 78, signal: null })
  expect(receiver.output()).toMatch(/2 problems\n {2}B24_HOOK .*https.*\n {2}CONCURRENCY /)
  expect(receiver.output()).not.toContain('hidden')
})

test('undici is imported only with an incoming webhook, and before a run needs it; the SDK never is', async () => {
  const handlers = { 'ONCRMDEALUPDATE.mjs': 'export default (event, { log }) => log.info("ran")' }
  const preload = new URL('../support/preload/report-imports.ts', import.meta.url).href
  const options = { handlers, env: { NODE_OPTIONS: `--import=${preload}` } }
  const without = await startReceiver(options)
  await without.post(dealBody(1))
  await until('handled', () => without.logged('handled').length === 1)
  await without.stop()
  expect(without.output()).not.toContain('is imported')
  const incomingWebhook = 'https://example.bitrix24.com/rest/1/abc/'
  const receiver = await startReceiver({ ...options, env: { ...options.env, B24_HOOK: incomingWebhook } })
  await until('it is', () => receiver.output().includes('undici is imported'))
  expect(receiver.logged('accepted')).toEqual([])
  await receiver.stop()
  expect(receiver.output()).not.toContain('b24jssdk is imported')
})

test("a call with a promise as a parameter is dead at once, with the handler's line, and is not sent", async () => {
  const portal = await startFull()
  const receiver = await startWith(portal, {
    'ONCRMDEALUPDATE.mjs': `const price = async () => 7
export default async (event, { bitrix24 }) => {
  await bitrix24.call('crm.deal.add', { fields: { TITLE: 'Boat', OPPORTUNITY: price() } })
}`,
  })
  portal.subscribe({ url: receiver.url, token: TOKEN })
  portal.edit(DEAL, 1, { title: 'changed' })
  const dead = 'failed for good: this delivery is dead'
  await until('it is dead', () => receiver.logged(dead).length === 1)
  expect(receiver.logged(dead)).toMatchObject([
    {
      attempt: 1,
      err: {
        type: 'FinalError',
        message: 'crm.deal.add: fields.OPPORTUNITY is a promise: is an await missing?',
        stack: expect.stringMatching(/ONCRMDEALUPDATE\.mjs:3:/),
      },
    },
  ])
  expect(portal.requests).toEqual([])
})
