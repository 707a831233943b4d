import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { journalDir, listSegments } from '../../src/journal/segments.ts'
import { canMount } from '../support/faults.ts'
import {
  dealBody,
  type Receiver,
  readJournal,
  readRecorded,
  recorder,
  startReceiver,
  temporaryFolder,
  until,
} from '../support/receiver.ts'

const lastPath = async (dataDir: string) => (await listSegments(dataDir)).at(-1)?.path ?? ''

/** A receiver that has taken two deals, and what it answers to those that follow. */
async function begin(dataDir = join(temporaryFolder('home'), 'data')) {
  const receiver = await startReceiver({ dataDir, env: { DISPATCHER: 'off' } })
  const taken: number[] = []
  const refused: number[] = []
  let next = 1
  const post = async () => {
    const { status } = await receiver.post(dealBody(next))
    expect([200, 503]).toContain(status)
    ;(status === 200 ? taken : refused).push(next++)
    return status
  }
  for (const _ of [1, 2]) expect(await post()).toBe(200)
  return { dataDir, receiver, taken, refused, post }
}

const dealsIn = async (dataDir: string) => (await readJournal(dataDir)).map(({ object }) => Number(object?.slice(5)))

/** Which deals were acknowledged, and which are there after a restart. What was refused went to stderr. */
async function afterRestart({ dataDir, receiver, taken, refused }: Awaited<ReturnType<typeof begin>>) {
  await receiver.stop()
  for (const id of refused) expect(receiver.output()).toContain(`"object":"deal:${id}"`)
  await (await startReceiver({ dataDir, env: { DISPATCHER: 'off' } })).stop()
  return { taken, found: await dealsIn(dataDir) }
}

async function isReady(receiver: Receiver) {
  await until(
    () => `ready\n${receiver.output()}`,
    async () => ((await receiver.readyz()) as { status: string }).status === 'ready',
  )
}

test.each<[string, (dataDir: string) => unknown]>([
  ['the segment', async (dataDir) => rmSync(await lastPath(dataDir))],
  ['the segment and its other name', async (dataDir) => rmNames(dataDir, await lastPath(dataDir))],
  ['journal/', (dataDir) => rmSync(journalDir(dataDir), { recursive: true })],
  [
    'all of DATA_DIR',
    (dataDir) => readdirSync(dataDir).map((name) => rmSync(join(dataDir, name), { recursive: true })),
  ],
])('%s removed while it runs costs no event that was acknowledged, and it goes on by itself', async (_, remove) => {
  const life = await begin()
  await remove(life.dataDir)
  expect(await life.post()).toBe(503)
  await until('it is logged', () => life.receiver.output().includes('was it removed, moved, or is a mount gone?'))
  expect(await life.post()).toBe(200)
  await isReady(life.receiver)
  expect(await life.post()).toBe(200)
  const { taken, found } = await afterRestart(life)
  expect(found).toEqual(taken)
})

function rmNames(dataDir: string, path: string) {
  rmSync(path)
  rmSync(join(dataDir, 'events.ndjson'))
}

test('a segment that is removed before the end is back at the next start', async () => {
  const life = await begin()
  rmNames(life.dataDir, await lastPath(life.dataDir))
  const { taken, found } = await afterRestart(life)
  expect(found).toEqual(taken)
})

/** What is written would not be found: every post is refused until the folder is back. */
async function isRefusedUntil(life: Awaited<ReturnType<typeof begin>>, putBack: () => unknown) {
  for (const _ of [1, 2, 3]) expect(await life.post()).toBe(503)
  await expect.poll(life.receiver.readyz).toMatchObject({
    status: 'unavailable',
    journal: expect.stringContaining('is no longer the folder of the start'),
  })
  await putBack()
  await isReady(life.receiver)
  expect(await life.post()).toBe(200)
  return afterRestart(life)
}

test('DATA_DIR moved while it runs: posts are refused until it is back', async () => {
  const life = await begin()
  renameSync(life.dataDir, `${life.dataDir}.away`)
  const { taken, found } = await isRefusedUntil(life, () => renameSync(`${life.dataDir}.away`, life.dataDir))
  expect(found).toEqual(taken)
})

test('another folder in the place of DATA_DIR: nothing is written there', async () => {
  const life = await begin()
  renameSync(life.dataDir, `${life.dataDir}.away`)
  mkdirSync(life.dataDir)
  const { taken, found } = await isRefusedUntil(life, () => {
    expect(readdirSync(life.dataDir)).toEqual([])
    rmSync(life.dataDir, { recursive: true })
    renameSync(`${life.dataDir}.away`, life.dataDir)
  })
  expect(found).toEqual(taken)
})

test.skipIf(!canMount)('a file system that is mounted over DATA_DIR: posts are refused until it is gone', async () => {
  const life = await begin()
  execFileSync('mount', ['-t', 'tmpfs', 'b24-test', life.dataDir])
  onTestFinished(() => void spawnSync('umount', ['--lazy', life.dataDir]))
  const { taken, found } = await isRefusedUntil(life, () => execFileSync('umount', [life.dataDir]))
  expect(found).toEqual(taken)
})

test.skipIf(!canMount)('DATA_DIR unmounted while it runs: posts are refused until it is mounted again', async () => {
  const disk = temporaryFolder('disk')
  const dataDir = temporaryFolder('mount')
  const mount = () => execFileSync('mount', ['--bind', disk, dataDir])
  mount()
  onTestFinished(() => void spawnSync('umount', ['--lazy', dataDir]))
  const life = await begin(dataDir)
  execFileSync('umount', ['--lazy', dataDir])
  const { taken, found } = await isRefusedUntil(life, mount)
  expect(found).toEqual(taken)
})

test('a start brings a segment back that only events.ndjson still has, and handlers get what it holds', async () => {
  const seen = join(temporaryFolder('seen'), 'seen')
  const { dataDir, receiver, taken } = await begin()
  receiver.killGroup('SIGKILL')
  await receiver.exited
  const path = await lastPath(dataDir)
  for (const name of ['with journal.json', 'without']) {
    rmSync(path, { force: true })
    if (name === 'without') rmSync(join(dataDir, 'journal.json'))
    const off = await startReceiver({ dataDir, env: { DISPATCHER: 'off' } })
    expect(await dealsIn(dataDir)).toEqual(taken)
    expect(off.logged('a segment whose name was removed is back')).toHaveLength(1)
    await off.stop()
    // The stable name is that of an empty segment now.
    if (name === 'without') break
    rmSync(join(dataDir, 'events.ndjson'))
    for (const { path: one, number } of await listSegments(dataDir)) if (number > 1) rmSync(one)
    execFileSync('ln', [path, join(dataDir, 'events.ndjson')])
  }
  const again = await startReceiver({ dataDir, handlers: { 'one.mjs': recorder(seen) } })
  await until('handled', () => readRecorded(seen).length === taken.length)
  await again.stop()
})

test('a copy of DATA_DIR in which events.ndjson is a file of its own has no event twice', async () => {
  const life = await begin()
  await life.receiver.stop()
  // The next start makes a segment of its own.
  await (await startReceiver({ dataDir: life.dataDir, env: { DISPATCHER: 'off' } })).stop()
  const [first] = await listSegments(life.dataDir)
  rmSync(join(life.dataDir, 'events.ndjson'))
  execFileSync('cp', [first?.path ?? '', join(life.dataDir, 'events.ndjson')])
  const { taken, found } = await afterRestart(life)
  expect(found).toEqual(taken)
})
