import { appendFileSync, rmSync } from 'node:fs'
import { expect, test } from 'vitest'
import { listSegments } from '../../../src/journal/segments.ts'
import { queuePath } from '../../../src/queue/sqlite/queue.ts'
import { jsonLines, linesOf, runCli } from '../../support/cli.ts'
import { idOf, writeJournal } from '../../support/journal.ts'
import { dealBody, startReceiver, until } from '../../support/receiver.ts'

test('events are found beside a receiver that runs, with their outcome, and also when it has stopped', async () => {
  const receiver = await startReceiver({
    env: { B24_APPLICATION_TOKEN: 'sales=test0token0test0token0test0token' },
    handlers: {
      'ONCRMDEALUPDATE.mjs': `import { FinalError } from 'bitrix24-webhook-receiver'
export default ({ object }) => {
  if (object === 'deal:2') throw new FinalError('no such deal')
  if (object === 'deal:3') throw new Error('not now')
}`,
      'all.mjs': `import { defineHandler } from 'bitrix24-webhook-receiver'\nexport default defineHandler('*', () => {})`,
    },
  })
  for (const id of [1, 2, 3]) await receiver.post(dealBody(id))
  await until('all ran', () => receiver.logged('handled').length === 4)
  await until('one failed', () => receiver.logged('failed, will be tried again').length > 0)
  await until('one is dead', () => receiver.logged('failed for good: this delivery is dead').length === 1)

  const find = () => runCli({ env: { DATA_DIR: receiver.dataDir } }, 'events')
  const { code, stdout, stderr } = await find()
  const [first, second, third] = await receiver.journal()
  expect([code, stderr]).toEqual([0, '3 events\n'])
  const time = (event = first) =>
    String(Reflect.get(event ?? {}, 'time'))
      .slice(0, 19)
      .replace('T', ' ')
  expect(linesOf(stdout).map((line) => line.split(/ {2,}/))).toEqual([
    ['time', 'id', 'event', 'object', 'webhook', 'deliveries'],
    [time(), first?.id, 'ONCRMDEALUPDATE', 'deal:1', 'sales', 'done ×2'],
    [time(second), second?.id, 'ONCRMDEALUPDATE', 'deal:2', 'sales', 'dead, done'],
    [time(third), third?.id, 'ONCRMDEALUPDATE', 'deal:3', 'sales', 'waiting, done'],
  ])
  await receiver.stop()
  expect((await find()).stdout).toBe(stdout)
})

test('twenty of the newest are shown, or as many as are wanted, and how many there are is said', async () => {
  const dataDir = await writeJournal(
    Array.from({ length: 15 }, () => ({ object: 'deal:1' })),
    Array.from({ length: 30 }, (_, at) => ({ object: `deal:${at % 2}` })),
  )
  const find = async (...args: string[]) => {
    const { stdout, stderr } = await runCli({ env: { DATA_DIR: dataDir } }, 'events', '--json', ...args)
    return { numbers: jsonLines(stdout).map(({ id }) => Number(String(id).slice(-12))), stderr }
  }
  const { numbers, stderr } = await find('--object', 'deal:1')
  expect(numbers).toHaveLength(20)
  expect(numbers.slice(-2)).toEqual([43, 45])
  expect(stderr).toBe('the last 20 of 30 events: -n 30 shows all of them\n')
  expect((await find('--object', 'deal:1', '-n', '30')).stderr).toBe('30 events\n')
  expect((await find()).numbers).toEqual(Array.from({ length: 20 }, (_, at) => at + 26))
  expect((await find()).stderr).toBe('the last 20 events\n')
  expect(await find('--object', 'deal:1', '-n', '3')).toMatchObject({ numbers: [41, 43, 45] })
  expect(await find('--object', 'deal:3')).toEqual({ numbers: [], stderr: '' })
})

test('where no event fits that is said, and is no failure', async () => {
  const dataDir = await writeJournal([{}])
  const result = await runCli({ env: { DATA_DIR: dataDir } }, 'events', '--object', 'deal:1')
  expect([result.code, result.stdout]).toEqual([0, ''])
  expect(result.stderr).toContain('no event fits\n')
})

test('without dispatch.db the events are shown all the same, and it is said', async () => {
  const dataDir = await writeJournal([{}])
  rmSync(queuePath(dataDir), { force: true })
  const { code, stdout, stderr } = await runCli({ env: { DATA_DIR: dataDir } }, 'events')
  expect(code).toBe(0)
  expect(linesOf(stdout)).toEqual([
    expect.not.stringContaining('deliveries'),
    `2026-11-23 08:00:00  ${idOf(1)}  ONCRMDEALUPDATE  deal:662`,
  ])
  expect(stderr).toBe(
    `the deliveries cannot be read: ${queuePath(dataDir)} is not there: no handler has run yet\n1 event\n`,
  )
})

test('a line that is no event is passed over and reported', async () => {
  const receiver = await startReceiver()
  await receiver.post(dealBody(1))
  await receiver.stop()
  appendFileSync((await listSegments(receiver.dataDir)).at(-1)?.path ?? '', 'no json\n')
  const { code, stdout, stderr } = await runCli({ env: { DATA_DIR: receiver.dataDir } }, 'events', '--json')
  expect([code, jsonLines(stdout).length]).toEqual([0, 1])
  expect(stderr).toMatch(
    /^a line of the journal is no event; skipped: \{"segment":1,"offset":\d+,"skipped":1\}\n1 event\n$/,
  )
})
