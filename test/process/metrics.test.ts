import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { expect, test } from 'vitest'
import { refusals } from '../../src/intake/refusal.ts'
import type { QueueState } from '../../src/queue/queue.ts'
import { webhookBody } from '../../src/simulator/webhook-body.ts'
import { deals, dispatcherOf, linesOf, scripted } from '../support/dispatcher.ts'
import { type Metric, readValue } from '../support/exposition.ts'
import { startPortal } from '../support/portal.ts'
import {
  dealBody,
  quickProbes,
  type Receiver,
  startReceiver,
  TOKEN,
  temporaryFolder,
  until,
} from '../support/receiver.ts'

const portal = { domain: 'example.bitrix24.com', memberId: 'a223c6b3710f85df22e9377d6c4f7553', token: TOKEN }
const seconds = () => Math.floor(Date.now() / 1000)

const everything = `import { defineHandler } from 'bitrix24-webhook-receiver'
export default defineHandler('*', () => {})`

/** Our own series, as texts. */
function seriesOf(metrics: ReadonlyMap<string, Metric>): string[] {
  const samples = [...metrics.values()].flatMap((metric) => metric.samples)
  return samples.flatMap(({ name, labels }) => (name.startsWith('b24_') ? `${name} ${JSON.stringify(labels)}` : []))
}

/** Resolves when a scrape says this. */
function says(receiver: Receiver, name: string, labels: Record<string, string>, value: number | undefined) {
  return until(`${name} ${JSON.stringify(labels)} is ${value}`, async () => {
    const metrics = await receiver.metrics()
    return readValue(metrics, name, labels) === value ? metrics : undefined
  })
}

test('a scrape says what came, what was refused, and what it cost', async () => {
  const receiver = await startReceiver({ env: { B24_APPLICATION_TOKEN: `sales=${TOKEN},${TOKEN}2` } })
  const send = (event: string, parts: Partial<Parameters<typeof webhookBody>[0]> = {}) =>
    receiver.post(webhookBody({ event, ts: seconds(), portal, ...parts }))
  await send('ONCRMDEALUPDATE', { ts: seconds() - 100 })
  await send('oncrmdealupdate', { ts: seconds() + 100 })
  await send('ONCRMDEALUPDATE', { portal: { ...portal, token: `${TOKEN}2` } })
  await send('ONCRMDYNAMICITEMUPDATE_147', { data: { FIELDS: { NO: 'id' } } })
  await send('ONCRMDYNAMICITEMUPDATE_1032')
  for (const ts of [0, 17, -1e9, 1e12]) await send('ONTHATNOBODYDOCUMENTED', { ts })
  await send('ONCRMDEALUPDATE', { portal: { ...portal, token: 'wrong' } })
  await fetch(receiver.url)

  const metrics = await receiver.metrics()
  const counted = (event: string, webhook: string) => readValue(metrics, 'b24_events_total', { event, webhook })
  expect(counted('ONCRMDEALUPDATE', 'sales')).toBe(2)
  expect(counted('ONCRMDEALUPDATE', '')).toBe(1)
  expect(counted('ONCRMDYNAMICITEMUPDATE', 'sales')).toBe(2)
  expect(counted('other', 'sales')).toBe(4)
  const shapes = metrics.get('b24_schema_mismatches_total')?.samples ?? []
  expect(shapes.filter(({ value }) => value > 0)).toHaveLength(1)
  expect(readValue(metrics, 'b24_schema_mismatches_total', { event: 'ONCRMDYNAMICITEMUPDATE' })).toBe(1)
  const refused = metrics.get('b24_requests_rejected_total')?.samples ?? []
  expect(refused.filter(({ value }) => value > 0)).toMatchObject([
    { labels: { code: 'invalid_application_token' }, value: 1 },
    { labels: { code: 'method_not_allowed' }, value: 1 },
  ])
  expect(readValue(metrics, 'b24_request_duration_seconds_count')).toBe(9)
  expect(readValue(metrics, 'b24_journal_batch_size_sum')).toBe(9)
  expect(readValue(metrics, 'b24_journal_fsync_seconds_count')).toBe(readValue(metrics, 'b24_journal_batch_size_count'))
  expect(readValue(metrics, 'b24_journal_writable')).toBe(1)
  // A clock that is ahead is no lag, and what is no time is none either.
  expect(readValue(metrics, 'b24_event_lag_seconds_count')).toBe(5)
  expect(readValue(metrics, 'b24_event_lag_seconds_bucket', { le: '60' })).toBe(4)
  expect(readValue(metrics, 'b24_event_lag_seconds_bucket', { le: '300' })).toBe(5)
  const last = (await receiver.journal()).at(-1)
  const journalled = Date.parse(Reflect.get(last ?? {}, 'time')) / 1000
  expect(readValue(metrics, 'b24_last_event_timestamp_seconds')).toBeGreaterThanOrEqual(journalled)
  expect(readValue(metrics, 'process_start_time_seconds', { component: 'receiver' })).toBeGreaterThan(0)
})

test('every series of a counter is there, at 0, before the first event', async () => {
  const receiver = await startReceiver({
    env: { B24_APPLICATION_TOKEN: `sales=${TOKEN},${TOKEN}2` },
    handlers: { [deals]: 'export default () => {}' },
  })
  const metrics = await says(receiver, 'b24_dispatcher_up', {}, 1)
  const runs = { handler: 'ONCRMDEALUPDATE' }
  const known: readonly [string, Record<string, string>][] = [
    ...['sales', ''].flatMap((webhook) =>
      ['ONCRMDEALUPDATE', 'ONCRMDYNAMICITEMUPDATE', 'other'].map((event): [string, Record<string, string>] => [
        'b24_events_total',
        { event, webhook },
      ]),
    ),
    ['b24_schema_mismatches_total', { event: 'ONCRMDEALUPDATE' }],
    ...Object.keys(refusals).map((code): [string, Record<string, string>] => ['b24_requests_rejected_total', { code }]),
    ['b24_dispatcher_exits_total', {}],
    ['b24_handler_run_seconds_count', { ...runs, outcome: 'handled' }],
    ['b24_handler_run_seconds_count', { ...runs, outcome: 'dead' }],
  ]
  for (const [name, labels] of known) expect(readValue(metrics, name, labels), JSON.stringify(labels)).toBe(0)
  const before = seriesOf(metrics)
  await receiver.post(dealBody(1))
  // The time of the last event is a gauge, and absent when none ever was.
  const after = await says(receiver, 'b24_handler_run_seconds_count', { ...runs, outcome: 'handled' }, 1)
  const isNew = (series: string) => !before.includes(series) && !series.startsWith('b24_deliveries')
  expect(seriesOf(after).filter(isNew)).toEqual(['b24_last_event_timestamp_seconds {}'])
})

test('the age of the oldest delivery is absent while it is not known', async () => {
  const receiver = await startReceiver({ handlers: { [deals]: 'export default 1' } })
  const age = async () => (await receiver.metrics()).get('b24_oldest_delivery_age_seconds')?.samples
  await until('one dispatcher has ended', async () => {
    const ends = readValue(await receiver.metrics(), 'b24_dispatcher_exits_total')
    return ends !== undefined && ends > 0
  })
  expect(await age()).toEqual([])
  writeFileSync(join(receiver.handlersDir, deals), 'export default () => {}')
  await says(receiver, 'b24_oldest_delivery_age_seconds', {}, 0)
  // That none was pending is of the past once no dispatcher is there to say so of the next event.
  writeFileSync(join(receiver.handlersDir, deals), 'export default 1')
  process.kill(await dispatcherOf(receiver), 'SIGKILL')
  await until('it is absent', async () => (await age())?.length === 0)
})

test('the number of series is not for strangers to choose, nor for those who hold a token', async () => {
  const receiver = await startReceiver({ handlers: { 'all.mjs': everything } })
  const hostile = ['__proto__', 'constructor', 'a"} 1\n# TYPE b24 x', '\u2028', 'x'.repeat(5_000), 'other', 'OTHER']
  const bodyOf = (event: string, token = TOKEN) => webhookBody({ event, data: {}, ts: 1, portal: { ...portal, token } })
  await says(receiver, 'b24_deliveries', { state: 'dead' }, 0)
  const attack = async (round: number) => {
    const names = Array.from({ length: 100 }, (_, index) => `ONCRMDYNAMICITEMADD_${round}${index}`)
    const events = [...names, ...names.map((name) => `X${name}`), ...hostile.map((name) => `${name}${round || ''}`)]
    for (const event of events) expect((await receiver.post(bodyOf(event))).status).toBe(200)
    for (const event of hostile) expect((await receiver.post(bodyOf(event, `${event}${round}`))).status).toBe(403)
    for (const name of names) expect((await fetch(`${receiver.origin}/${name}?${name}`)).status).toBe(404)
    const handled = events.length * (round + 1)
    return seriesOf(await says(receiver, 'b24_handler_run_seconds_count', { outcome: 'handled' }, handled))
  }
  const once = await attack(0)
  expect(await attack(1)).toEqual(once)
  const events = once.filter((series) => series.startsWith('b24_events_total'))
  for (const event of ['ONCRMDYNAMICITEMADD', 'other'])
    expect(events).toContain(`b24_events_total {"event":"${event}","webhook":""}`)
})

test('a scrape and /readyz say what is pending, what was given up, and what became of the runs', async () => {
  const receiver = await startReceiver({
    handlers: {
      [deals]: `import { FinalError } from 'bitrix24-webhook-receiver'
export default ({ object }) => {
  if (object === 'deal:2') throw new FinalError('no such deal')
  if (object === 'deal:3') throw new Error('not now')
}`,
    },
  })
  expect(await until('it has said so', async () => backlogOf(await receiver.readyz()))).toEqual({
    pending: 0,
    waiting: 0,
    dead: 0,
  })
  for (const id of [1, 2, 3, 3]) await receiver.post(dealBody(id))
  const expected: Omit<QueueState, 'oldestAt'> = { ready: 0, running: 0, waiting: 1, blocked: 1, dead: 1 }
  // What it is told now and then may be from the middle of a run.
  const metrics = await until('it says all of it', async () => {
    const metrics = await receiver.metrics()
    const deliveries = metrics.get('b24_deliveries')?.samples.map(({ labels, value }) => [labels['state'], value])
    const handled = { handler: 'ONCRMDEALUPDATE', outcome: 'handled' }
    const isTold = readValue(metrics, 'b24_handler_run_seconds_count', handled) === 1
    return isTold && isDeepStrictEqual(Object.fromEntries(deliveries ?? []), expected) ? metrics : undefined
  })
  expect(readValue(metrics, 'b24_oldest_delivery_age_seconds')).toBeGreaterThan(0)
  const runs = (outcome: string) =>
    readValue(metrics, 'b24_handler_run_seconds_count', { handler: 'ONCRMDEALUPDATE', outcome })
  expect(['handled', 'dead', 'retried', 'own_change'].map(runs)).toEqual([1, 1, expect.any(Number), 0])
  expect(readValue(metrics, 'process_start_time_seconds', { component: 'dispatcher' })).toBeGreaterThan(0)
  expect(readValue(metrics, 'b24_dispatcher_up')).toBe(1)

  const readyz = await until('the third waits again', async () => {
    const readyz: unknown = await receiver.readyz()
    return Reflect.get(backlogOf(readyz) ?? {}, 'waiting') === 1 ? Object(readyz) : undefined
  })
  expect(readyz).toEqual({ status: 'ready', backlog: { pending: 2, waiting: 1, dead: 1, oldest: expect.any(String) } })
  const third = (await receiver.journal()).find(({ object }) => object === 'deal:3')
  const came = new Date(Reflect.get(third ?? {}, 'time')).getTime()
  expect(Date.parse(String(Reflect.get(backlogOf(readyz) ?? {}, 'oldest')))).toBeGreaterThanOrEqual(came)
})

const backlogOf = (readyz: unknown): object | undefined => Reflect.get(Object(readyz), 'backlog')

test('a dispatcher that is stuck delays no scrape: what the receiver knows is reported without it', async () => {
  const folder = temporaryFolder('talk')
  const receiver = await startReceiver({
    env: { HANDLER_STALL: '1h' },
    handlers: { [deals]: scripted(folder, `if (isGuilty) { mark('loops'); for (;;); }`) },
  })
  await receiver.post(dealBody(1))
  const labels = { handler: 'ONCRMDEALUPDATE', outcome: 'handled' }
  await says(receiver, 'b24_handler_run_seconds_count', labels, 1)
  await receiver.post(dealBody(666))
  await until('it loops', () => linesOf(folder, 'loops').length === 1)
  const [metrics, again] = await Promise.all([receiver.metrics(), receiver.metrics()])
  expect(readValue(metrics, 'b24_events_total', { event: 'ONCRMDEALUPDATE', webhook: '' })).toBe(2)
  expect(readValue(metrics, 'b24_dispatcher_up')).toBe(0)
  expect(readValue(metrics, 'b24_deliveries', { state: 'dead' })).toBe(0)
  expect(metrics.has('b24_handler_run_seconds')).toBe(false)
  expect(seriesOf(again)).toEqual(seriesOf(metrics))
})

test('the end of a dispatcher is counted, and the next one is asked', async () => {
  const receiver = await startReceiver({ handlers: { [deals]: 'export default () => {}' } })
  await says(receiver, 'b24_dispatcher_up', {}, 1)
  expect(readValue(await receiver.metrics(), 'b24_dispatcher_exits_total')).toBe(0)
  const pid = await dispatcherOf(receiver)
  process.kill(pid, 'SIGKILL')
  await says(receiver, 'b24_dispatcher_exits_total', {}, 1)
  const metrics = await says(receiver, 'b24_dispatcher_up', {}, 1)
  expect(metrics.get('process_start_time_seconds')?.samples).toHaveLength(2)
})

test('a dispatcher that cannot load its handlers is not up', async () => {
  const receiver = await startReceiver({ handlers: { [deals]: 'export default 1' } })
  await until('one has ended', async () => {
    const ends = readValue(await receiver.metrics(), 'b24_dispatcher_exits_total')
    return ends !== undefined && ends > 0
  })
  expect(readValue(await receiver.metrics(), 'b24_dispatcher_up')).toBe(0)
  writeFileSync(join(receiver.handlersDir, deals), 'export default () => {}')
  await says(receiver, 'b24_dispatcher_up', {}, 1)
})

test('the time of the last event survives a restart, and is missing where there was none', async () => {
  const first = await startReceiver({ env: { DISPATCHER: 'off' } })
  expect((await first.metrics()).get('b24_last_event_timestamp_seconds')?.samples).toEqual([])
  await first.post(dealBody(1))
  await first.post(dealBody(2))
  const last = (await first.journal()).at(-1)
  await first.stop()
  // One that got none.
  await (await startReceiver({ dataDir: first.dataDir, env: { DISPATCHER: 'off' } })).stop()
  const third = await startReceiver({ dataDir: first.dataDir, env: { DISPATCHER: 'off' } })
  expect(readValue(await third.metrics(), 'b24_last_event_timestamp_seconds')).toBe(
    Date.parse(Reflect.get(last ?? {}, 'time')) / 1000,
  )
})

test('with DISPATCHER=off nothing is said of a dispatcher', async () => {
  const receiver = await startReceiver({ env: { DISPATCHER: 'off' } })
  const names = [...(await receiver.metrics()).keys()].filter((name) => /dispatch|deliver|handler|hook/.test(name))
  expect(names).toEqual([])
  expect(await receiver.readyz()).toEqual({ status: 'ready' })
})

test('a disk that takes nothing shows in the journal and in the refusals, until it does again', async () => {
  const receiver = await startReceiver({ env: { DISPATCHER: 'off' } })
  const limit = (size: string) =>
    execFileSync('prlimit', ['--pid', String(receiver.child.pid), `--fsize=${size}:unlimited`])
  limit('0')
  expect((await receiver.post(dealBody(1))).status).toBe(503)
  const metrics = await receiver.metrics()
  expect(readValue(metrics, 'b24_journal_writable')).toBe(0)
  expect(readValue(metrics, 'b24_requests_rejected_total', { code: 'journal_unavailable' })).toBe(1)
  expect(readValue(metrics, 'b24_request_duration_seconds_count')).toBe(0)
  expect(readValue(metrics, 'b24_events_total', { event: 'ONCRMDEALUPDATE', webhook: '' })).toBe(0)
  limit('unlimited')
  await says(receiver, 'b24_journal_writable', {}, 1)
})

test('an incoming webhook that does not work is 0, under its name, until it works again', async () => {
  const away = await startPortal({ limit: { rate: 1000, burst: 1000 } })
  away.records.add(2, { title: 'A deal' }, 7, 1)
  const receiver = await startReceiver({
    args: quickProbes,
    handlers: {
      [deals]: `export default (event, { bitrix24 }) => bitrix24.call('crm.item.get', { entityTypeId: 2, id: 1 })`,
    },
    env: {
      ...away.env,
      B24_APPLICATION_TOKEN: `sales=${TOKEN}`,
      B24_HOOK: `sales=${away.incomingWebhook()}`,
    },
  })
  away.subscribe({ url: receiver.url, token: TOKEN })
  await says(receiver, 'b24_incoming_webhook_up', { incoming_webhook: 'sales' }, 1)
  away.behaviour.dead = 'expired_token'
  away.edit(2, 1, { title: 'Another' })
  const metrics = await says(receiver, 'b24_incoming_webhook_up', { incoming_webhook: 'sales' }, 0)
  expect(JSON.stringify([...metrics.values()])).not.toContain(away.code())
  away.behaviour.dead = undefined
  await says(receiver, 'b24_incoming_webhook_up', { incoming_webhook: 'sales' }, 1)
  const labels = { handler: 'ONCRMDEALUPDATE', outcome: 'handled' }
  await says(receiver, 'b24_handler_run_seconds_count', labels, 1)
})
