import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { deals, linesOf, scripted } from '../support/dispatcher.ts'
import { blockWith } from '../support/docs.ts'
import { dealBody, type Receiver, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

const page = 'docs/operations.md'
const hasSqlite = spawnSync('sqlite3', ['--version']).error === undefined
const nodeCopy = blockWith(page, 'VACUUM INTO')
  .replace('docker compose exec receiver node', process.execPath)
  .replaceAll('/data/', 'data/')
const [makeFolder = '', copyQueue = '', copyJournal = ''] = blockWith(page, '.backup').trim().split('\n')

/** Uses the command of the page; without sqlite3 the one for the image, which leaves the copy in `data`. */
function backUpQueue(folder: string): void {
  run(hasSqlite ? copyQueue : `${nodeCopy}\nmv data/copy.db backup/dispatch.db`, folder)
}

function run(command: string, cwd: string): void {
  execFileSync('sh', ['-ec', command], { cwd })
}

/** A folder with a backup of a running receiver: 1 was handled, 2 is dead, 3 waits. The copied journal also has 4. */
async function backUp() {
  const folder = temporaryFolder('backup')
  const handlers = {
    [deals]: scripted(
      folder,
      `const { FinalError } = await import('bitrix24-webhook-receiver')
      if (event.object === 'deal:2') throw new FinalError('no such deal')
      if (event.object === 'deal:3' && !has('fixed')) throw new Error('not now')
      mark('seen', event.object)`,
    ),
  }
  const receiver = await startReceiver({ dataDir: join(folder, 'data'), handlers })
  for (const id of [1, 2, 3]) await receiver.post(dealBody(id))
  await until('handled', () => receiver.logged('handled').length === 1)
  await until('dead', () => receiver.logged('failed for good: this delivery is dead').length === 1)
  await until('waiting', () => receiver.logged('failed, will be tried again').length >= 1)
  run(makeFolder, folder)
  backUpQueue(folder)
  await receiver.post(dealBody(4))
  await until('handled', () => linesOf(folder, 'seen').length === 2)
  run(copyJournal, folder)
  return { folder, handlers, receiver }
}

const seenBy = (folder: string) => linesOf(folder, 'seen').sort()
const deadOf = async (receiver: Receiver) =>
  Reflect.get(Object(Reflect.get(Object(await receiver.readyz()), 'backlog')), 'dead')

test('a restored backup handles pending and unread events, and leaves dead deliveries dead', async () => {
  const { folder, handlers, receiver } = await backUp()
  await receiver.post(dealBody(5))
  await until('handled', () => linesOf(folder, 'seen').length === 3)
  receiver.killGroup('SIGKILL')
  await receiver.exited
  for (const name of ['data', 'seen']) rmSync(join(folder, name), { recursive: true })
  run(blockWith(page, 'cp -a backup/. data/'), folder)
  run('touch fixed', folder)
  const restored = await startReceiver({ dataDir: join(folder, 'data'), handlers })
  await until('it is dead there, too', async () => (await deadOf(restored)) === 1)
  await restored.post(dealBody(6))
  await until('all are handled', () => linesOf(folder, 'seen').length === 3)
  expect(seenBy(folder)).toEqual(['deal:3', 'deal:4', 'deal:6'])
  const journalled = (await restored.journal()).map(({ object }) => object)
  expect(journalled).toEqual([1, 2, 3, 4, 6].map((id) => `deal:${id}`))
})

test('with an older dispatch.db the events since then are handled again, and none is missing', async () => {
  const { folder, handlers, receiver } = await backUp()
  await receiver.stop()
  const second = await startReceiver({ dataDir: receiver.dataDir, handlers })
  await second.post(dealBody(5))
  await until('handled', () => linesOf(folder, 'seen').length === 3)
  await second.stop()
  for (const suffix of ['-wal', '-shm']) rmSync(join(folder, `data/dispatch.db${suffix}`), { force: true })
  cpSync(join(folder, 'backup/dispatch.db'), join(folder, 'data/dispatch.db'))
  rmSync(join(folder, 'seen'))
  run('touch fixed', folder)
  await startReceiver({ dataDir: receiver.dataDir, handlers })
  await until('all are handled', () => linesOf(folder, 'seen').length === 3)
  expect(seenBy(folder)).toEqual(['deal:3', 'deal:4', 'deal:5'])
})

test('if only dispatch.db is left, the pending deliveries are handled', async () => {
  const { folder, handlers, receiver } = await backUp()
  receiver.killGroup('SIGKILL')
  await receiver.exited
  for (const name of ['data', 'seen']) rmSync(join(folder, name), { recursive: true })
  mkdirSync(join(folder, 'data'))
  cpSync(join(folder, 'backup/dispatch.db'), join(folder, 'data/dispatch.db'))
  run('touch fixed', folder)
  const restored = await startReceiver({ dataDir: join(folder, 'data'), handlers })
  await restored.post(dealBody(6))
  await until('both are handled', () => linesOf(folder, 'seen').length === 2)
  expect(seenBy(folder)).toEqual(['deal:3', 'deal:6'])
})

test('the copy that Node makes in the image is complete', async () => {
  const { folder } = await backUp()
  run(nodeCopy, folder)
  const deliveries = (path: string) => {
    const db = new DatabaseSync(join(folder, path), { readOnly: true })
    try {
      return db.prepare('SELECT event_id, handler, name FROM delivery ORDER BY key').all()
    } finally {
      db.close()
    }
  }
  expect(deliveries('data/copy.db')).toEqual(deliveries('data/dispatch.db'))
})
