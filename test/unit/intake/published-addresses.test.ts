import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, onTestFinished, test, vi } from 'vitest'
import { openPublishedAddresses, type PublishedDeps, publishedLists } from '../../../src/intake/published-addresses.ts'
import { StartError } from '../../../src/lib/start-error.ts'
import { createLines } from '../../support/intake.ts'
import { nodes, russia, startPublisher, world } from '../../support/published.ts'
import { temporaryFolder } from '../../support/receiver.ts'

const patient = { timeout: 60_000, interval: 5 }
const quick = { refresh: 20, again: 20, timeoutMs: 5000 }
const unreachable = 'a list of allowed addresses cannot be had'
const changed = 'the allowed addresses changed'

/** A publisher, and what opens its lists. */
async function setUp(answers: Parameters<typeof startPublisher>[0] = {}) {
  const publisher = await startPublisher(answers)
  const urls = [publisher.urlOf(world), publisher.urlOf(russia)]
  const dataDir = temporaryFolder('data')
  const { log, lines, text } = createLines()
  return {
    ...publisher,
    dataDir,
    lines,
    text,
    file: join(dataDir, 'allowed-ips.json'),
    logged: (msg: string) => lines.filter((line) => line['msg'] === msg),
    async open(times: PublishedDeps['times'] = {}) {
      const published = await openPublishedAddresses({ dataDir, log, urls, times })
      onTestFinished(published.close)
      return published
    },
    /** As an earlier run left it. */
    writeCopy(copies: Record<string, { fetchedAt?: unknown; addresses?: unknown }>) {
      const byUrl = Object.entries(copies).map(([path, copy]) => [publisher.urlOf(path), copy])
      writeFileSync(join(dataDir, 'allowed-ips.json'), JSON.stringify(Object.fromEntries(byUrl)))
    },
    readCopy: (): unknown => JSON.parse(readFileSync(join(dataDir, 'allowed-ips.json'), 'utf8')),
  }
}

const longAgo = '2026-01-02T03:04:05.678Z'

test('the lists are those of both zones', () => {
  expect(publishedLists).toEqual([
    'https://dl.bitrix24.com/webhook/app-world.json',
    'https://repos.1c-bitrix.ru/webhook/app.json',
  ])
})

test('the addresses of all lists are allowed, and are on disk', async () => {
  const lists = await setUp({ [world]: nodes('3.217.33.54'), [russia]: '["195.208.184.200"]' })
  const { has } = await lists.open()
  expect(['3.217.33.54', '195.208.184.200', '203.0.113.7'].map(has)).toEqual([true, true, false])
  await vi.waitFor(() => expect(existsSync(lists.file)).toBe(true), patient)
  await vi.waitFor(() => {
    expect(lists.readCopy()).toEqual({
      [lists.urlOf(world)]: { fetchedAt: expect.stringMatching(/^20.*Z$/), addresses: ['3.217.33.54'] },
      [lists.urlOf(russia)]: { fetchedAt: expect.stringMatching(/^20.*Z$/), addresses: ['195.208.184.200'] },
    })
  }, patient)
  expect(lists.lines.at(-1)).toMatchObject({ level: 30, addresses: 2, msg: changed })
})

test('a list that changes is reported with how many came and went, and is on disk', async () => {
  const lists = await setUp({ [world]: nodes('3.217.33.54', '3.217.33.55'), [russia]: '["195.208.184.200"]' })
  const { has } = await lists.open(quick)
  lists.answer(world, nodes('3.217.33.55', '52.29.163.104', '52.29.163.105'))
  await vi.waitFor(() => expect(has('52.29.163.104')).toBe(true), patient)
  expect(['3.217.33.54', '3.217.33.55', '195.208.184.200'].map(has)).toEqual([false, true, true])
  expect(lists.logged(changed).at(-1)).toMatchObject({ level: 30, added: 2, removed: 1, addresses: 4 })
  await vi.waitFor(() => expect(readFileSync(lists.file, 'utf8')).toContain('52.29.163.104'), patient)
})

test('the file is a whole one at every moment', async () => {
  const lists = await setUp({ [world]: nodes('3.217.33.54'), [russia]: '["195.208.184.200"]' })
  await lists.open({ ...quick, refresh: 1 })
  await vi.waitFor(() => expect(existsSync(lists.file)).toBe(true), patient)
  const enough = lists.asked(world) + 50
  while (lists.asked(world) < enough) {
    expect(lists.readCopy()).toHaveProperty([lists.urlOf(world)])
    await nextTurn()
  }
})

test('a list that stays as it is is not reported again', async () => {
  const lists = await setUp({ [world]: nodes('3.217.33.54', '3.217.33.55'), [russia]: '["195.208.184.200"]' })
  await lists.open(quick)
  const told = lists.lines.length
  lists.answer(world, nodes('3.217.33.55', '3.217.33.54'))
  const asked = lists.asked(world)
  await vi.waitFor(() => expect(lists.asked(world)).toBeGreaterThan(asked + 2), patient)
  expect(lists.lines).toHaveLength(told)
})

test.each([
  ['at a status of 500', undefined],
  ['when it is empty', '[]'],
  ['when it is no list', '<html></html>'],
])(
  'a list that cannot be had, %s, counts as it last was, and is reported once until it works again',
  async (_, bad) => {
    const lists = await setUp({ [world]: nodes('3.217.33.54'), [russia]: '["195.208.184.200"]' })
    const { has } = await lists.open(quick)
    const fails = async () => {
      const asked = lists.asked(world)
      lists.answer(world, bad)
      await vi.waitFor(() => expect(lists.asked(world)).toBeGreaterThan(asked + 3), patient)
    }
    await fails()
    expect(['3.217.33.54', '195.208.184.200'].map(has)).toEqual([true, true])
    expect(lists.logged(unreachable)).toEqual([
      expect.objectContaining({
        level: 40,
        url: lists.urlOf(world),
        reason: expect.any(String),
        last_good: expect.stringMatching(/Z$/),
      }),
    ])
    lists.answer(world, nodes('3.217.33.54'))
    await vi.waitFor(
      () => expect(lists.logged('a list of allowed addresses can be had again')).toHaveLength(1),
      patient,
    )
    await fails()
    expect(lists.logged(unreachable)).toHaveLength(2)
  },
)

test('while one list cannot be had, the other is followed', async () => {
  const lists = await setUp({ [world]: nodes('3.217.33.54'), [russia]: '["195.208.184.200"]' })
  const { has } = await lists.open(quick)
  lists.answer(world, null)
  lists.answer(russia, '["89.208.230.2"]')
  await vi.waitFor(() => expect(has('89.208.230.2')).toBe(true), patient)
  expect(['3.217.33.54', '195.208.184.200'].map(has)).toEqual([true, false])
})

test('a list that could not be had is asked for again sooner than in five minutes', async () => {
  const lists = await setUp({ [russia]: '["195.208.184.200"]' })
  const { has } = await lists.open({ again: 20 })
  lists.answer(world, nodes('3.217.33.54'))
  await vi.waitFor(() => expect(has('3.217.33.54')).toBe(true), patient)
})

test('one list is enough for a first start, and the missing one is named', async () => {
  const lists = await setUp({ [russia]: '["195.208.184.200"]' })
  const { has } = await lists.open()
  expect(['195.208.184.200', '3.217.33.54'].map(has)).toEqual([true, false])
  expect(lists.logged(unreachable)).toEqual([
    expect.objectContaining({
      level: 40,
      url: lists.urlOf(world),
      reason: 'it answered with status 500',
      last_good: 'none: posts from its addresses are refused',
    }),
  ])
})

test('a first start without any list fails, with the reasons and what to do, and leaves no file', async () => {
  const lists = await setUp({ [world]: '<html></html>', [russia]: null })
  const failed = lists.open({ timeoutMs: 2_000 })
  await expect(failed).rejects.toThrow(StartError)
  await expect(failed).rejects.toThrow(
    `B24_ALLOWED_IPS=auto, but no list of Bitrix24's addresses can be had, and DATA_DIR has no copy of an earlier one:
  ${lists.urlOf(world)}  it is no JSON
  ${lists.urlOf(russia)}  no answer in 2 s
Let this machine reach one of them, or set B24_ALLOWED_IPS to addresses, or unset it to take posts from anywhere`,
  )
  expect(readdirSync(lists.dataDir)).toEqual([])
})

test('the copy on disk counts at once, while the lists are still asked for', async () => {
  const lists = await setUp({ [world]: null, [russia]: null })
  lists.writeCopy({
    [world]: { fetchedAt: longAgo, addresses: ['3.217.33.54'] },
    [russia]: { fetchedAt: longAgo, addresses: ['195.208.184.200'] },
  })
  const { has } = await lists.open()
  expect(['3.217.33.54', '195.208.184.200', '203.0.113.7'].map(has)).toEqual([true, true, false])
  await vi.waitFor(() => expect([lists.asked(world), lists.asked(russia)]).toEqual([1, 1]), patient)
})

test('the copy on disk counts while the lists cannot be had, and the log says how old it is', async () => {
  const lists = await setUp()
  lists.writeCopy({ [world]: { fetchedAt: longAgo, addresses: ['3.217.33.54'] } })
  const { has } = await lists.open(quick)
  await vi.waitFor(() => expect(lists.logged(unreachable)).toHaveLength(2), patient)
  expect(has('3.217.33.54')).toBe(true)
  expect(lists.logged(unreachable)).toContainEqual(
    expect.objectContaining({ url: lists.urlOf(world), last_good: longAgo }),
  )
})

test('what an earlier run read is what the next one begins with', async () => {
  const lists = await setUp({ [world]: nodes('3.217.33.54'), [russia]: '["195.208.184.200"]' })
  const first = await lists.open()
  await first.close()
  lists.answer(world, null)
  lists.answer(russia, null)
  const { has } = await lists.open()
  expect(['3.217.33.54', '195.208.184.200'].map(has)).toEqual([true, true])
})

test('a restart within a minute does not ask again: Bitrix24 wants to be asked once a minute at most', async () => {
  const lists = await setUp({ [world]: nodes('3.217.33.55'), [russia]: '["195.208.184.200"]' })
  lists.writeCopy({
    [world]: { fetchedAt: new Date().toISOString(), addresses: ['3.217.33.54'] },
    [russia]: { fetchedAt: new Date(Date.now() + 3_600_000).toISOString(), addresses: ['89.208.230.2'] },
  })
  const { has } = await lists.open({ refresh: 20 })
  // The clock was set back since, so that one may be as old as it likes.
  await vi.waitFor(() => expect(lists.asked(russia)).toBeGreaterThan(2), patient)
  expect(lists.asked(world)).toBe(0)
  expect(has('3.217.33.54')).toBe(true)
})

test.each<[string, (lists: Awaited<ReturnType<typeof setUp>>) => void]>([
  ['is broken', ({ file }) => writeFileSync(file, '{"https')],
  ['is null', ({ file }) => writeFileSync(file, 'null')],
  ['is a folder', ({ file }) => mkdirSync(file)],
  ['has an empty list', (lists) => lists.writeCopy({ [world]: { fetchedAt: longAgo, addresses: [] } })],
  ['has no address', (lists) => lists.writeCopy({ [world]: { fetchedAt: longAgo, addresses: ['0.0.0.0/0'] } })],
  ['has no time', (lists) => lists.writeCopy({ [world]: { fetchedAt: 'x', addresses: ['203.0.113.7'] } })],
  ['has lists of others', (lists) => lists.writeCopy({ '/x': { fetchedAt: longAgo, addresses: ['203.0.113.7'] } })],
])('a copy that %s is none: the lists are waited for', async (_, spoil) => {
  const lists = await setUp({ [world]: nodes('3.217.33.54'), [russia]: '["195.208.184.200"]' })
  spoil(lists)
  const { has } = await lists.open()
  expect(['3.217.33.54', '195.208.184.200', '203.0.113.7'].map(has)).toEqual([true, true, false])
})

test('a copy that cannot be written is reported once, and the lists are followed', async () => {
  const lists = await setUp({ [world]: nodes('3.217.33.54'), [russia]: '["195.208.184.200"]' })
  mkdirSync(lists.file)
  const { has } = await lists.open(quick)
  lists.answer(world, nodes('52.29.163.104'))
  await vi.waitFor(() => expect(has('52.29.163.104')).toBe(true), patient)
  const asked = lists.asked(world)
  await vi.waitFor(() => expect(lists.asked(world)).toBeGreaterThan(asked + 2), patient)
  expect(lists.logged('the copy of the allowed addresses cannot be written')).toHaveLength(1)
})

test('a stop waits for no list, and is not reported as a failure', async () => {
  const lists = await setUp({ [world]: nodes('3.217.33.54'), [russia]: '["195.208.184.200"]' })
  const published = await lists.open(quick)
  lists.answer(world, null)
  const asked = lists.asked(world)
  await vi.waitFor(() => expect(lists.asked(world)).toBeGreaterThan(asked), patient)
  await published.close()
  expect(lists.logged(unreachable)).toEqual([])
  expect(readdirSync(lists.dataDir)).toEqual(['allowed-ips.json'])
})
