import { execFileSync, spawn } from 'node:child_process'
import { readdirSync, readFileSync, rmSync, statfsSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pino } from 'pino'
import { expect, onTestFinished, test } from 'vitest'
import { readJournal } from '../../src/journal/follow.ts'
import { oldest } from '../../src/journal/position.ts'
import { journalDir, listSegments } from '../../src/journal/segments.ts'
import { canMount, canTrace, smallDisk } from '../support/faults.ts'
import { lostOrDoubled, startLoad } from '../support/load.ts'
import { type Receiver, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

const rounds = Number(process.env['ROUNDS'] ?? 1)

/** A receiver without a dispatcher, and what it writes to stderr. */
async function start(options: Parameters<typeof startReceiver>[0] = {}) {
  const receiver = await startReceiver({ ...options, env: { DISPATCHER: 'off', SEGMENT_SIZE: '32KB', ...options.env } })
  let errors = ''
  receiver.child.stderr?.on('data', (text: string) => {
    errors += text
  })
  return {
    ...receiver,
    readyz: async () => Object(await receiver.readyz()) as { status: string; journal?: string },
    /** Events that went to stderr: every line must be one. */
    rescued: () =>
      errors
        .split('\n')
        .slice(0, -1)
        .map((line): string => JSON.parse(line).object),
  }
}

type Started = Awaited<ReturnType<typeof start>>

const fillers = (dataDir: string) => join(dataDir, 'filler')

/** Leaves so many bytes. */
function fill(dataDir: string, free: number): void {
  const { bavail, bsize } = statfsSync(dataDir)
  writeFileSync(fillers(dataDir), Buffer.alloc(Math.max(0, bavail * bsize - free)))
}

function limitFiles({ child }: Pick<Receiver, 'child'>, limit: string): void {
  execFileSync('prlimit', ['--pid', String(child.pid), `--fsize=${limit}:unlimited`])
}

/** A line that is shorter than others may still have found room: then it is ready for a moment. */
const isUnavailable = ({ readyz }: Pick<Started, 'readyz'>, code: string) =>
  until(`${code} is told`, async () => {
    const { status, journal } = await readyz()
    return status === 'unavailable' && journal?.includes(code)
  })

const filesOf = (dataDir: string) => readdirSync(journalDir(dataDir))

async function expectPromisesKept(
  { dataDir, rescued }: { dataDir: string; rescued: () => string[] },
  load: ReturnType<typeof startLoad>,
  what: string,
) {
  await until('every refused event came to stderr', () => rescued().length >= load.refused().length)
  for (const { path } of await listSegments(dataDir)) expect(readFileSync(path, 'latin1')).toMatch(/^([^\0\n]+\n)*$/)
  const read: (string | undefined)[] = []
  const skipped: string[] = []
  const log = pino({}, { write: (line) => void skipped.push(line) })
  for await (const { entries } of readJournal({ dataDir, from: oldest, log }))
    read.push(...entries.map(({ event }) => event.object))
  const { lost, doubled } = lostOrDoubled(load.acknowledged(), read)
  process.stdout.write(
    `${what}: ${load.total()} posts, ${load.acknowledged().length} acknowledged, ${load.refused().length} refused, ` +
      `${rescued().length} on stderr, ${lost.length} lost, ${doubled.length} doubled\n`,
  )
  expect(load.statuses()).toEqual(new Set([200, 503]))
  expect([...load.bodies].sort()).toEqual([
    '{"status":"error","error":"journal_unavailable"}',
    '{"status":"ok","message":"event accepted"}',
  ])
  expect({ lost, doubled, skipped }).toEqual({ lost: [], doubled: [], skipped: [] })
  expect(rescued().sort()).toEqual(load.refused().sort())
  // What was refused is not handled behind the sender's back.
  expect(load.refused().filter((object) => read.includes(object))).toEqual([])
}

test.skipIf(!canMount)(
  'when a disk fills under load, posts get 503, no acknowledged event is lost, and it recovers (tmpfs)',
  async () => {
    const dataDir = smallDisk('4M')
    const receiver = await start({ dataDir })
    const load = startLoad(receiver.url)
    for (let round = 1; round <= rounds; round++) {
      const before = load.acknowledged().length
      await until('some are acknowledged', () => load.acknowledged().length > before + 50)
      fill(dataDir, 30_000)
      const files = filesOf(dataDir).length
      const refusedBefore = load.refused().length
      await until('the disk is full', () => load.refused().length >= refusedBefore + 200)
      await isUnavailable(receiver, 'ENOSPC')
      expect(filesOf(dataDir).length).toBeLessThan(files + 5)
      rmSync(fillers(dataDir))
      await until('it is ready again', async () => (await receiver.readyz()).status === 'ready')
    }
    await load.stop()

    // The same without a post that would find it out.
    fill(dataDir, 0)
    const last = startLoad(receiver.url, { clients: 1, from: 1e6 })
    await until('one is refused', () => last.refused().length > 0)
    await last.stop()
    rmSync(fillers(dataDir))
    await until('it is ready again', async () => (await receiver.readyz()).status === 'ready')
    for (const [object, status] of last.answers) load.answers.set(object, status)
    expect(await receiver.stop()).toEqual({ code: 0, signal: null })
    const cut = filesOf(dataDir).filter((name) => name.endsWith('.cut'))
    expect(cut.filter((name) => statSync(join(journalDir(dataDir), name)).size === 0)).toEqual([])
    await expectPromisesKept(receiver, load, 'full disk')
  },
)

test('files that may not grow, so that a write takes half a line: the same', async () => {
  const receiver = await start()
  const load = startLoad(receiver.url)
  for (let round = 1; round <= rounds + 1; round++) {
    const before = load.acknowledged().length
    await until('some are acknowledged', () => load.acknowledged().length > before + 50)
    // In the middle of the first line.
    limitFiles(receiver, '100')
    const files = filesOf(receiver.dataDir).length
    const refusedBefore = load.refused().length
    await until('some are refused', () => load.refused().length >= refusedBefore + 200)
    await isUnavailable(receiver, 'EFBIG')
    expect(filesOf(receiver.dataDir).length).toBeLessThan(files + 5)
    limitFiles(receiver, 'unlimited')
    await until('it is ready again', async () => (await receiver.readyz()).status === 'ready')
  }
  await load.stop()
  await receiver.stop()
  await expectPromisesKept(receiver, load, 'file-size limit')
})

/** Lets system calls on the segment being written fail, once each thread; resolves when strace is at work. */
async function failOnce({ child, dataDir }: Pick<Receiver, 'child' | 'dataDir'>, fault: string) {
  const segment = (await listSegments(dataDir)).at(-1)?.path ?? ''
  const trace = join(temporaryFolder('trace'), 'trace')
  const calls = 'trace=write,writev,pwrite64,pwritev,fdatasync,fsync,close,truncate'
  const args = ['-f', '-y', '-s', '0', '-P', segment, '-e', calls, '-e', `inject=${fault}`, '-o', trace]
  const strace = spawn('strace', [...args, '-p', String(child.pid)], { stdio: ['ignore', 'ignore', 'pipe'] })
  onTestFinished(() => void strace.kill('SIGKILL'))
  let said = ''
  strace.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text
  })
  await until('strace is at work', () => said.includes('attached'))
  return { segment, calls: () => readFileSync(trace, 'utf8').split('\n') }
}

test.skipIf(!canTrace).for([
  ['an fsync', 'fdatasync:error=EIO:when=5'],
  ['a write', 'write,pwrite64:error=EIO:when=5'],
  ['a write, on a disk that is full for a moment,', 'write,pwrite64:error=ENOSPC:when=5'],
] as const)(
  '%s fails once: its posts get 503, its segment is never written again, the next takes over (strace)',
  async ([what, fault]) => {
    const receiver = await start({ env: { SEGMENT_SIZE: '64MB' } })
    const load = startLoad(receiver.url)
    await until('some are acknowledged', () => load.acknowledged().length > 50)
    const { segment, calls } = await failOnce(receiver, fault)
    await until('it failed', () => load.refused().length > 0)
    const before = load.acknowledged().length
    await until('posts are accepted again', () => load.acknowledged().length > before + 100)
    await load.stop()
    expect(await receiver.stop()).toEqual({ code: 0, signal: null })
    await expectPromisesKept(receiver, load, `${what} fails once`)
    expect(receiver.logged('the journal cannot be written')).toHaveLength(1)
    expect((await listSegments(receiver.dataDir)).map(({ path }) => path)).toEqual([segment, expect.any(String)])
    const made = calls()
    const failed = made.findIndex((call) => call.includes('INJECTED'))
    const after = made.slice(failed + 1).filter((call) => / (p?writev?(64)?|f\w*sync)\(/.test(call))
    expect({ failed: failed > 0, after }).toEqual({ failed: true, after: [] })
  },
)

test.skipIf(!canTrace)('a close that fails refuses no post: what it closes is on disk (strace)', async () => {
  const receiver = await start({ env: { SEGMENT_SIZE: '64KB' } })
  const load = startLoad(receiver.url)
  await until('some are acknowledged', () => load.acknowledged().length > 10)
  const { calls } = await failOnce(receiver, 'close:error=EIO')
  await until('it failed', () => calls().some((call) => call.includes('INJECTED')))
  const before = load.acknowledged().length
  await until('posts are accepted', () => load.acknowledged().length > before + 100)
  await load.stop()
  expect(await receiver.stop()).toEqual({ code: 0, signal: null })
  expect(load.refused()).toEqual([])
  const found = (await receiver.journal()).map(({ object }) => object)
  expect(lostOrDoubled(load.acknowledged(), found)).toEqual({ lost: [], doubled: [] })
})
