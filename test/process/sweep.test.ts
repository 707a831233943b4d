import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { envOf, jsonLines, runCli } from '../support/cli.ts'
import { dispatcherOf } from '../support/dispatcher.ts'
import { type Portal, startPortal } from '../support/portal.ts'
import { type ReceiverOptions, startReceiver, TOKEN, temporaryFolder, until } from '../support/receiver.ts'

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
  const rest = { ...portal.env, B24_HOOK: portal.hook(), B24_RATE: '1000', B24_BURST: '1000' }
  const receiver = await startReceiver({
    ...options,
    handlers: { 'audit.mjs': audit(seen) },
    env: { ...rest, ...options.env },
  })
  const env: Record<string, string> = { ...envOf(receiver), ...rest }
  return {
    portal,
    receiver,
    env,
    cli: (...args: string[]) => runCli({ env }, ...args),
    seen: () => (existsSync(seen) ? readFileSync(seen, 'utf8').trimEnd().split('\n') : []),
  }
}

/** Deals that nobody told of. */
function addDeals({ records }: Portal, count: number, from = 1) {
  for (let id = from; id < from + count; id++) records.add(DEAL, { title: `Deal ${id}` }, 7, id)
}

describe('sweep', () => {
  test('journals what was changed and made while nobody answered, and only that; handlers get it', async () => {
    const { portal, receiver, cli, seen } = await start()
    addDeals(portal, 3)
    portal.subscribe({ url: receiver.url, token: TOKEN })
    portal.edit(DEAL, 1, { title: 'told' })
    await portal.eventsSettled()
    await until('it was handled', () => seen().length === 1)

    // Whole seconds are all that Bitrix24 tells.
    await until('a second is over', () => Date.now() - (portal.records.get(DEAL, 1)?.updatedTime ?? 0) > 1100)
    await receiver.stop()
    portal.edit(DEAL, 1, { title: 'missed' })
    addDeals(portal, 1, 77)
    await portal.eventsSettled()
    const again = await startReceiver({
      dataDir: receiver.dataDir,
      env: { PORT: String(receiver.port), ADMIN_PORT: String(receiver.adminPort), HANDLERS_DIR: receiver.handlersDir },
    })

    const dry = await cli('sweep', 'deal', '--since', '1h', '--dry-run')
    expect(dry).toMatchObject({ code: 0, stdout: '4 records, 4 events to journal\n' })
    expect(await again.journal()).toHaveLength(1)
    const { code, stdout, stderr } = await cli('sweep', 'deal', '--since', '1h')
    expect([code, stdout, stderr]).toEqual([0, '4 records, 4 events journalled\n', ''])
    await until('handlers got them', () => seen().length === 5)
    expect(seen().slice(1).sort()).toEqual([
      'ONCRMDEALADD deal:2 sweep',
      'ONCRMDEALADD deal:3 sweep',
      'ONCRMDEALADD deal:77 sweep',
      'ONCRMDEALUPDATE deal:1 sweep',
    ])
    const [first, swept] = await again.journal()
    expect(swept).toMatchObject({ source: 'sweep', remote: portal.host, auth: first?.auth })
    expect((await cli('sweep', 'deal', '--since', '1h', '--json')).stdout).toBe('{"records":4,"events":0}\n')
  })

  test('takes several kinds, also where the receiver is stopped', async () => {
    const { portal, receiver, env, cli, seen } = await start()
    await receiver.stop()
    portal.records.add(LEAD, { title: 'Lead' }, 7, 5)
    portal.records.add(1032, { title: 'Thing' }, 7, 9)
    portal.records.add('task', { title: 'Task' }, 7, 17)
    const { stdout, stderr } = await cli('sweep', 'lead,item:1032,task', '--since', '1d')
    expect(stdout).toBe('3 records, 3 events journalled\n')
    expect(stderr).toContain(`the journal has no event of ${portal.host} yet`)
    await startReceiver({ dataDir: receiver.dataDir, env: { HANDLERS_DIR: env['HANDLERS_DIR'] ?? '' } })
    await until('handlers got them', () => seen().length === 3)
    expect(seen().sort()).toEqual([
      'ONCRMDYNAMICITEMADD item:1032:9 sweep',
      'ONCRMLEADADD lead:5 sweep',
      'ONTASKADD task:17 sweep',
    ])
  })

  test('--all is the first fill of a mirror: every record, each as an update', async () => {
    const { portal, cli, seen } = await start()
    addDeals(portal, 120)
    expect(await cli('sweep', 'deal', '--all')).toMatchObject({ stdout: '120 records, 120 events journalled\n' })
    await until('handlers got them', () => seen().length === 120)
    expect(new Set(seen()).size).toBe(120)
    expect(seen().every((line) => line.startsWith('ONCRMDEALUPDATE '))).toBe(true)
  })

  test('that was cut off goes on where it was, and no record is told twice', async () => {
    const { portal, receiver, cli } = await start()
    addDeals(portal, 200)
    portal.behaviour.failing.set('crm.item.list', ['ok', 'ok', 'INTERNAL_SERVER_ERROR'])
    const cut = await cli('sweep', 'deal', '--all')
    expect(cut.code).toBe(1)
    expect(cut.stderr).toContain('b24-receiver sweep --resume')
    expect(await receiver.journal()).toHaveLength(100)
    const before = portal.called().length
    expect(await cli('sweep', '--resume')).toMatchObject({ code: 0, stdout: '100 records, 100 events journalled\n' })
    expect(portal.called().length - before).toBe(3)
    const objects = (await receiver.journal()).map(({ object }) => object)
    expect(new Set(objects).size).toBe(200)
    expect(objects).toHaveLength(200)
    expect(await cli('sweep', '--resume')).toMatchObject({ code: 1 })
  })

  test.each([
    ['nothing named', [], 'name what to sweep'],
    ['no time', ['deal'], 'add --since TIME, or --all'],
    ['both', ['deal', '--all', '--since', '1h'], 'add --since TIME, or --all'],
    ['what there is not', ['deals', '--all'], '"deals" cannot be swept'],
  ])('with %s is refused as wrong words', async (_, args, message) => {
    const { cli } = await start()
    const { code, stderr } = await cli('sweep', ...args)
    expect([code, stderr.includes(message)]).toEqual([64, true])
  })
})

describe('SWEEP_ON_START', () => {
  test('journals what was missed between the last event before the stop and the start', async () => {
    const { portal, receiver, seen, env } = await start()
    portal.subscribe({ url: receiver.url, token: TOKEN })
    addDeals(portal, 2)
    await portal.eventsSettled()
    await until('both were handled', () => seen().length === 2)
    await receiver.stop()
    await until('a second is over', () => Date.now() - (portal.records.get(DEAL, 2)?.updatedTime ?? 0) > 1100)
    portal.edit(DEAL, 1, { title: 'missed' })
    addDeals(portal, 1, 50)
    const again = await startReceiver({
      dataDir: receiver.dataDir,
      env: { ...env, HANDLERS_DIR: receiver.handlersDir, SWEEP_ON_START: 'deal' },
    })
    await until('handlers got them', () => seen().length === 4)
    expect(seen().slice(2).sort()).toEqual(['ONCRMDEALADD deal:50 sweep', 'ONCRMDEALUPDATE deal:1 sweep'])
    await until('told', () => again.logged('swept: what was missed is journalled').length === 1)
    // A reload is no start.
    again.child.kill('SIGHUP')
    await until('reloaded', () => again.logged('handlers were loaded anew').length === 1)
    expect(again.logged('swept: what was missed is journalled')).toHaveLength(1)
  })

  test('is done all the same when the hook is down at first, and when the dispatcher is killed meanwhile', async () => {
    const { portal, receiver, seen, env } = await start()
    portal.subscribe({ url: receiver.url, token: TOKEN })
    addDeals(portal, 1)
    await portal.eventsSettled()
    await until('it was handled', () => seen().length === 1)
    await receiver.stop()
    addDeals(portal, 120, 100)
    await portal.unplug()
    const again = await startReceiver({
      dataDir: receiver.dataDir,
      env: { ...env, HANDLERS_DIR: receiver.handlersDir, SWEEP_ON_START: 'deal' },
    })
    await until('it did not get through', () => again.logged('a sweep did not get through, will be tried again').length)
    await portal.plugIn()
    process.kill(await dispatcherOf(again), 'SIGKILL')
    await until('handlers got them', () => seen().length >= 121, 60_000)
    expect(new Set(seen()).size).toBe(121)
    await until('told', () => again.logged('swept: what was missed is journalled').length === 1)
    expect(await again.journal()).toHaveLength(121)
  })

  test('on a first start asks nobody', async () => {
    const { portal, receiver } = await start({ env: { SWEEP_ON_START: 'deal' } })
    addDeals(portal, 1)
    await until('it follows', async () => JSON.stringify(await receiver.readyz()).includes('"ready"'))
    expect(portal.called()).toEqual([])
  })
})

test('10,000 records are swept with one page of them in memory, and within the limits of the portal', async () => {
  const { portal, receiver, env } = await start({ portal: await startPortal({ limit: { rate: 100, burst: 50 } }) })
  addDeals(portal, 10_000)
  const limits = { B24_RATE: '100', B24_BURST: '50' }
  const { code, stdout } = await runCli({ env: { ...env, ...limits } }, 'sweep', 'deal', '--all', '--json')
  expect([code, jsonLines(stdout)]).toEqual([0, [{ records: 10_000, events: 10_000 }]])
  expect(portal.requests.filter(({ status }) => status !== 200)).toEqual([])
  expect(portal.called().filter((method) => method === 'crm.item.list')).toHaveLength(201)
  expect(await receiver.journal()).toHaveLength(10_000)
})
