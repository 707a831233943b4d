import { spawn } from 'node:child_process'
import { chmodSync, readFileSync } from 'node:fs'
import { describe, expect, onTestFinished, test } from 'vitest'
import { stableName } from '../../../src/journal/segments.ts'
import { cliScript, collect, jsonLines, linesOf, runCli, spawnCli } from '../../support/cli.ts'
import { writeJournal } from '../../support/journal.ts'
import { dealBody, startReceiver, temporaryFolder, until } from '../../support/receiver.ts'

const ids = (stdout: string) => jsonLines(stdout).map(({ id }) => Number(String(id).slice(-12)))

/** Deals 1 to 5, two leads and a task, over three segments and two webhooks. */
function someEvents(): Promise<string> {
  return writeJournal(
    [
      { object: 'deal:1', webhook: 'sales', at: '2026-11-23T08:00:00.000Z' },
      { object: 'deal:2', webhook: 'support', at: '2026-11-23T09:00:00.000Z' },
    ],
    [
      { object: 'lead:1', event: 'ONCRMLEADADD', at: '2026-11-23T10:00:00.000Z' },
      { object: 'deal:1', event: 'ONCRMDEALDELETE', webhook: 'sales', at: '2026-11-23T11:00:00.000Z' },
    ],
    [
      { object: 'deal:10', at: '2026-11-23T12:00:00.000Z', data: { note: '"object":"deal:1"', object: 'deal:1' } },
      { object: 'task:1', event: 'ONTASKUPDATE', at: '2026-11-23T13:00:00.000Z' },
    ],
  )
}

describe('tail', () => {
  test('shows the last ten, readable, in the time of this machine', async () => {
    const many = Array.from({ length: 12 }, (_, at) => ({ object: `deal:${at + 1}` }))
    const dataDir = await writeJournal(many.slice(0, 7), many.slice(7))
    const { code, stdout, stderr } = await runCli({ env: { DATA_DIR: dataDir, TZ: 'Asia/Tokyo' } }, 'tail')
    expect([code, stderr]).toEqual([0, ''])
    const lines = linesOf(stdout)
    expect(lines).toHaveLength(10)
    expect(lines[0]).toMatch(/^\[2026-11-23 17:00:00\] INFO: ONCRMDEALUPDATE deal:3 \{"id":/)
    expect(lines.at(-1)).toContain('ONCRMDEALUPDATE deal:12')
  })

  test('with --json shows the lines as they stand in the journal', async () => {
    const dataDir = await someEvents()
    const { stdout } = await runCli({ env: { DATA_DIR: dataDir } }, 'tail', '--json', '-n', '2')
    expect(stdout).toBe(readFileSync(stableName(dataDir), 'utf8'))
  })

  test.each<[string, string[], number[]]>([
    ['a name', ['--event', 'ONCRMDEALUPDATE'], [1, 2, 5]],
    ['a pattern, upper or lower case', ['--event', 'oncrmdeal*'], [1, 2, 4, 5]],
    ['several patterns', ['--event', 'ONCRMLEAD*', '--event', 'ONTASKUPDATE'], [3, 6]],
    ['an object, also where others name it in their data', ['--object', 'deal:1'], [1, 4]],
    ['a webhook', ['--webhook', 'sales'], [1, 4]],
    ['a time', ['--since', '2026-11-23T10:00:00Z'], [3, 4, 5, 6]],
    ['a span of time', ['--since', '2026-11-23T09:00:00Z', '--until', '2026-11-23T12:00:00Z'], [2, 3, 4]],
    ['all of it together', ['--event', 'ONCRMDEAL*', '--object', 'deal:1', '--webhook', 'sales', '-n', '1'], [4]],
    ['the last two of a name', ['--event', 'ONCRMDEALUPDATE', '-n', '2'], [2, 5]],
    ['the last two since a time', ['--since', '2026-11-23T10:00:00Z', '-n', '2'], [5, 6]],
    ['the last none', ['-n', '0'], []],
  ])('chooses by %s', async (_, args, expected) => {
    const dataDir = await someEvents()
    const { code, stdout, stderr } = await runCli({ env: { DATA_DIR: dataDir } }, 'tail', '--json', ...args)
    expect([code, stderr]).toEqual([0, ''])
    expect(ids(stdout)).toEqual(expected)
  })

  test('chooses by how long ago, also what a receiver has only just written', async () => {
    const receiver = await startReceiver()
    await receiver.post(dealBody(1))
    const { stdout } = await runCli({ env: { DATA_DIR: receiver.dataDir } }, 'tail', '--since', '5m', '--json')
    expect(jsonLines(stdout)).toEqual(await receiver.journal())
  })

  test('shows a name that would move the cursor as text', async () => {
    const dataDir = await writeJournal([{ event: 'ON\u001b[2JEVIL\u009b' }])
    const { stdout } = await runCli({ env: { DATA_DIR: dataDir } }, 'tail')
    expect(stdout).toContain('ON\\u001b[2JEVIL\\u009b deal:662')
    expect(stdout).not.toContain('\u001b')
  })

  test.each<[string, string[], string]>([
    ['a count that is none', ['-n', 'ten'], '-n takes a whole number'],
    ['a time that is none', ['--since', 'yesterday'], '--since takes how long ago, such as 30m'],
    ['a pattern that is none', ['--event', 'ON CRM'], '--event ON CRM is no name or pattern'],
    ['a word too many', ['deal:1'], '"deal:1" is an unexpected argument'],
    ['an option that there is not', ['--objekt', 'deal:1'], "Unknown option '--objekt'"],
  ])('exits with 64 and one line for %s', async (_, args, message) => {
    const { code, stdout, stderr } = await runCli({ env: { DATA_DIR: temporaryFolder('none') } }, 'tail', ...args)
    expect([code, stdout]).toEqual([64, ''])
    expect(stderr).toContain(message)
    expect(linesOf(stderr)).toHaveLength(1)
  })

  test('exits with 1 and one line where no receiver has written', async () => {
    const dataDir = temporaryFolder('none')
    expect(await runCli({ env: { DATA_DIR: dataDir } }, 'tail')).toEqual({
      code: 1,
      stdout: '',
      stderr: `b24-receiver tail: there is no journal in ${dataDir}: set DATA_DIR to the receiver's\n`,
    })
  })
})

describe('tail -f', () => {
  test('shows what comes, also in the next segment and after a restart, until Ctrl-C', async () => {
    const first = await startReceiver({ env: { SEGMENT_SIZE: '1KB' } })
    const following = spawnCli(
      {
        env: { DATA_DIR: first.dataDir },
      },
      'tail',
      '-f',
      '--json',
      '--event',
      'ONCRMDEALUPDATE',
    )
    const shown = () => jsonLines(following.said.stdout).map(({ object }) => object)
    for (const id of [1, 2, 3, 4, 5]) await first.post(dealBody(id))
    await until('five', () => shown().length === 5)
    await first.stop()
    const second = await startReceiver({ dataDir: first.dataDir })
    await second.post(dealBody(6))
    await until('six', () => shown().length === 6)
    following.child.kill('SIGINT')
    expect(await following.result).toMatchObject({ code: 0, stderr: '' })
    expect(shown()).toEqual(['deal:1', 'deal:2', 'deal:3', 'deal:4', 'deal:5', 'deal:6'])
  })

  test('into a reader that has enough ends without a word', async () => {
    const receiver = await startReceiver()
    const command = `"${process.execPath}" --disable-warning=ExperimentalWarning "${cliScript}" tail -f --json | head -n 1`
    const shell = spawn('bash', ['--norc', '-o', 'pipefail', '-c', command], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { PATH: process.env['PATH'], DATA_DIR: receiver.dataDir },
      detached: true,
    })
    onTestFinished(() => {
      try {
        process.kill(-(shell.pid ?? 0), 'SIGKILL')
      } catch {
        // It ended, as it should.
      }
    })
    const { result } = collect(shell)
    let isOver = false
    void result.then(() => {
      isOver = true
    })
    // The pipe breaks with the line after the last that was wanted.
    for (let id = 1; !isOver; id++) await receiver.post(dealBody(id))
    expect(await result).toEqual({ code: 0, stdout: expect.stringMatching(/^\{.*\}\n$/), stderr: '' })
  })

  test('of one object shows what there was, and goes on with what comes', async () => {
    const receiver = await startReceiver()
    for (const id of [1, 2]) await receiver.post(dealBody(id))
    const following = spawnCli({ env: { DATA_DIR: receiver.dataDir } }, 'tail', '-f', '--json', '--object', 'deal:2')
    const shown = () => jsonLines(following.said.stdout).map(({ object }) => object)
    await until('the first', () => shown().length === 1)
    for (const id of [3, 2]) await receiver.post(dealBody(id))
    await until('the second', () => shown().length === 2)
    expect(shown()).toEqual(['deal:2', 'deal:2'])
  })
})

test.runIf(process.getuid?.() === 0)('a user who may not read the journal gets that message on one line', async () => {
  const dataDir = await writeJournal([{}])
  chmodSync(dataDir, 0o700)
  const { code, stderr } = await runCli({ env: { DATA_DIR: dataDir }, uid: 65534 }, 'tail')
  expect([code, stderr]).toEqual([1, `b24-receiver tail: this user may not read ${dataDir}/journal\n`])
})
