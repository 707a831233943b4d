import { appendFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { listSegments } from '../../../src/journal/segments.ts'
import { queuePath } from '../../../src/queue/sqlite/queue.ts'
import { jsonLines, runCli } from '../../support/cli.ts'
import { writeJournal } from '../../support/journal.ts'
import { dealBody, recorder, startReceiver, temporaryFolder, until } from '../../support/receiver.ts'

test('beside a receiver that writes, begins segments and follows them, it never cries wolf', async () => {
  const seen = temporaryFolder('seen')
  const receiver = await startReceiver({
    env: { SEGMENT_SIZE: '1KB' },
    handlers: { 'all.mjs': recorder(`${seen}/seen`) },
  })
  let isOver = false
  const posting = [1, 2, 3].map(async (deal) => {
    while (!isOver) await receiver.post(dealBody(deal))
  })
  await until('two segments are full', async () => (await listSegments(receiver.dataDir)).length > 2)
  for (let round = 1; round <= 3; round++) {
    const { code, stdout, stderr } = await runCli({ env: { DATA_DIR: receiver.dataDir } }, 'verify', '--json')
    expect([code, stderr]).toEqual([0, ''])
    const [verdict, ...more] = jsonLines(stdout)
    expect(more).toEqual([])
    expect(verdict).toMatchObject({ troubles: 0 })
    expect(verdict?.['segments']).toBeGreaterThan(1)
  }
  isOver = true
  await Promise.all(posting)
})

test('of a receiver that has stopped it says how much there is, and that nothing is wrong with it', async () => {
  const receiver = await startReceiver()
  for (const id of [1, 2, 3]) await receiver.post(dealBody(id))
  await receiver.stop()
  const { code, stdout, stderr } = await runCli({ env: { DATA_DIR: receiver.dataDir } }, 'verify')
  expect([code, stderr]).toEqual([0, ''])
  const time = String.raw`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`
  expect(stdout).toMatch(new RegExp(`^1 segment, 3 lines, 0\\.0 MB, from ${time} to ${time}\nno trouble\n$`))
})

test('each trouble is a line with its file and byte, and the exit code is 1', async () => {
  const dataDir = await writeJournal([{ at: '2026-11-23T08:00:00.000Z' }, { at: '2026-11-23T07:00:00.000Z' }])
  const [segment] = await listSegments(dataDir)
  const path = segment?.path ?? ''
  appendFileSync(path, 'no json\n{"event":"E"}\n')
  const { code, stdout, stderr } = await runCli({ env: { DATA_DIR: dataDir } }, 'verify')
  expect(code).toBe(1)
  const [first, second, ...rest] = stdout.split('\n')
  const offset = Number(/:(\d+): is no JSON$/.exec(first ?? '')?.[1])
  expect(first).toBe(`${path}:${offset}: is no JSON`)
  expect(second).toBe(`${path}:${offset + 8}: is no event: it has no level`)
  expect(rest).toEqual([
    '1 segment, 4 lines, 0.0 MB, from 2026-11-23 08:00:00 to 2026-11-23 07:00:00',
    '2 troubles',
    '',
  ])
  expect(stderr).toBe(
    `the deliveries cannot be read: ${queuePath(dataDir)} is not there: no handler has run yet\n` +
      'the clock was set back: 1 line older than the one before\n',
  )
  const json = await runCli({ env: { DATA_DIR: dataDir } }, 'verify', '--json')
  expect([json.code, jsonLines(json.stdout)]).toEqual([
    1,
    [
      { path, offset, what: 'is no JSON' },
      { path, offset: offset + 8, what: 'is no event: it has no level' },
      expect.objectContaining({ lines: 4, troubles: 2, setBack: 1 }),
    ],
  ])
})
