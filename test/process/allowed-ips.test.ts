import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { timesOption } from '../../src/lib/times.ts'
import { nodes, russia, startPublisher, world } from '../support/published.ts'
import { dealBody, spawnReceiver, startReceiver, until } from '../support/receiver.ts'

const preload = fileURLToPath(new URL('../support/preload/published-lists.ts', import.meta.url))
const quickLists = [timesOption({ lists: { times: { refresh: 100, again: 100 } } })]
const auto = (origin: string, more: Record<string, string> = {}) => ({
  B24_ALLOWED_IPS: 'auto',
  NODE_OPTIONS: `--import=${preload}`,
  PUBLISHED_LISTS: origin,
  ...more,
})
const statusOf = async (answer: Promise<{ status: number }>) => (await answer).status
const from = (address: string) => ({ 'x-forwarded-for': address })

describe('B24_ALLOWED_IPS=auto', () => {
  test('takes posts from the published addresses only, follows the lists, and outlives them', async () => {
    const publisher = await startPublisher({ [world]: nodes('127.0.0.1'), [russia]: '["195.208.184.200"]' })
    const receiver = await startReceiver({ args: quickLists, env: auto(publisher.origin) })
    expect(await statusOf(receiver.post(dealBody(1)))).toBe(200)

    publisher.answer(world, nodes('203.0.113.7'))
    const changes = () => receiver.logged('the allowed addresses changed')
    await until('the list changed', () => changes().at(-1)?.['removed'] === 1)
    expect(changes().at(-1)).toMatchObject({ level: 30, added: 1, removed: 1, addresses: 2 })
    expect(await statusOf(receiver.post(dealBody(2)))).toBe(403)
    await until('the refusal is told', () => receiver.logged('refused').length === 1)
    expect(receiver.logged('refused')).toMatchObject([{ code: 'source_not_allowed', remote: '127.0.0.1' }])
    expect((await receiver.journal()).map(({ object }) => object)).toEqual(['deal:1'])

    // Neither list is to be had from here on.
    for (const list of [world, russia]) publisher.answer(list, undefined)
    await until('told', () => receiver.logged('a list of allowed addresses cannot be had').length === 2)
    const copy = () => readFileSync(join(receiver.dataDir, 'allowed-ips.json'), 'utf8')
    await expect.poll(copy).toContain('"203.0.113.7"')
    expect(await receiver.stop()).toEqual({ code: 0, signal: null })

    const env = auto(publisher.origin, { TRUST_PROXY: '127.0.0.1' })
    const next = await startReceiver({ dataDir: receiver.dataDir, args: quickLists, env })
    const statuses = ['203.0.113.7', '195.208.184.200', '198.51.100.1'].map((address) =>
      statusOf(next.post(dealBody(3), from(address))),
    )
    expect(await Promise.all(statuses)).toEqual([200, 200, 403])
    expect(await statusOf(next.post(dealBody(4)))).toBe(403)
    expect(await next.stop()).toEqual({ code: 0, signal: null })
  })

  test('answers posts, and stops, while a list that was there before hangs', async () => {
    const publisher = await startPublisher({ [world]: nodes('127.0.0.1'), [russia]: '["195.208.184.200"]' })
    const receiver = await startReceiver({ args: quickLists, env: auto(publisher.origin) })
    for (const list of [world, russia]) publisher.answer(list, null)
    const asked = publisher.asked(world)
    await until('asked', () => publisher.asked(world) > asked)
    expect(await statusOf(receiver.post(dealBody(1)))).toBe(200)
    expect(await receiver.stop()).toEqual({ code: 0, signal: null })
  })

  test('does not start when no list was ever had, and says what to do', async () => {
    const publisher = await startPublisher()
    const receiver = await spawnReceiver({ env: auto(publisher.origin) })
    expect(await receiver.exited).toEqual({ code: 1, signal: null })
    expect(receiver.output()).toContain(
      `B24_ALLOWED_IPS=auto, but no list of Bitrix24's addresses can be had, and DATA_DIR has no copy of an earlier one:
  https://dl.bitrix24.com/webhook/app-world.json  it answered with status 500
  https://repos.1c-bitrix.ru/webhook/app.json  it answered with status 500
Let this machine reach one of them, or set B24_ALLOWED_IPS to addresses, or unset it to take posts from anywhere
`,
    )
    expect(receiver.output()).not.toContain('ready for events')
  })
})

test('B24_ALLOWED_IPS with addresses takes posts from them only, reads no list and keeps nothing', async () => {
  const publisher = await startPublisher()
  const env = { ...auto(publisher.origin), B24_ALLOWED_IPS: '203.0.113.0/24,2001:db8::7', TRUST_PROXY: '127.0.0.1' }
  const receiver = await startReceiver({ env })
  const statuses = ['203.0.113.7', '::ffff:203.0.113.8', '2001:db8::7', '198.51.100.1'].map((address) =>
    statusOf(receiver.post(dealBody(1), from(address))),
  )
  expect(await Promise.all(statuses)).toEqual([200, 200, 200, 403])
  expect((await fetch(receiver.url)).status).toBe(405)
  const [ready] = receiver.logged(`ready for events: POST /bitrix24 on 127.0.0.1:${receiver.port}`)
  expect(ready).toMatchObject({ allowedIps: ['203.0.113.0/24', '2001:db8::7'] })
  expect(existsSync(join(receiver.dataDir, 'allowed-ips.json'))).toBe(false)
  expect([publisher.asked(world), publisher.asked(russia)]).toEqual([0, 0])
})

test('a listener for IPv4 and IPv6 knows an IPv4 address of the list', async () => {
  const receiver = await startReceiver({ env: { HOST: '::ffff:127.0.0.1', B24_ALLOWED_IPS: '127.0.0.1' } })
  expect(await statusOf(receiver.post(dealBody(1)))).toBe(200)
  expect(await receiver.journal()).toMatchObject([{ remote: '::ffff:127.0.0.1' }])
})

test('without B24_ALLOWED_IPS posts are taken from anyone, and no list is asked for', async () => {
  const publisher = await startPublisher({ [world]: nodes('203.0.113.7'), [russia]: '["195.208.184.200"]' })
  const receiver = await startReceiver({ env: auto(publisher.origin, { B24_ALLOWED_IPS: '' }) })
  expect(await statusOf(receiver.post(dealBody(1)))).toBe(200)
  expect([publisher.asked(world), publisher.asked(russia)]).toEqual([0, 0])
})
