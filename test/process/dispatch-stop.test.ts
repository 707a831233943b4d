import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { openSqliteQueue, queuePath } from '../../src/queue/sqlite/queue.ts'
import { deals, dispatcherOf, isGone, linesOf, scripted, spawnDispatcher } from '../support/dispatcher.ts'
import { postMany } from '../support/load.ts'
import { dealBody, readRecorded, recorder, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

test('a second dispatcher by itself waits for the first and takes over, and both drain at SIGTERM', async () => {
  const folder = temporaryFolder('talk')
  const receiver = await startReceiver({ env: { DISPATCHER: 'off' } })
  const { dataDir } = receiver
  const handlers = { [deals]: scripted(folder, `mark('started', event.object); await marked(event.object)`) }
  const first = await spawnDispatcher({ dataDir, handlers })
  await receiver.post(dealBody(1))
  await until('the first runs it', () => linesOf(folder, 'started').length === 1)
  const second = await spawnDispatcher({ dataDir, handlers })
  await until('the second waits', () => second.logged('waiting for the dispatcher before this one to end').length === 1)
  first.child.kill('SIGTERM')
  await receiver.post(dealBody(2))
  writeFileSync(join(folder, 'deal:1'), '')
  expect(await first.exited).toEqual({ code: 0, signal: null })
  expect(first.logged('handled')).toMatchObject([{ object: 'deal:1', attempt: 1 }])
  await until('the second runs the next', () => linesOf(folder, 'started').length === 2)
  second.child.kill('SIGINT')
  writeFileSync(join(folder, 'deal:2'), '')
  expect(await second.exited).toEqual({ code: 0, signal: null })
  expect(second.logged('handled')).toMatchObject([{ object: 'deal:2', attempt: 1 }])
  expect(await receiver.readyz()).toMatchObject({ status: 'ready' })
})

test('a receiver whose dispatcher finds another at work says which, until that ends', async () => {
  const dataDir = temporaryFolder('data')
  const handlers = { [deals]: 'export default () => {}' }
  const alone = await spawnDispatcher({ dataDir, handlers })
  await until('it is at work', () => alone.output().includes('handler loaded'))
  const receiver = await startReceiver({ dataDir, handlers, env: { SHUTDOWN_GRACE: '1s' } })
  const readyz = async () => JSON.stringify(await receiver.readyz())
  await until('it says so', async () =>
    (await readyz()).includes(`in use by another dispatcher: pid ${alone.child.pid}`),
  )
  expect((await receiver.post(dealBody(1))).status).toBe(200)
  alone.child.kill('SIGTERM')
  expect(await alone.exited).toEqual({ code: 0, signal: null })
  await until('it took over', async () => (await readyz()).startsWith('{"status":"ready"'))
})

test('a dispatcher by itself that is stopped while it starts leaves nothing half run', async () => {
  const receiver = await startReceiver({ env: { DISPATCHER: 'off' } })
  const { dataDir } = receiver
  await postMany(receiver.url, 30)
  const handlers = { [deals]: 'export default () => new Promise(() => {})' }
  for (const sign of ['"handler loaded"', '"handler loaded"', 'waiting for']) {
    const other = sign === 'waiting for' ? await spawnDispatcher({ dataDir, handlers }) : undefined
    if (other) await until('another holds the directory', () => other.output().includes('handler loaded'))
    const one = await spawnDispatcher({ dataDir, handlers, env: { SHUTDOWN_GRACE: '100ms' } })
    await until(sign, () => one.output().includes(sign))
    one.child.kill('SIGTERM')
    expect(await one.exited).toEqual({ code: 0, signal: null })
    expect(one.output()).not.toContain('cannot go on')
    if (other) continue
    const queue = openSqliteQueue({ path: queuePath(dataDir) })
    expect(await queue.reclaim()).toBeUndefined()
    await queue.close()
  }
})

test.for([
  ['SIGTERM to the receiver', 'SIGTERM', false],
  ['SIGTERM to the whole group', 'SIGTERM', true],
  ['SIGINT to the whole group, as Ctrl-C does,', 'SIGINT', true],
] as const)('%s lets the handler that runs end and begins no other', async ([, signal, toGroup]) => {
  const folder = temporaryFolder('talk')
  const receiver = await startReceiver({
    handlers: { [deals]: scripted(folder, `mark('started', event.id); await marked('go')`) },
  })
  await receiver.post(dealBody(1))
  await receiver.post(dealBody(1))
  await until('it runs', () => linesOf(folder, 'started').length === 1)
  if (toGroup) receiver.killGroup(signal)
  else receiver.child.kill(signal)
  await until('stopping', () => receiver.logged('stopping').length === 1)
  writeFileSync(join(folder, 'go'), '')
  expect(await receiver.exited).toEqual({ code: 0, signal: null })
  expect(receiver.logged('handled')).toHaveLength(1)
  expect(linesOf(folder, 'started')).toHaveLength(1)
  const queue = openSqliteQueue({ path: queuePath(receiver.dataDir) })
  expect(await queue.handlers()).toMatchObject([{ name: 'ONCRMDEALUPDATE', pending: 1 }])
  await queue.close()
})

test.for(['the receiver', 'the whole group'])(
  'a handler that does not end within the grace after SIGTERM to %s runs again, uncharged',
  async (target) => {
    const folder = temporaryFolder('talk')
    const handlers = { [deals]: scripted(folder, `mark('started'); await marked('go')`) }
    const first = await startReceiver({ env: { SHUTDOWN_GRACE: '3s' }, handlers })
    await first.post(dealBody(1))
    await until('it runs', () => linesOf(folder, 'started').length === 1)
    if (target === 'the receiver') first.child.kill('SIGTERM')
    else first.killGroup('SIGTERM')
    expect(await first.exited).toEqual({ code: 0, signal: null })
    writeFileSync(join(folder, 'go'), '')
    const second = await startReceiver({ dataDir: first.dataDir, handlers })
    await until('handled', () => second.logged('handled').length === 1)
    expect(second.logged('handled')).toMatchObject([{ attempt: 1 }])
    expect(second.logged('failed, will be tried again')).toEqual([])
  },
)

test('a handler that ignores its timeout during a stop does not take the others along', async () => {
  const folder = temporaryFolder('talk')
  const receiver = await startReceiver({
    env: { SHUTDOWN_GRACE: '60s' },
    handlers: {
      'good.mjs': `import { defineHandler } from 'bitrix24-webhook-receiver'
import good from './_good.mjs'
export default defineHandler('ONCRMDEALUPDATE', good)`,
      '_good.mjs': scripted(folder, `mark('started'); await marked('go')`),
      'stuck.mjs': `import { defineHandler } from 'bitrix24-webhook-receiver'
export default defineHandler('ONCRMDEALUPDATE', () => new Promise(() => {}), { timeout: '3s' })`,
    },
  })
  await receiver.post(dealBody(1))
  await until('it runs', () => linesOf(folder, 'started').length === 1)
  receiver.child.kill('SIGTERM')
  await until('the other one is stuck', () => receiver.logged('failed, will be tried again').length === 1)
  writeFileSync(join(folder, 'go'), '')
  expect(await receiver.exited).toEqual({ code: 0, signal: null })
  expect(receiver.logged('handled')).toMatchObject([{ handler: 'good', attempt: 1 }])
})

test('SIGTERM while a handler blocks its process still ends both within the grace', async () => {
  const folder = temporaryFolder('talk')
  const receiver = await startReceiver({
    env: { SHUTDOWN_GRACE: '2s' },
    handlers: { [deals]: scripted(folder, `mark('loops'); for (;;);`) },
  })
  const pid = await dispatcherOf(receiver)
  await receiver.post(dealBody(1))
  await until('it loops', () => linesOf(folder, 'loops').length === 1)
  expect(await receiver.stop()).toEqual({ code: 0, signal: null })
  expect(isGone(pid)).toBe(true)
})

test('a reload lets the handlers that run end, and no event is run twice or by none', async () => {
  const folder = temporaryFolder('talk')
  const receiver = await startReceiver({
    handlers: {
      [deals]: scripted(
        folder,
        `mark('started', event.object); await marked('go'); mark('ended', 'old ' + event.object)`,
      ),
    },
  })
  await receiver.post(dealBody(1))
  await until('it runs', () => linesOf(folder, 'started').length === 1)
  writeFileSync(join(receiver.handlersDir, deals), scripted(folder, `mark('ended', 'new ' + event.object)`))
  receiver.child.kill('SIGHUP')
  await until('the new one is loaded', () => receiver.logged('handler loaded').length === 2)
  for (const id of [2, 3, 1]) expect((await receiver.post(dealBody(id))).status).toBe(200)
  writeFileSync(join(folder, 'go'), '')
  await until('the new one took over', () => receiver.logged('handlers were loaded again').length === 1)
  expect((await receiver.post(dealBody(4))).status).toBe(200)
  await until('all are handled', () => linesOf(folder, 'ended').includes('new deal:4'))
  await until('all are handled', () => linesOf(folder, 'ended').length >= 5)
  const ended = linesOf(folder, 'ended')
  expect(ended[0]).toBe('old deal:1')
  // The old one may have followed some of the others before it was told to stop.
  expect(ended.map((line) => line.slice('old '.length)).sort()).toEqual([1, 1, 2, 3, 4].map((id) => `deal:${id}`))
  expect(receiver.logged('the dispatcher ended; events wait in the journal')).toEqual([])
})

test('a reload that is asked for during another one is not forgotten', async () => {
  const folder = temporaryFolder('talk')
  const receiver = await startReceiver({
    handlers: { [deals]: scripted(folder, `mark('started'); await marked('go')`) },
  })
  const put = (version: string) =>
    writeFileSync(join(receiver.handlersDir, deals), scripted(folder, `mark('versions', '${version}')`))
  await receiver.post(dealBody(1))
  await until('it runs', () => linesOf(folder, 'started').length === 1)
  put('second')
  receiver.child.kill('SIGHUP')
  await until('the second is loaded', () => receiver.logged('handler loaded').length === 2)
  put('third')
  receiver.child.kill('SIGHUP')
  await until('heard', () => receiver.logged('reloading').length === 2)
  writeFileSync(join(folder, 'go'), '')
  await until('the third is loaded', () => receiver.logged('handlers were loaded again').length === 2)
  await receiver.post(dealBody(2))
  await until('handled', () => linesOf(folder, 'versions').length > 0)
  expect(linesOf(folder, 'versions')).toEqual(['third'])
})

test('a handler file that never finishes loading holds up neither the next reload nor the stop', async () => {
  const seen = join(temporaryFolder('seen'), 'seen')
  const receiver = await startReceiver({ handlers: { [deals]: 'export default () => {}' } })
  await until('loaded', () => receiver.logged('handler loaded').length === 1)
  const put = (source = '') => writeFileSync(join(receiver.handlersDir, deals), source)
  const reload = async (count: number) => {
    receiver.child.kill('SIGHUP')
    await until('heard', () => receiver.logged('reloading').length === count)
  }
  put(`console.error('it hangs'); await new Promise(() => {}); export default () => {}`)
  await reload(1)
  await until('it hangs', () => receiver.output().includes('it hangs'))
  put(recorder(seen))
  await reload(2)
  await until('the fixed one is loaded', () => receiver.logged('handlers were loaded again').length === 1)
  await receiver.post(dealBody(1))
  await until('handled', () => readRecorded(seen).length === 1)

  put(`console.error('again'); await new Promise(() => {}); export default () => {}`)
  await reload(3)
  await until('it hangs', () => receiver.output().includes('again'))
  expect(await receiver.stop()).toEqual({ code: 0, signal: null })
})
