import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { expect, onTestFinished, test } from 'vitest'
import { deals, dispatcherOf, dispatcherScript, isGone, linesOf, scripted } from '../support/dispatcher.ts'
import { canTrace, forbidChildren } from '../support/faults.ts'
import { postMany } from '../support/load.ts'
import { dealBody, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

test('while a handler loops for ever over one object, all other posts are answered and handled', async () => {
  const folder = temporaryFolder('talk')
  const receiver = await startReceiver({
    // Longer than a slow machine holds a loop that turns.
    env: { HANDLER_STALL: '3s' },
    handlers: { [deals]: scripted(folder, `if (isGuilty) for (;;); mark('seen', event.object)`) },
  })
  await receiver.post(dealBody(666))
  const statuses = await postMany(receiver.url, 2_000, { from: 10_000 })
  expect(statuses.filter((status) => status === 200)).toHaveLength(2_000)
  expect(await receiver.journal()).toHaveLength(2_001)
  const seen = () => new Set(linesOf(folder, 'seen'))
  await until(
    () => `2,000 innocents are handled, ${seen().size} were`,
    () => seen().size === 2_000,
  )
  await until(
    'it was killed',
    () => receiver.logged('a handler blocks the event loop of the dispatcher: killed').length > 0,
  )
  expect(seen().has('deal:666')).toBe(false)

  writeFileSync(join(receiver.handlersDir, deals), scripted(folder, `mark('seen', event.object)`))
  receiver.child.kill('SIGHUP')
  await until(
    () => `the fixed one handles it\n${receiver.output().slice(-3_000)}`,
    () => seen().has('deal:666'),
  )
  const charged = new Set(receiver.logged('failed, will be tried again').map((line) => line['object']))
  expect([...charged]).toEqual(['deal:666'])
})

test('a receiver killed while a handler loops ends its dispatcher, and the next start handles everything', async () => {
  const folder = temporaryFolder('talk')
  const first = await startReceiver({
    handlers: { [deals]: scripted(folder, `if (isGuilty) { mark('loops'); for (;;); } mark('seen', event.object)`) },
  })
  const pid = await dispatcherOf(first)
  await first.post(dealBody(666))
  await postMany(first.url, 300, { from: 1_000 })
  await until('it loops', () => linesOf(folder, 'loops').length > 0)
  first.child.kill('SIGKILL')
  await until('the dispatcher is gone', () => isGone(pid))
  const second = await startReceiver({
    dataDir: first.dataDir,
    handlers: { [deals]: scripted(folder, `mark('seen', event.object)`) },
  })
  expect((await second.post(dealBody(2_000))).status).toBe(200)
  await until('all are handled', () => new Set(linesOf(folder, 'seen')).size === 302)
})

test('a receiver killed while a handler file blocks the process that loads it takes that along', async () => {
  const folder = temporaryFolder('talk')
  const receiver = await startReceiver({
    handlers: { [deals]: `${scripted(folder, '')}\nmark('loops')\nfor (;;);` },
  })
  const pid = await dispatcherOf(receiver)
  await until('it loops', () => linesOf(folder, 'loops').length > 0)
  receiver.child.kill('SIGKILL')
  await until('the dispatcher is gone', () => isGone(pid))
  expect(linesOf(folder, 'loops')).toHaveLength(1)
})

test('of several that ran when a handler ended the process only the one that did it is charged', async () => {
  const folder = temporaryFolder('talk')
  const receiver = await startReceiver({
    handlers: {
      [deals]: scripted(
        folder,
        `mark('started')
  if (isGuilty) {
    while (lines('started') < 5) await sleep(20)
    if (has('fixed')) return
    mark('go')
    process.kill(process.pid, 'SIGKILL')
  }
  await marked('go')`,
      ),
    },
  })
  for (const id of [666, 1, 2, 3, 4]) await receiver.post(dealBody(id))
  await until('the innocents are handled', () => receiver.logged('handled').length === 4)
  await until('the guilty is charged', () => receiver.logged('failed, will be tried again').length > 0)
  writeFileSync(join(folder, 'fixed'), '')
  await until('all are handled', () => receiver.logged('handled').length === 5)
  const charges = receiver.logged('failed, will be tried again')
  expect(new Set(charges.map((line) => line['object']))).toEqual(new Set(['deal:666']))
  expect(charges[0]).toMatchObject({
    attempt: 1,
    err: { message: 'the dispatcher died while this ran: it ended with SIGKILL' },
  })
  const attempts = new Map(receiver.logged('handled').map((line) => [line['object'], line['attempt']]))
  expect(attempts).toEqual(
    new Map<unknown, unknown>([
      ...[1, 2, 3, 4].map((id) => [`deal:${id}`, 1] as const),
      ['deal:666', charges.length + 1],
    ]),
  )
})

test('a handler that crashes its process, whichever way, costs a dispatcher and nothing else', async () => {
  const crimes = {
    'deal:662': 'process.reallyExit(3)',
    'deal:663': 'process.abort()',
    'deal:664': 'const hog = []; for (;;) hog.push(new Array(100_000).fill(event))',
  }
  const folder = temporaryFolder('talk')
  const once = Object.entries(crimes).map(
    ([object, crime]) => `if (event.object === '${object}' && !has('${object}')) { mark('${object}'); ${crime} }`,
  )
  const receiver = await startReceiver({
    env: { NODE_OPTIONS: '--max-old-space-size=64' },
    handlers: { [deals]: scripted(folder, once.join('\n  ')) },
  })
  const handled = () => new Set(receiver.logged('handled').map((line) => line['object']))
  for (const object of Object.keys(crimes)) {
    const deaths = () => receiver.logged('the dispatcher ended; events wait in the journal').length
    const before = deaths()
    const id = Number(object.slice('deal:'.length))
    expect((await receiver.post(dealBody(id))).status).toBe(200)
    await until(`it dies of ${object}`, () => deaths() > before)
    expect((await receiver.post(dealBody(id + 1_000))).status).toBe(200)
    await until('the next event is handled', () => handled().has(`deal:${id + 1_000}`))
  }
  await until('all are handled', () => handled().size === 2 * Object.keys(crimes).length)
  // One that has finished a delivery since is not taken for one that cannot start.
  const pauses = receiver.logged('starting the dispatcher again').map((line) => line['in_ms'])
  expect(new Set(pauses)).toEqual(new Set([500]))
  expect(await receiver.stop()).toEqual({ code: 0, signal: null })
})

test('a handler that ignores its timeout is replaced with its process and retried, never beside itself', async () => {
  const folder = temporaryFolder('talk')
  const receiver = await startReceiver({
    env: { HANDLER_TIMEOUT: '1s' },
    handlers: {
      [deals]: scripted(
        folder,
        `if (!isGuilty) {
    signal.addEventListener('abort', () => mark('told'))
    return
  }
  if (!has('runs')) for (;;) { mark('runs', process.pid + ' 1'); await sleep(10) }
  mark('runs', process.pid + ' ' + attempt)`,
      ),
    },
  })
  await receiver.post(dealBody(666))
  await receiver.post(dealBody(666))
  await receiver.post(dealBody(1))
  await until(
    () => `all are handled\n${receiver.output()}`,
    () => receiver.logged('handled').length === 3,
  )
  expect(receiver.logged('failed, will be tried again')).toMatchObject([{ object: 'deal:666', attempt: 1 }])
  const runs = linesOf(folder, 'runs').map((line) => line.split(' '))
  const [first] = runs[0] ?? []
  const retry = runs.findIndex(([, attempt]) => attempt === '2')
  expect(runs[retry]?.[0]).not.toBe(first)
  // Nothing of the first process once the retry began, and the second event of the object only after it.
  expect(runs.slice(retry).map(([pid, attempt]) => [pid === first, attempt])).toEqual([
    [false, '2'],
    [false, '1'],
  ])
})

test('a dispatcher may start slower than HANDLER_STALL, and is not killed while its event loop turns', async () => {
  const folder = temporaryFolder('talk')
  const receiver = await startReceiver({
    env: { HANDLER_STALL: '600ms' },
    handlers: { [deals]: scripted(folder, 'await sleep(2_500)') },
  })
  await receiver.post(dealBody(1))
  await until('handled', () => receiver.logged('handled').length === 1)
  expect(receiver.logged('handled')).toMatchObject([{ object: 'deal:1' }])
})

test.runIf(process.getuid?.() === 0)(
  'a dispatcher that cannot be started for want of processes is tried again',
  async () => {
    const dataDir = temporaryFolder('data')
    chownSync(dataDir, 65533, 65533)
    const receiver = await startReceiver({ dataDir, uid: 65533, handlers: { [deals]: 'export default () => {}' } })
    const pid = await dispatcherOf(receiver)
    const limit = (most: number) =>
      execFileSync('prlimit', ['--pid', String(receiver.child.pid), `--nproc=${most}:`], { uid: 65533 })
    limit(1)
    process.kill(pid, 'SIGKILL')
    await until('it fails', () => receiver.logged('the dispatcher cannot be started').length > 0)
    expect((await receiver.post(dealBody(1))).status).toBe(200)
    expect(await receiver.readyz()).toMatchObject({ status: 'degraded' })
    limit(10_000)
    await until('handled', () => receiver.logged('handled').length === 1)
    expect(await receiver.stop()).toEqual({ code: 0, signal: null })
  },
)

test.skipIf(!canTrace)(
  'a dispatcher that cannot be started for want of memory is tried again, also one of a reload (strace)',
  async () => {
    const receiver = await startReceiver({ handlers: { [deals]: 'export default () => {}' } })
    const pid = await dispatcherOf(receiver)
    const failed = () => receiver.logged('the dispatcher cannot be started').length
    const allow = await forbidChildren(receiver.child.pid)
    receiver.child.kill('SIGHUP')
    await until('the reload fails', () => failed() === 1)
    expect(isGone(pid)).toBe(false)
    process.kill(pid, 'SIGKILL')
    await until('it fails', () => failed() > 1)
    expect((await receiver.post(dealBody(1))).status).toBe(200)
    await allow()
    await until('handled', () => receiver.logged('handled').length === 1)
    expect(await receiver.stop()).toEqual({ code: 0, signal: null })
  },
)

test('a dispatcher whose receiver was gone before it was up does not stay', async () => {
  const dispatcher = spawn(process.execPath, [dispatcherScript, `--parent=${process.pid}`], {
    stdio: ['ignore', 'ignore', 'inherit', 'pipe'],
    env: {
      PATH: process.env['PATH'],
      NODE_OPTIONS: '--disable-warning=ExperimentalWarning',
      DATA_DIR: temporaryFolder('data'),
      HANDLERS_DIR: temporaryFolder('handlers'),
    },
  })
  onTestFinished(() => void dispatcher.kill('SIGKILL'))
  const exited = once(dispatcher, 'exit')
  const [, , , channel] = dispatcher.stdio
  if (channel instanceof Duplex) channel.destroy()
  expect(await exited).toEqual([0, null])
})

test('nor does one that a handler file blocks by then', async () => {
  const folder = temporaryFolder('talk')
  const handlersDir = temporaryFolder('handlers')
  writeFileSync(join(handlersDir, deals), `${scripted(folder, '')}\nmark('pid', process.pid)\nfor (;;);`)
  // A receiver that starts it and is gone at once; whoever is its parent then is not.
  const receiver = spawn('sh', ['-c', '"$0" "$1" --parent=$$ &', process.execPath, dispatcherScript], {
    stdio: ['ignore', 'ignore', 'inherit', 'pipe'],
    env: {
      PATH: process.env['PATH'],
      NODE_OPTIONS: '--disable-warning=ExperimentalWarning',
      DATA_DIR: temporaryFolder('data'),
      HANDLERS_DIR: handlersDir,
    },
  })
  expect(await once(receiver, 'exit')).toEqual([0, null])
  const pid = await until('it loads', () => Number(linesOf(folder, 'pid')[0]))
  onTestFinished(() => void (isGone(pid) || process.kill(pid, 'SIGKILL')))
  await until('it is gone', () => isGone(pid))
})

test.each([
  ['null and a line end', 'null\n'],
  ['an object without a type', '{}\n'],
  ['half a message', '{"type":"al'],
  ['bytes', '\u0000\u0007\u009b'],
])('a handler that writes %s to the channel of its process costs a dispatcher, and no post', async (_, text) => {
  const folder = temporaryFolder('talk')
  const receiver = await startReceiver({
    handlers: {
      [deals]: scripted(
        folder,
        `if (isGuilty && !has('written')) {
          mark('written')
          writeSync(3, ${JSON.stringify(text)})
          await marked('never')
        }
        mark('seen', event.object)`,
      ).replace('import { ', 'import { writeSync, '),
    },
  })
  for (const id of [1, 666, 2]) expect((await receiver.post(dealBody(id))).status).toBe(200)
  await until(
    () => `all are handled\n${receiver.output()}`,
    () => new Set(linesOf(folder, 'seen')).size === 3,
  )
  await expect.poll(() => receiver.logged('a handler wrote to the channel of the dispatcher: killed')).toHaveLength(1)
  expect((await receiver.post(dealBody(3))).status).toBe(200)
  expect(receiver.child.exitCode).toBeNull()
})
