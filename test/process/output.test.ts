import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { expect, onTestFinished, test } from 'vitest'
import { lostOrDoubled, postMany, startLoad } from '../support/load.ts'
import { openPipe } from '../support/pipe.ts'
import {
  type Receiver,
  readRecorded,
  recorder,
  spawnReceiver,
  startReceiver,
  temporaryFolder,
  until,
} from '../support/receiver.ts'

/** `npm run test:crash` sets ROUNDS; fewer fill the output, too. */
const posts = process.env['ROUNDS'] ? 5000 : 700
const grace = '3s'
const ok = (count: number) => Array.from({ length: count }, () => 200)

/** The end of the process alone: its output may still be held by whoever does not read it. Beyond its grace it is no 0. */
async function stopped({ child }: { child: Awaited<ReturnType<typeof spawnReceiver>>['child'] }) {
  child.kill('SIGTERM')
  await until('it ended', () => child.exitCode !== null || child.signalCode)
  return { code: child.exitCode, signal: child.signalCode }
}

/** Both processes write to what `redirection` names, such as `> file`. */
const shell = (redirection: string) => ['bash', '-c', `exec "$@" ${redirection}`, 'bash']

test('a reader of stdout that stalls (a socket) neither stops nor ends it, and SIGTERM still exits 0', async () => {
  const seen = join(temporaryFolder('seen'), 'seen')
  const receiver = await startReceiver({
    env: { SHUTDOWN_GRACE: grace },
    handlers: { 'ONCRMDEALUPDATE.mjs': recorder(seen) },
  })
  await until('the dispatcher runs', () => isReady(receiver))
  receiver.child.stdout?.pause()
  expect(await postMany(receiver.url, posts)).toEqual(ok(posts))
  await until('all handled', () => readRecorded(seen).length === posts)
  expect(receiver.logged('accepted').length).toBeLessThan(posts)

  // Its start makes the output that they share a blocking one.
  const dispatcher = childrenOf(receiver.child.pid)
  process.kill(Number(dispatcher), 'SIGKILL')
  await until('another runs', () => ![dispatcher, ''].includes(childrenOf(receiver.child.pid)))
  await until('it follows', () => isReady(receiver))
  expect(await postMany(receiver.url, 100, { from: 10_000 })).toEqual(ok(100))
  await until('all handled', () => readRecorded(seen).length === posts + 100)

  expect(await stopped(receiver)).toEqual({ code: 0, signal: null })
  receiver.child.stdout?.resume()
  expect(await receiver.journal()).toHaveLength(posts + 100)
})

test('a reader of stdout that stalls (a pipe) neither stops nor ends it, and SIGTERM still exits 0', async () => {
  const pipe = openPipe()
  const receiver = await spawnReceiver({ under: shell(`> ${pipe.path}`), env: { SHUTDOWN_GRACE: grace } })
  await until('it serves', async () => (await fetch(`${receiver.origin}/healthz`).catch(() => undefined))?.ok)
  expect(await postMany(receiver.url, posts)).toEqual(ok(posts))
  expect(await receiver.readyz()).toMatchObject({ status: 'ready' })
  expect(await stopped(receiver)).toEqual({ code: 0, signal: null })
  expect(await receiver.journal()).toHaveLength(posts)
})

test('a stdout that is closed from the start, and a full one, are no reason to stop', async () => {
  for (const redirection of ['>&-', '> /dev/full', '2>&-']) {
    const receiver = await spawnReceiver({ under: shell(redirection), env: { SHUTDOWN_GRACE: grace } })
    await until('it serves', async () => (await fetch(`${receiver.origin}/healthz`).catch(() => undefined))?.ok)
    expect(await postMany(receiver.url, 50)).toEqual(ok(50))
    expect(await stopped(receiver), redirection).toEqual({ code: 0, signal: null })
    expect(await receiver.journal()).toHaveLength(50)
  }
})

test('a stalled reader of stderr delays no answer for ever while the journal fails, and lines are whole', async () => {
  const receiver = await startReceiver({ env: { SHUTDOWN_GRACE: grace, DISPATCHER: 'off' } })
  let errors = ''
  receiver.child.stderr?.on('data', (text: string) => {
    errors += text
  })
  expect(await postMany(receiver.url, 50)).toEqual(ok(50))
  receiver.child.stderr?.pause()
  limitFiles(receiver.child.pid, '0')
  // Some 300 KB, more than the socket and the pause buffer hold.
  const load = startLoad(receiver.url, { clients: 450, from: 1000 })
  await until('some hundreds were refused', () => load.refused().length >= 900)
  await load.stop()
  expect([...load.statuses()]).toEqual([503])
  expect(await receiver.readyz()).toMatchObject({ status: 'unavailable', journal: expect.stringContaining('EFBIG') })

  limitFiles(receiver.child.pid, 'unlimited')
  await until('it is ready again', () => isReady(receiver))
  expect(await postMany(receiver.url, 50, { from: 100_000 })).toEqual(ok(50))
  expect(await stopped(receiver)).toEqual({ code: 0, signal: null })
  expect(await receiver.journal()).toHaveLength(100)

  receiver.child.stderr?.resume()
  await receiver.exited
  const whole = errors.split('\n').slice(0, -1)
  const rescued = whole.map((line) => JSON.parse(line).object)
  expect(rescued.length).toBeGreaterThan(100)
  expect(lostOrDoubled(rescued, rescued)).toEqual({ lost: [], doubled: [] })
  expect(load.refused()).toEqual(expect.arrayContaining(rescued))
})

test('a log without a reader is kept up to a limit, and the number of dropped lines is reported', async () => {
  const folder = temporaryFolder('log')
  const script = join(folder, 'talk.mjs')
  const source = pathToFileURL(join(import.meta.dirname, '../../src/lib/log.ts')).href
  writeFileSync(
    script,
    `import { createLog } from ${JSON.stringify(source)}
const { log, close } = createLog('info', 'receiver')
for (let id = 0; id < 100_000; id++) log.info({ id }, 'a line as long as those of a receiver are: ${'x'.repeat(100)}')
process.send({ heap: process.memoryUsage().rss })
process.once('message', async () => { log.info('the last word'); await close(); process.exit(0) })`,
  )
  const child = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit', 'ipc'] })
  onTestFinished(() => void child.kill('SIGKILL'))
  let text = ''
  await once(child, 'message')
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
  })
  await until('it tells', () => text.includes('lines of this log were dropped'))
  child.send('end')
  await once(child, 'close')
  expect(child.exitCode).toBe(0)
  const lines = text
    .split('\n')
    .slice(0, -1)
    .map((line): Record<string, unknown> => JSON.parse(line))
  const told = lines.filter((line) => 'lines' in line).reduce((sum, line) => sum + Number(line['lines']), 0)
  const kept = lines.filter((line) => 'id' in line)
  expect(kept.length + told).toBe(100_000)
  expect(kept.length).toBeGreaterThan(1000)
  expect(told).toBeGreaterThan(1000)
  expect(kept.map((line) => line['id'])).toEqual(kept.map((_, index) => index))
  expect(lines.at(-1)).toMatchObject({ msg: 'the last word' })
})

test.for([
  ['just before', ''],
  [
    'before half a second in which the loop did not turn, and then',
    'const end = Date.now() + 500\nwhile (Date.now() < end);',
  ],
])('what was logged %s an exit that waits for nothing comes all the same', ([, busy]) => {
  const source = pathToFileURL(join(import.meta.dirname, '../../src/lib/log.ts')).href
  const script = `import { createLog } from ${JSON.stringify(source)}
const { log } = createLog('info', 'receiver')
for (let id = 0; id < 200; id++) log.info({ id }, '${'x'.repeat(100)}')
${busy}
process.exit(3)`
  const { stdout, status } = spawnSync(process.execPath, ['--input-type=module', '--eval', script], {
    encoding: 'utf8',
  })
  const ids = stdout
    .split('\n')
    .slice(0, -1)
    .map((line): number => JSON.parse(line).id)
  expect(ids.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 200 }, (_, id) => id))
  expect(status).toBe(3)
})

/** So long may a file become that the process writes; a pipe is none. */
function limitFiles(pid: number | undefined, limit: string): void {
  execFileSync('prlimit', ['--pid', String(pid), `--fsize=${limit}:unlimited`])
}

function childrenOf(pid: number | undefined): string {
  return spawnSync('pgrep', ['-P', String(pid)], { encoding: 'utf8' }).stdout.trim()
}

async function isReady(receiver: Pick<Receiver, 'readyz'>): Promise<boolean> {
  return Reflect.get(Object(await receiver.readyz()), 'status') === 'ready'
}
