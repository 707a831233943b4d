import { copyFileSync, cpSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { journalDir, listSegments } from '../../src/journal/segments.ts'
import { queuePath } from '../../src/queue/sqlite/queue.ts'
import { envOf, runCli } from '../support/cli.ts'
import { type Postgres, startPostgres } from '../support/postgres.ts'
import {
  dealBody,
  type Receiver,
  type ReceiverOptions,
  readRecorded,
  recorder,
  startReceiver,
  temporaryFolder,
  until,
} from '../support/receiver.ts'

const deals = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index)

/**
 * A stopped receiver with two segments: deals 1 and 2 in the first, 3 to 6 in the second, all of them handled. The second
 * is the one into which the journal was followed.
 */
async function lived(options: ReceiverOptions = {}) {
  const seen = join(temporaryFolder('seen'), 'seen')
  const handlers = { 'one.mjs': recorder(seen) }
  const dataDir = temporaryFolder('data')
  const start = (env: Record<string, string> = {}) =>
    startReceiver({ ...options, dataDir, handlers, env: { ...options.env, ...env } })
  const handled = () => readRecorded(seen).map(({ object }) => Number(object?.slice('deal:'.length)))
  const allHandled = (wanted: readonly number[]) =>
    until(
      () => `handled: ${wanted.join()}, are: ${handled().join()}`,
      () => wanted.every((id) => handled().includes(id)),
    )
  const live = async (from: number, to: number) => {
    const receiver = await start()
    await postDeals(receiver, from, to)
    await allHandled(deals(from, to))
    await receiver.stop()
  }
  await live(1, 2)
  await live(3, 6)
  const [first = '', second = ''] = (await listSegments(dataDir)).map(({ path }) => path)
  const cli = (receiver: Receiver, command: string) =>
    runCli({ env: { ...envOf(receiver), ...options.env } }, command).then(({ stdout }) => stdout)
  return { dataDir, start, cli, live, handled, allHandled, first, second }
}

async function postDeals(receiver: Receiver, from: number, to: number) {
  for (const id of deals(from, to)) expect((await receiver.post(dealBody(id))).status).toBe(200)
}

const numbersOf = async (dataDir: string) => (await listSegments(dataDir)).map(({ number }) => number)

/** Resolves with what `/readyz` says is wrong with the dispatcher, once it waits for somebody to choose. */
function waits(receiver: Receiver): Promise<string> {
  return until(
    () => `waiting\n${receiver.output()}`,
    async () => {
      const { status, dispatcher = '' } = (await receiver.readyz()) as { status: string; dispatcher?: string }
      return status === 'degraded' && dispatcher.includes('DISPATCH_FROM=oldest') ? dispatcher : undefined
    },
  )
}

const isReady = (receiver: Receiver) =>
  until(
    () => `ready\n${receiver.output()}`,
    async () => ((await receiver.readyz()) as { status: string }).status === 'ready',
  )

/** Posts are taken while it waits, and handled once somebody has chosen. */
async function goesOnFromChoice(life: Awaited<ReturnType<typeof lived>>, reason: RegExp) {
  const waiting = await life.start()
  expect(await waits(waiting)).toMatch(reason)
  await until('it is logged', () => waiting.output().includes('DISPATCH_FROM=now'))
  await postDeals(waiting, 7, 31)
  for (const command of ['status', 'doctor', 'verify']) expect(await life.cli(waiting, command)).toMatch(reason)
  await waiting.stop()
  expect(life.handled().filter((id) => id > 6)).toEqual([])
  const chosen = await life.start({ DISPATCH_FROM: 'oldest' })
  await life.allHandled(deals(7, 31))
  await isReady(chosen)
  await chosen.stop()
  // It was for that once.
  const after = await life.start()
  await isReady(after)
  await after.stop()
  return numbersOf(life.dataDir)
}

describe.each([
  ['dispatch.db', undefined],
  ['Postgres', () => startPostgres()],
] as const)('with %s, where the segment that was followed', (_, startDatabase) => {
  let postgres: Postgres | undefined
  beforeAll(async () => {
    postgres = await startDatabase?.()
  })
  afterAll(() => postgres?.remove())

  const begin = async () =>
    lived(postgres ? { env: { DATABASE_URL: postgres.url(await postgres.createDatabase()) } } : {})

  test('was removed while the receiver was stopped, the handlers wait, and its number is not used again', async () => {
    const life = await begin()
    rmSync(life.second)
    rmSync(join(life.dataDir, 'events.ndjson'))
    const numbers = await goesOnFromChoice(life, /followed into segment 2, and that is gone/)
    expect(numbers.slice(0, 2)).toEqual([1, 3])
  })

  test('is another one of that number, the handlers wait', async () => {
    const life = await begin()
    // Longer than what was followed, so that every event of it would be passed over.
    const lines = readFileSync(life.second, 'utf8')
    writeFileSync(life.second, lines.repeat(7).replaceAll('"id":"0', '"id":"1'))
    const numbers = await goesOnFromChoice(life, /begins with event 1.*that was followed began with 0.*another one/)
    expect(numbers.slice(0, 3)).toEqual([1, 2, 3])
  })

  test('and another have one number, the handlers wait', async () => {
    const life = await begin()
    copyFileSync(life.first, life.second.replace(/\d{4}-\d{2}-\d{2}/, '2020-01-01'))
    const waiting = await life.start()
    const reason = /000000000002-2020-01-01\.ndjson and .*000000000002-.* have one number/
    expect(await waits(waiting)).toMatch(reason)
    await postDeals(waiting, 7, 9)
    expect(await life.cli(waiting, 'verify')).toContain('has a number that is taken')
    await waiting.stop()
    rmSync(life.second.replace(/\d{4}-\d{2}-\d{2}/, '2020-01-01'))
    await life.start()
    await life.allHandled(deals(1, 9))
  })

  test('is newer than all of a journal that was put back from a backup, the handlers wait', async () => {
    const life = await begin()
    cpSync(journalDir(life.dataDir), join(life.dataDir, 'backup'), { recursive: true })
    await life.live(7, 7)
    await life.live(8, 8)
    rmSync(journalDir(life.dataDir), { recursive: true })
    for (const name of ['journal.json', 'events.ndjson']) rmSync(join(life.dataDir, name))
    renameSync(join(life.dataDir, 'backup'), journalDir(life.dataDir))
    const waiting = await life.start()
    expect(await waits(waiting)).toMatch(/followed into segment 4, and (that is gone|there is none so new)/)
    await postDeals(waiting, 9, 12)
    await waiting.stop()
    // Other starts give it as many segments as the lost journal had, and more.
    for (const id of [13, 14]) {
      const again = await life.start()
      await postDeals(again, id, id)
      await waits(again)
      await again.stop()
    }
    await life.start({ DISPATCH_FROM: 'oldest' })
    await life.allHandled(deals(9, 14))
  })

  test('went because a power cut took back all of it, nothing waits and nothing is passed over', async () => {
    const life = await begin()
    truncateSync(life.second)
    await (await life.start()).stop()
    expect(await numbersOf(life.dataDir)).toEqual([1, 3])
    const receiver = await life.start()
    await postDeals(receiver, 7, 8)
    await life.allHandled([7, 8])
    expect(receiver.output()).not.toContain('DISPATCH_FROM')
  })

  test('begins with a line that is damaged, nothing waits', async () => {
    const life = await begin()
    const bytes = readFileSync(life.second)
    writeFileSync(life.second, bytes.fill(0, 0, 70))
    const receiver = await life.start()
    await postDeals(receiver, 7, 8)
    await life.allHandled([7, 8])
    expect(receiver.output()).not.toContain('DISPATCH_FROM')
  })
})

describe('a number that a segment had', () => {
  test.each([
    ['journal.json', ['journal.json']],
    ['dispatch.db', ['dispatch.db', 'dispatch.db-wal', 'dispatch.db-shm']],
  ])('is known without %s', async (_, names) => {
    const { dataDir, start, second } = await lived()
    for (const name of names) rmSync(join(dataDir, name), { force: true })
    rmSync(second)
    rmSync(join(dataDir, 'events.ndjson'))
    const receiver = await start()
    await waits(receiver)
    expect(await numbersOf(dataDir)).toEqual([1, 3])
  })

  test('does not come again in a journal that was moved away, and moved back it waits for a choice', async () => {
    const { dataDir, start, allHandled } = await lived()
    const away = join(dataDir, 'away')
    renameSync(journalDir(dataDir), away)
    rmSync(join(dataDir, 'events.ndjson'))
    const receiver = await start()
    await postDeals(receiver, 7, 8)
    await allHandled([7, 8])
    const lost = 'the journal is empty, and was followed before: what was not followed is lost'
    expect(receiver.logged(lost)).toMatchObject([{ segment: 2 }])
    await receiver.stop()
    expect(await numbersOf(dataDir)).toEqual([3])
    renameSync(journalDir(dataDir), join(dataDir, 'newer'))
    rmSync(join(dataDir, 'events.ndjson'))
    renameSync(away, journalDir(dataDir))
    expect(await waits(await start())).toMatch(/followed into segment 3, and that is gone/)
    expect(await numbersOf(dataDir)).toEqual([1, 2, 4])
  })
})

test('a position that an earlier version kept learns of its segment with the next events', async () => {
  const { dataDir, start, allHandled, second } = await lived()
  const open = () => new DatabaseSync(queuePath(dataDir))
  const before = open()
  before.exec('UPDATE position SET first = NULL')
  before.close()
  const receiver = await start()
  await postDeals(receiver, 7, 7)
  await allHandled([7])
  await receiver.stop()
  const after = open()
  const { segment, first } = after.prepare('SELECT segment, first FROM position').get() ?? {}
  after.close()
  expect(segment).toBe(3)
  const third = (await receiver.journal()).find(({ object }) => object === 'deal:7')
  expect(first).toBe(third?.id)
  expect(basename(second)).toContain('000000000002')
})
