import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { webhookBody } from '../../src/simulator/webhook-body.ts'
import { dealBody, readRecorded, recorder, startReceiver, TOKEN, temporaryFolder, until } from '../support/receiver.ts'

test('a handler that throws is logged with the event and run again', async () => {
  const receiver = await startReceiver({
    handlers: {
      'ONCRMDEALUPDATE.mjs': `export default (event, { attempt, log }) => {
  if (attempt === 1) throw new Error('first try')
  log.info({ attempt }, 'second try')
}`,
    },
  })
  await receiver.post(dealBody(662))
  await until('handled', () => receiver.logged('handled').length === 1)
  const [event] = await receiver.journal()
  expect(receiver.logged('failed, will be tried again')).toMatchObject([
    { id: event?.id, object: 'deal:662', handler: 'ONCRMDEALUPDATE', attempt: 1, err: { message: 'first try' } },
  ])
  expect(receiver.logged('second try')).toMatchObject([{ id: event?.id, attempt: 2 }])
})

test('a FinalError ends a delivery at once and a RetryAfter chooses the next try', async () => {
  const receiver = await startReceiver({
    handlers: {
      'ONCRMDEALUPDATE.mjs': `import { FinalError, RetryAfter } from 'bitrix24-webhook-receiver'
export default (event, { attempt }) => {
  if (event.object === 'deal:1') throw new FinalError('no such deal')
  if (attempt === 1) throw new RetryAfter('1ms')
}`,
    },
  })
  await receiver.post(dealBody(1))
  await receiver.post(dealBody(2))
  await until('deal 1 is dead', () => receiver.logged('failed for good: this delivery is dead').length === 1)
  await until('deal 2 is handled', () => receiver.logged('handled').length === 1)
  expect(receiver.logged('handled')).toMatchObject([{ object: 'deal:2', attempt: 2 }])
})

test('what was not handled when the receiver stopped is handled after the next start', async () => {
  const seen = join(temporaryFolder('seen'), 'seen')
  const first = await startReceiver({
    env: { SHUTDOWN_GRACE: '1s' },
    handlers: { 'ONCRMDEALUPDATE.mjs': 'export default () => new Promise(() => {})' },
  })
  for (let id = 1; id <= 20; id++) await first.post(dealBody(id))
  await first.stop()
  const second = await startReceiver({ dataDir: first.dataDir, handlers: { 'ONCRMDEALUPDATE.mjs': recorder(seen) } })
  await until(
    () => `all handled\n${second.output()}`,
    () => readRecorded(seen).length === 20,
  )
  expect(new Set(readRecorded(seen).map((event) => event.object)).size).toBe(20)
})

test.for([
  ['calls process.exit', 'export default () => process.exit(3)'],
  [
    'rejects a promise that nobody holds',
    'export default () => { void Promise.reject(new Error("floating")) ; return new Promise(() => {}) }',
  ],
  ['never returns', 'export default () => { for (;;); }'],
])('posts are answered and journalled while a handler %s', async ([, source = '']) => {
  const receiver = await startReceiver({
    env: { SHUTDOWN_GRACE: '1s' },
    handlers: { 'ONCRMDEALUPDATE.mjs': source },
  })
  for (let id = 1; id <= 50; id++) expect((await receiver.post(dealBody(id))).status).toBe(200)
  expect(await receiver.journal()).toHaveLength(50)
  expect(await receiver.stop()).toEqual({ code: 0, signal: null })
})

test('a handler file that cannot be loaded is named, no event is skipped for the others, and posts go on', async () => {
  const seen = join(temporaryFolder('seen'), 'seen')
  const handlers = { 'good.mjs': recorder(seen), 'broken.mjs': 'export default (' }
  const receiver = await startReceiver({ handlers })
  const named = await until('named', () => receiver.logged('a handler cannot be loaded')[0])
  expect(named).toMatchObject({ file: join(receiver.handlersDir, 'broken.mjs') })
  expect((await receiver.post(dealBody(1))).status).toBe(200)
  await receiver.stop()
  expect(readRecorded(seen)).toEqual([])

  const mended = { 'good.mjs': recorder(seen), 'broken.mjs': recorder(seen) }
  const again = await startReceiver({ dataDir: receiver.dataDir, handlers: mended })
  await until(
    () => `both handled it\n${again.output()}`,
    () => readRecorded(seen).length === 2,
  )
})

test('with --watch a handler that is saved is the one that runs', async () => {
  const seen = join(temporaryFolder('seen'), 'seen')
  const receiver = await startReceiver({ args: ['--watch'], handlers: { '_none.mjs': '' } })
  await until('no handlers yet', () => receiver.logged('no handlers: events are journalled only').length === 1)
  writeFileSync(join(receiver.handlersDir, 'deals.mjs'), recorder(seen))
  // Loaded is not enough: until then the one before, which has none, follows the journal. Twice, where it was read half.
  await until('it took over', () => receiver.logged('handlers were loaded again').length > 0)
  await receiver.post(dealBody(7))
  await until('handled', () => receiver.logged('handled').length === 1)
  expect(receiver.logged('handled')).toMatchObject([{ handler: 'deals', object: 'deal:7' }])
})

test('with --watch a folder that is not there is reported, and posts are taken', async () => {
  const receiver = await startReceiver({
    args: ['--watch'],
    env: { HANDLERS_DIR: join(temporaryFolder('no'), 'where') },
  })
  await until('told', () => receiver.logged('the handlers cannot be watched: reload them by hand').length === 1)
  expect((await receiver.post(dealBody(1))).status).toBe(200)
})

test('an event whose data is not as documented is accepted, marked, counted and delivered', async () => {
  const seen = join(temporaryFolder('seen'), 'seen')
  const receiver = await startReceiver({ handlers: { 'all.mjs': recorder(seen) } })
  const portal = { domain: 'example.bitrix24.com', memberId: 'm', token: TOKEN }
  const post = (data: string | null) =>
    receiver.post(webhookBody({ event: 'ONCRMDEALUPDATE', data, ts: 1736405807, portal }))
  expect((await post('private')).status).toBe(200)
  expect((await post(null)).status).toBe(200)
  await receiver.post(dealBody(662))
  await until('handled', () => readRecorded(seen).length === 3)
  const journal = await receiver.journal()
  // In the order of the journal: the three are about different objects.
  const handled = journal.flatMap(({ id }) => readRecorded(seen).find((event) => event.id === id) ?? [])
  for (const events of [handled, journal])
    expect(events.map(({ shape, object }) => [shape, object])).toEqual([
      ['unexpected', undefined],
      ['unexpected', undefined],
      [undefined, 'deal:662'],
    ])
  await expect
    .poll(() => receiver.logged('accepted, but its data is not as documented'))
    .toMatchObject([{ level: 40, event: 'ONCRMDEALUPDATE', count: 1 }])
  expect(receiver.output()).not.toContain('private')
})

test('a misspelt name in the handlers folder is in the log, with the name that it may mean', async () => {
  const receiver = await startReceiver({ handlers: { 'ONCRMDEALUPDAET.mjs': 'export default () => {}' } })
  const told = await until('told', () =>
    receiver.logged('the documentation does not know this event: is it spelt right?').at(0),
  )
  expect(told).toMatchObject({
    level: 40,
    handler: 'ONCRMDEALUPDAET',
    event: 'ONCRMDEALUPDAET',
    nearest: 'ONCRMDEALUPDATE',
  })
})
