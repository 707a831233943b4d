import { chmodSync, chownSync, existsSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { queuePath } from '../../../src/queue/sqlite/queue.ts'
import { linesOf, runCli } from '../../support/cli.ts'
import { dealBody, type Receiver, startReceiver, temporaryFolder, until } from '../../support/receiver.ts'

const somebody = 65534

/** A data folder that a group may read, as docs/operations.md says, and a deal that was handled. */
async function start(): Promise<Receiver> {
  const dataDir = temporaryFolder('data')
  // The system takes the bit of the group's inheritance away from a folder that changes hands.
  chownSync(dataDir, 0, somebody)
  chmodSync(dataDir, 0o2750)
  const receiver = await startReceiver({ dataDir, handlers: { 'ONCRMDEALUPDATE.mjs': 'export default () => {}' } })
  await receiver.post(dealBody(1))
  await until('handled', () => receiver.logged('handled').length === 1)
  return receiver
}

/** Every name and time of the folder: who may only read leaves nothing behind. */
function stateOf(dataDir: string) {
  return readdirSync(dataDir, { recursive: true, encoding: 'utf8' }).map((name) => {
    const { size, mtimeMs, uid } = statSync(join(dataDir, name))
    return { name, size, mtimeMs, uid }
  })
}

async function expectAllIsRead({ dataDir, journal }: Receiver): Promise<void> {
  const before = stateOf(dataDir)
  const run = (...args: string[]) => runCli({ env: { DATA_DIR: dataDir }, uid: somebody }, ...args)
  const [event] = await journal()
  const { stdout, stderr, code } = await run('events')
  expect([code, stderr]).toEqual([0, '1 event\n'])
  expect(linesOf(stdout)[1]).toMatch(/ ONCRMDEALUPDATE +deal:1 +done$/)
  expect(await run('show', event?.id ?? '')).toMatchObject({
    code: 0,
    stderr: '',
    stdout: expect.stringContaining('ONCRMDEALUPDATE: done after 1 attempt'),
  })
  expect(await run('verify')).toMatchObject({ code: 0, stderr: '', stdout: expect.stringMatching(/\nno trouble\n$/) })
  expect(await run('tail', '--json')).toMatchObject({ code: 0, stderr: '' })
  expect(stateOf(dataDir)).toEqual(before)
}

describe.runIf(process.getuid?.() === 0)('a user who may only read sees everything, and leaves nothing behind', () => {
  test('beside a receiver that runs', async () => {
    const receiver = await start()
    expect(existsSync(`${queuePath(receiver.dataDir)}-wal`)).toBe(true)
    await expectAllIsRead(receiver)
  })

  test('after an orderly stop, which leaves no WAL', async () => {
    const receiver = await start()
    await receiver.stop()
    expect(existsSync(`${queuePath(receiver.dataDir)}-wal`)).toBe(false)
    await expectAllIsRead(receiver)
  })

  test('after a stop and a look by the owner, which leaves an empty WAL', async () => {
    const receiver = await start()
    await receiver.stop()
    await runCli({ env: { DATA_DIR: receiver.dataDir } }, 'events')
    expect(statSync(`${queuePath(receiver.dataDir)}-wal`).size).toBe(0)
    await expectAllIsRead(receiver)
  })

  test('after a crash, which leaves the WAL to the next process', async () => {
    const receiver = await start()
    receiver.killGroup('SIGKILL')
    await receiver.exited
    expect(statSync(`${queuePath(receiver.dataDir)}-wal`).size).toBeGreaterThan(0)
    await expectAllIsRead(receiver)
  })

  test('in a checkout whose .env he may not read, which is said', async () => {
    const receiver = await start()
    const checkout = temporaryFolder('checkout')
    chmodSync(checkout, 0o755)
    writeFileSync(join(checkout, '.env'), 'DATA_DIR=/nowhere\n', { mode: 0o600 })
    const options = { env: { DATA_DIR: receiver.dataDir }, uid: somebody, cwd: checkout }
    expect(await runCli(options, 'tail', '--json')).toMatchObject({
      code: 0,
      stderr: 'b24-receiver: this user may not read .env, so settings come from the environment alone\n',
    })
  })
})
