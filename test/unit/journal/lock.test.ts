import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished, test } from 'vitest'
import { findHolder, lockDataDir } from '../../../src/journal/lock.ts'
import { temporaryFolder } from '../../support/receiver.ts'

const source = fileURLToPath(new URL('../../../src/journal/lock.ts', import.meta.url))

/** A process that looks who holds the folder, again and again. */
async function startLooking(dataDir: string) {
  const script = `import { findHolder } from ${JSON.stringify(source)}
    findHolder(${JSON.stringify(dataDir)}, 'receiver')
    console.log('looks')
    for (;;) findHolder(${JSON.stringify(dataDir)}, 'receiver')`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  await once(child.stdout, 'data')
}

test('a process that only looks is not taken for the last holder of the folder', async () => {
  const dataDir = temporaryFolder('lock')
  lockDataDir(dataDir, 'receiver').release()
  await startLooking(dataDir)
  for (let look = 0; look < 2_000; look++) expect(findHolder(dataDir, 'receiver')).toBeUndefined()
})

test('a look keeps no process from taking the folder, and returns its holder', async () => {
  const dataDir = temporaryFolder('lock')
  lockDataDir(dataDir, 'receiver').release()
  await startLooking(dataDir)
  for (let take = 0; take < 100; take++) lockDataDir(dataDir, 'receiver').release()
  const lock = lockDataDir(dataDir, 'receiver')
  onTestFinished(() => lock.release())
  expect(findHolder(dataDir, 'receiver')).toMatchObject({ pid: process.pid })
})
