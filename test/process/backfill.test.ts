import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { findHolder } from '../../src/journal/lock.ts'
import { envOf, jsonLines, runCli } from '../support/cli.ts'
import { dispatcherOf } from '../support/dispatcher.ts'
import { type Portal, startPortal } from '../support/portal.ts'
import { dealBody, type ReceiverOptions, startReceiver, TOKEN, temporaryFolder, until } from '../support/receiver.ts'

const [LEAD, DEAL] = [1, 2]
const plenty = { rate: 1000, burst: 1000 }

/** Writes down every event, with how it came. */
const audit = (seen: string) => `import { appendFileSync } from 'node:fs'
import { defineHandler } from 'bitrix24-webhook-receiver'
export default defineHandler('*', ({ event, object, source = 'post' }) => {
  appendFileSync(${JSON.stringify(seen)}, \`\${event} \${object} \${source}\\n\`)
})
`

async function start(options: ReceiverOptions & { portal?: Portal } = {}) {
  const portal = options.portal ?? (await startPortal({ limit: plenty }))
  const seen = join(temporaryFolder('seen'), 'seen')
  const rest = { ...portal.env, B24_HOOK: portal.incomingWebhook(), B24_RATE: '1000', B24_BURST: '1000' }
  const receiver = await startReceiver({
    ...options,
    handlers: { 'audit.mjs': audit(seen) },
    env: { ...rest, ...options.env },
  })
  // Until then the CLI finds no handler.
  await until('it follows', async () => JSON.stringify(await receiver.readyz()).includes('"ready"'))
  const env: Record<string, string> = { ...envOf(receiver), ...rest }
  return {
    portal,
    receiver,
    env,
    cli: (...args: string[]) => runCli({ env }, ...args),
    seen: () => (existsSync(seen) ? readFileSync(seen, 'utf8').split('\n').slice(0, -1) : []),
  }
}

/** Deals that nobody told of. */
function addDeals({ records }: Portal, count: number, from = 1) {
  for (let id = from; id < from + count; id++) records.add(DEAL, { title: `Deal ${id}` }, 7, id)
}

describe('backfill', () => {
  test('journals what was changed and made while no receiver answered, and only that; handlers get it', async () => {
    const { portal, receiver, cli, seen } = await start()
    addDeals(portal, 3)
    portal.subscribe({ url: receiver.url, token: TOKEN })
    portal.edit(DEAL, 1, { title: 'told' })
    await portal.eventsAnswered()
    await until('it was handled', () => seen().length === 1)

    // Whole seconds are all that Bitrix24 tells.
    await until('a second is over', () => Date.now() - (portal.records.get(DEAL, 1)?.updatedTime ?? 0) > 1100)
    await receiver.stop()
    portal.edit(DEAL, 1, { title: 'missed' })
    addDeals(portal, 1, 77)
    await portal.eventsAnswered()
    const again = await startReceiver({
      dataDir: receiver.dataDir,
      env: { PORT: String(receiver.port), ADMIN_PORT: String(receiver.adminPort), HANDLERS_DIR: receiver.handlersDir },
    })

    const dry = await cli('backfill', 'deal', '--since', '1h', '--dry-run')
    expect(dry).toMatchObject({ code: 0, stdout: '4 records, 4 events to journal\n' })
    expect(await again.journal()).toHaveLength(1)
    const { code, stdout, stderr } = await cli('backfill', 'deal', '--since', '1h')
    expect([code, stdout, stderr]).toEqual([0, '4 records, 4 events journalled\n', ''])
    await until('handlers got them', () => seen().length === 5)
    expect(seen().slice(1).sort()).toEqual([
      'ONCRMDEALADD deal:2 backfill',
      'ONCRMDEALADD deal:3 backfill',
      'ONCRMDEALADD deal:77 backfill',
      'ONCRMDEALUPDATE deal:1 backfill',
    ])
    const [first, backfilled] = await again.journal()
    expect(backfilled).toMatchObject({ source: 'backfill', remote: portal.host, auth: first?.auth })
    expect((await cli('backfill', 'deal', '--since', '1h', '--json')).stdout).toBe('{"records":4,"events":0}\n')
  })

  test('takes several kinds, also where the receiver is stopped', async () => {
    const { portal, receiver, env, cli, seen } = await start()
    await receiver.stop()
    portal.records.add(LEAD, { title: 'Lead' }, 7, 5)
    portal.records.add(1032, { title: 'Thing' }, 7, 9)
    portal.records.add('task', { title: 'Task' }, 7, 17)
    const { stdout, stderr } = await cli('backfill', 'lead,item:1032,task', '--since', '1d')
    expect(stdout).toBe('3 records, 3 events journalled\n')
    expect(stderr).toContain(`the journal has no event of ${portal.host} yet`)
    await startReceiver({ dataDir: receiver.dataDir, env: { HANDLERS_DIR: env['HANDLERS_DIR'] ?? '' } })
    await until('handlers got them', () => seen().length === 3)
    expect(seen().sort()).toEqual([
      'ONCRMDYNAMICITEMADD item:1032:9 backfill',
      'ONCRMLEADADD lead:5 backfill',
      'ONTASKADD task:17 backfill',
    ])
  })

  test('in the place of a stopped receiver is not ended by a reload that is meant for that', async () => {
    const { portal, receiver, env } = await start()
    await receiver.stop()
    addDeals(portal, 120)
    const slowly = { ...env, B24_RATE: '1', B24_BURST: '1' }
    const backfilled = runCli({ env: slowly }, 'backfill', 'deal', '--all')
    const holder = await until('it has its place', () => findHolder(receiver.dataDir, 'receiver'))
    process.kill(holder.pid, 'SIGUSR2')
    expect(await backfilled).toMatchObject({ code: 0, stdout: '120 records, 120 events journalled\n' })
  })

  test('--all is the first fill of a mirror: every record, each as an update', async () => {
    const { portal, cli, seen } = await start()
    addDeals(portal, 120)
    expect(await cli('backfill', 'deal', '--all')).toMatchObject({ stdout: '120 records, 120 events journalled\n' })
    await until('handlers got them', () => seen().length === 120)
    expect(new Set(seen()).size).toBe(120)
    expect(seen().every((line) => line.startsWith('ONCRMDEALUPDATE '))).toBe(true)
  })

  test('--handler gives one handler every record, also those that the journal knows, and the others none', async () => {
    const { portal, receiver, cli, seen } = await start()
    for (let id = 1; id <= 5; id++) await receiver.post(dealBody(id, { domain: portal.host }))
    await until('the old handler has them', () => seen().length === 5)
    addDeals(portal, 6)
    const filled = join(temporaryFolder('filled'), 'seen')
    writeFileSync(join(receiver.handlersDir, 'mirror.mjs'), audit(filled).replace("'*'", "'ONCRMDEAL*'"))
    expect((await cli('reload')).code).toBe(0)
    const mirrored = () => (existsSync(filled) ? readFileSync(filled, 'utf8').split('\n').slice(0, -1) : [])

    const { code, stdout } = await cli('backfill', 'deal', '--all', '--handler', 'mirror')
    expect([code, stdout]).toEqual([0, '6 records, 6 events journalled\n'])
    await until('the new handler has them', () => mirrored().length === 6)
    expect(mirrored().sort()).toEqual([1, 2, 3, 4, 5, 6].map((id) => `ONCRMDEALUPDATE deal:${id} backfill`))
    expect((await receiver.journal()).slice(5).map(({ handler }) => handler)).toEqual(Array(6).fill('mirror'))

    // Of deal:6 nobody else was told: the old handler still misses it.
    expect((await cli('backfill', 'deal', '--since', '1h')).stdout).toContain('records, ')
    await until('the old handler has the rest', () => seen().some((line) => line.endsWith('deal:6 backfill')))
    expect(seen().filter((line) => line.endsWith('backfill')).length).toBeLessThanOrEqual(6)
  })

  test('--handler gives an ADD to a handler that handles nothing else, and none where it handles neither', async () => {
    const { portal, receiver, cli } = await start()
    addDeals(portal, 2)
    const put = (name: string) => writeFileSync(join(receiver.handlersDir, `${name}.mjs`), 'export default () => {}')
    put('ONCRMDEALADD')
    put('ONCRMLEADADD')
    expect((await cli('reload')).code).toBe(0)
    expect(await cli('backfill', 'deal', '--all', '--handler', 'ONCRMDEALADD')).toMatchObject({ code: 0 })
    await until('it has them', () => receiver.logged('handled').length === 2)
    expect(receiver.logged('handled')).toMatchObject([
      { handler: 'ONCRMDEALADD', event: 'ONCRMDEALADD' },
      { handler: 'ONCRMDEALADD', event: 'ONCRMDEALADD' },
    ])
    const neither = await cli('backfill', 'deal', '--all', '--handler', 'ONCRMLEADADD')
    expect([neither.code, neither.stderr]).toEqual([
      1,
      expect.stringContaining('"ONCRMLEADADD" handles neither ONCRMDEALUPDATE nor ONCRMDEALADD, so it gets no deal'),
    ])
    const nobody = await cli('backfill', 'deal', '--all', '--handler', 'nobody')
    expect([nobody.code, nobody.stderr]).toEqual([1, expect.stringContaining('no handler "nobody" was ever loaded')])
    expect(await receiver.journal()).toHaveLength(2)
  })

  test('--handler is kept for --resume, and replay does not give its events to the others', async () => {
    const { portal, receiver, cli } = await start()
    addDeals(portal, 60)
    portal.behaviour.failing.set('crm.item.list', ['ok', 'INTERNAL_SERVER_ERROR'])
    expect((await cli('backfill', 'deal', '--all', '--handler', 'audit')).code).toBe(1)
    expect((await cli('backfill', '--resume', '--handler', 'audit')).code).toBe(64)
    expect(await cli('backfill', '--resume')).toMatchObject({ code: 0, stdout: '10 records, 10 events journalled\n' })
    expect(new Set((await receiver.journal()).map(({ handler }) => handler))).toEqual(new Set(['audit']))
    writeFileSync(join(receiver.handlersDir, 'ONCRMDEALUPDATE.mjs'), 'export default () => {}')
    await cli('reload')
    const { stdout } = await cli('replay', '--object', 'deal:1', '--dry-run', '--json')
    expect(jsonLines(stdout)).toMatchObject([{ events: 1, deliveries: 1 }])
  })

  test('that was cut off goes on where it was, and no record is journalled twice', async () => {
    const { portal, receiver, cli } = await start()
    addDeals(portal, 200)
    portal.behaviour.failing.set('crm.item.list', ['ok', 'ok', 'INTERNAL_SERVER_ERROR'])
    const cut = await cli('backfill', 'deal', '--all')
    expect(cut.code).toBe(1)
    expect(cut.stderr).toContain('b24-receiver backfill --resume')
    expect(await receiver.journal()).toHaveLength(100)
    const before = portal.called().length
    expect(await cli('backfill', '--resume')).toMatchObject({ code: 0, stdout: '100 records, 100 events journalled\n' })
    expect(portal.called().length - before).toBe(3)
    const objects = (await receiver.journal()).map(({ object }) => object)
    expect(new Set(objects).size).toBe(200)
    expect(objects).toHaveLength(200)
    expect(await cli('backfill', '--resume')).toMatchObject({ code: 1 })
  })

  test('is not resumed at another portal, of whose records it would pass the first over', async () => {
    const { portal, cli, env } = await start()
    addDeals(portal, 60)
    portal.behaviour.failing.set('crm.item.list', ['ok', 'INTERNAL_SERVER_ERROR'])
    expect((await cli('backfill', 'deal', '--all')).code).toBe(1)
    const other = await startPortal({ address: '127.0.0.2' })
    const { code, stderr } = await runCli(
      { env: { ...env, B24_HOOK: other.incomingWebhook() } },
      'backfill',
      '--resume',
    )
    expect([code, stderr]).toEqual([
      1,
      `b24-receiver backfill: that backfill was of ${portal.host}, not of ${other.host}: choose its incoming webhook in B24_HOOK\n`,
    ])
    expect(await cli('backfill', '--resume')).toMatchObject({ code: 0, stdout: '10 records, 10 events journalled\n' })
  })

  test.each([
    ['nothing named', [], 'name what to backfill'],
    ['no time', ['deal'], 'add --since TIME, or --all'],
    ['both', ['deal', '--all', '--since', '1h'], 'add --since TIME, or --all'],
    ['what there is not', ['deals', '--all'], '"deals" cannot be backfilled'],
    ['a time too long ago', ['deal', '--since', '999999999d'], '--since takes how long ago'],
    ['--resume and what to backfill', ['lead', '--resume'], '--resume takes nothing beside it but --dry-run'],
  ])('with %s is refused as a wrong use', async (_, args, message) => {
    const { cli } = await start()
    const { code, stderr } = await cli('backfill', ...args)
    expect([code, stderr.includes(message)]).toEqual([64, true])
  })
})

describe('BACKFILL_ON_START', () => {
  test('journals what was missed between the last event before the stop and the start', async () => {
    const { portal, receiver, seen, env } = await start()
    portal.subscribe({ url: receiver.url, token: TOKEN })
    addDeals(portal, 2)
    await portal.eventsAnswered()
    await until('both were handled', () => seen().length === 2)
    await receiver.stop()
    await until('a second is over', () => Date.now() - (portal.records.get(DEAL, 2)?.updatedTime ?? 0) > 1100)
    portal.edit(DEAL, 1, { title: 'missed' })
    addDeals(portal, 1, 50)
    // The next one has the same port.
    await portal.eventsAnswered()
    const again = await startReceiver({
      dataDir: receiver.dataDir,
      env: { ...env, HANDLERS_DIR: receiver.handlersDir, BACKFILL_ON_START: 'deal' },
    })
    await until('handlers got them', () => seen().length === 4)
    expect(seen().slice(2).sort()).toEqual(['ONCRMDEALADD deal:50 backfill', 'ONCRMDEALUPDATE deal:1 backfill'])
    await until('told', () => again.logged('backfilled: what was missed is journalled').length === 1)
    // A reload is no start.
    again.child.kill('SIGHUP')
    await until('reloaded', () => again.logged('handlers were loaded again').length === 1)
    expect(again.logged('backfilled: what was missed is journalled')).toHaveLength(1)
  })

  test('is done though the incoming webhook is down at first and the dispatcher is killed meanwhile', async () => {
    const { portal, receiver, seen, env } = await start()
    portal.subscribe({ url: receiver.url, token: TOKEN })
    addDeals(portal, 1)
    await portal.eventsAnswered()
    await until('it was handled', () => seen().length === 1)
    await receiver.stop()
    addDeals(portal, 120, 100)
    await portal.eventsAnswered()
    await portal.unplug()
    const again = await startReceiver({
      dataDir: receiver.dataDir,
      env: { ...env, HANDLERS_DIR: receiver.handlersDir, BACKFILL_ON_START: 'deal' },
    })
    await until(
      'it did not get through',
      () => again.logged('a backfill did not get through, will be tried again').length,
    )
    await portal.plugIn()
    process.kill(await dispatcherOf(again), 'SIGKILL')
    await until('handlers got them', () => seen().length >= 121)
    expect(new Set(seen()).size).toBe(121)
    await until('told', () => again.logged('backfilled: what was missed is journalled').length === 1)
    expect(await again.journal()).toHaveLength(121)
  })

  test('is not forgotten by a start that was ended before it got through, though events came meanwhile', async () => {
    let behind = 0
    const portal = await startPortal({ limit: plenty, now: () => Date.now() - behind })
    const { receiver, seen, env } = await start({ portal })
    const told = Date.now()
    await receiver.post(dealBody(1))
    await until('it was handled', () => seen().length === 1)
    await receiver.stop()
    await until('a second is over', () => Date.now() - told > 1100)
    // Later than the last event, less what is allowed for clocks that differ; but not later than the next.
    behind = 60_000
    addDeals(portal, 1, 50)
    await portal.unplug()
    const backfilling = { ...env, HANDLERS_DIR: receiver.handlersDir, BACKFILL_ON_START: 'deal' }
    const second = await startReceiver({ dataDir: receiver.dataDir, env: backfilling })
    await until('no luck', () => second.logged('a backfill did not get through, will be tried again').length)
    await second.post(dealBody(2))
    await until('it was handled', () => seen().length === 2)
    await second.stop()
    await portal.plugIn()
    const third = await startReceiver({ dataDir: receiver.dataDir, env: backfilling })
    await until('told', () => third.logged('backfilled: what was missed is journalled').length === 1)
    await until('the handler got it', () => seen().length === 3)
    expect(seen().at(-1)).toMatch(/deal:50 backfill$/)
    await until('no backfill is owed', () => !existsSync(join(receiver.dataDir, 'backfill-since')))
  })

  test('of two incoming webhooks of one portal journals no record twice', async () => {
    const { portal, receiver, seen, env } = await start()
    await receiver.post(dealBody(1))
    await until('it was handled', () => seen().length === 1)
    await receiver.stop()
    addDeals(portal, 60, 100)
    const incomingWebhooks = `sales=${portal.incomingWebhook()},support=${portal.incomingWebhook()}`
    const again = await startReceiver({
      dataDir: receiver.dataDir,
      env: { ...env, HANDLERS_DIR: receiver.handlersDir, B24_HOOK: incomingWebhooks, BACKFILL_ON_START: 'deal' },
    })
    await until('both told', () => again.logged('backfilled: what was missed is journalled').length === 2)
    await until('handlers got them', () => seen().length >= 61)
    expect(await again.journal()).toHaveLength(61)
  })

  test('on a first start calls no portal', async () => {
    const portal = await startPortal({ limit: plenty })
    addDeals(portal, 1)
    await start({ portal, env: { BACKFILL_ON_START: 'deal' } })
    expect(portal.called()).toEqual([])
  })
})

/** With ROUNDS the 10,000 of the promise. */
const many = process.env['ROUNDS'] ? 10_000 : 1_000

test('records are backfilled a page at a time, within the limits of the portal', async () => {
  const { portal, receiver, env } = await start({ portal: await startPortal({ limit: { rate: 100, burst: 50 } }) })
  addDeals(portal, many)
  const limits = { B24_RATE: '100', B24_BURST: '50' }
  const { code, stdout } = await runCli({ env: { ...env, ...limits } }, 'backfill', 'deal', '--all', '--json')
  expect([code, jsonLines(stdout)]).toEqual([0, [{ records: many, events: many }]])
  expect(portal.requests.filter(({ status }) => status !== 200)).toEqual([])
  expect(portal.called().filter((method) => method === 'crm.item.list')).toHaveLength(many / 50 + 1)
  expect(await receiver.journal()).toHaveLength(many)
})
