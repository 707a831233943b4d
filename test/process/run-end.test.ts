import { describe, expect, test } from 'vitest'
import { startAlertTarget } from '../support/alert-target.ts'
import { jsonLines, runCli } from '../support/cli.ts'
import { deals, dispatcherOf, linesOf, scripted } from '../support/dispatcher.ts'
import { startPortal } from '../support/portal.ts'
import { dealBody, type ReceiverOptions, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

const DEAL = 2

async function start(body: string, options: ReceiverOptions = {}) {
  const folder = temporaryFolder('talk')
  const receiver = await startReceiver({
    ...options,
    handlers: { [deals]: scripted(folder, body), 'other.mjs': other(folder) },
  })
  const pid = await dispatcherOf(receiver)
  return {
    receiver,
    ran: (name: string) => linesOf(folder, name),
    /** What it is charged with, the process of the handlers being the same. */
    charge: async () => {
      const line = await until(
        () => `it is charged\n${receiver.output()}`,
        () => receiver.logged('failed, will be tried again')[0],
      )
      expect(await dispatcherOf(receiver)).toBe(pid)
      return line
    },
    pid,
  }
}

const other = (folder: string) =>
  scripted(folder, `mark('other', event.object)`)
    .replace('export default', 'const handle =')
    .concat(
      `\nimport { defineHandler } from 'bitrix24-webhook-receiver'\nexport default defineHandler('ONCRMDEAL*', handle)\n`,
    )

describe('a failure that the handler does not await is charged to its run, and ends no process:', () => {
  test.each([
    ['a rejection', `void Promise.reject(new Error('of its own')); await sleep(60_000)`],
    ['a rejection as it returns', `void Promise.reject(new Error('of its own'))`],
    ['a later rejection', `void sleep(10).then(() => { throw new Error('of its own') }); await sleep(60_000)`],
    ['a throw from a timer', `setTimeout(() => { throw new Error('of its own') }); await sleep(60_000)`],
    [
      'a throw from a stream',
      `const { Readable } = await import('node:stream'); new Readable({ read() { this.destroy(new Error('of its own')) } }).resume(); await sleep(60_000)`,
    ],
  ])('%s', async (_, crime) => {
    const { receiver, ran, charge } = await start(`if (attempt === 1) { ${crime}; return } mark('ran', event.object)`)
    await receiver.post(dealBody(1))
    expect(await charge()).toMatchObject({
      ...{ handler: 'ONCRMDEALUPDATE', object: 'deal:1', attempt: 1 },
      err: { message: 'of its own' },
    })
    await until('it ran again', () => ran('ran').length === 1)
    await expect.poll(() => ran('other')).toEqual(['deal:1'])
  })

  test('process.exit(), with the line of the handler', async () => {
    const { receiver, ran, charge } = await start(`if (attempt === 1) process.exit(3); mark('ran', event.object)`)
    await receiver.post(dealBody(1))
    const { err } = (await charge()) as { err: { message: string; stack: string } }
    expect(err.message).toMatch(/^process\.exit\(3\) in a handler/)
    expect(err.stack).toContain('ONCRMDEALUPDATE.mjs:')
    await until('it ran again', () => ran('ran').length === 1)
  })
})

test('what fails after its run had ended is named in the log, by show and in an alert, and ends no process', async () => {
  const target = await startAlertTarget()
  const { receiver, pid } = await start(`setTimeout(() => { throw new Error('too late') }, 200)`, {
    env: { ALERT_URL: target.url },
  })
  await receiver.post(dealBody(1))
  const line = await until('it is told', () => receiver.logged('failed after its run had ended')[0])
  expect(line).toMatchObject({ handler: 'ONCRMDEALUPDATE', object: 'deal:1', err: { message: 'too late' } })
  expect(await target.got('late_failure')).toMatchObject({
    details: { handler: 'ONCRMDEALUPDATE', object: 'deal:1', reason: 'Error: too late' },
  })
  expect(await dispatcherOf(receiver)).toBe(pid)
  const id = String((await receiver.journal())[0]?.id)
  await until('show names it', async () => {
    const { stdout } = await runCli({ env: { DATA_DIR: receiver.dataDir } }, 'show', id, '--json')
    return JSON.stringify(jsonLines(stdout)).includes('after its end: Error: too late')
  })
})

describe('a handler that returns while its calls are under way', () => {
  async function startWithPortal(body: string) {
    const portal = await startPortal({ limit: { rate: 1000, burst: 1000 } })
    portal.records.add(DEAL, { title: 'Garden shed' }, 7, 5)
    const started = await start(body, {
      env: { ...portal.env, B24_HOOK: portal.incomingWebhook(), B24_RATE: '1', B24_BURST: '1' },
    })
    return { portal, ...started, post: () => started.receiver.post(dealBody(5, { domain: portal.host })) }
  }

  test('is handled when they are answered', async () => {
    const { portal, receiver, post } = await startWithPortal(
      `for (const title of ['one', 'two']) void context.bitrix24.call('crm.item.update', { entityTypeId: 2, id: 5, fields: { title } })`,
    )
    await post()
    await until('it is handled', () => receiver.logged('handled').some(({ handler }) => handler === 'ONCRMDEALUPDATE'))
    expect(portal.called()).toEqual(['crm.item.update', 'crm.item.update'])
    expect(portal.records.get(DEAL, 5)?.fields).toMatchObject({ title: 'two' })
  })

  test('is charged with one that fails and that no one awaits', async () => {
    const { receiver, post, charge } = await startWithPortal(
      `void context.bitrix24.call('crm.item.get', { entityTypeId: 2, id: attempt === 1 ? 99 : 5 })`,
    )
    await post()
    expect(await charge()).toMatchObject({ handler: 'ONCRMDEALUPDATE', object: 'deal:5', attempt: 1 })
    await until('it is handled', () => receiver.logged('handled').some(({ attempt }) => attempt === 2))
  })
})

test('a handler that blocks its process is charged with that, by name', async () => {
  const { receiver } = await start(`if (attempt === 1) for (;;); mark('ran')`, { env: { HANDLER_STALL: '2s' } })
  await receiver.post(dealBody(1))
  const line = await until('it is charged', () => receiver.logged('failed, will be tried again')[0])
  expect(line).toMatchObject({
    ...{ handler: 'ONCRMDEALUPDATE', object: 'deal:1' },
    err: { message: 'the dispatcher died while this ran: its event loop was blocked for longer than HANDLER_STALL' },
  })
})
