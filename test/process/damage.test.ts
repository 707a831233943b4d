import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, onTestFinished, test } from 'vitest'
import { listSegments } from '../../src/journal/segments.ts'
import { envOf, jsonLines, runCli } from '../support/cli.ts'
import {
  dealBody,
  makeFolder,
  type Receiver,
  readRecorded,
  recorder,
  spawnReceiver,
  startReceiver,
  temporaryFolder,
  until,
} from '../support/receiver.ts'

const failing = 'export default () => { throw new Error("not now") }\n'

const dealsIn = (seen: string) => new Set(readRecorded(seen).map(({ object }) => object))

interface Readyz {
  readonly status: string
  readonly dispatcher?: string
  readonly warnings?: readonly string[]
}

const readyzOf = async (receiver: Receiver) => (await receiver.readyz()) as Readyz

const troubleOf = (receiver: Receiver, pattern: RegExp) =>
  until(
    () => `trouble ${pattern}\n${receiver.output()}`,
    async () => {
      const { dispatcher = '' } = await readyzOf(receiver)
      return pattern.test(dispatcher) && dispatcher
    },
  )

/** A stopped receiver whose journal has deals 1 to 4, each waiting for its retry. */
async function withWaiting() {
  const dataDir = temporaryFolder('data')
  const seen = join(temporaryFolder('seen'), 'seen')
  const first = await startReceiver({ dataDir, handlers: { 'ONCRMDEALUPDATE.mjs': failing } })
  for (let id = 1; id <= 4; id++) expect((await first.post(dealBody(id))).status).toBe(200)
  await until('all wait', () => first.logged('failed, will be tried again').length >= 4)
  await first.stop()
  const handlers = { 'ONCRMDEALUPDATE.mjs': recorder(seen) }
  return { dataDir, seen, handlers, path: join(dataDir, 'dispatch.db') }
}

function change(path: string, sql: string): string[] {
  const db = new DatabaseSync(path)
  db.exec("UPDATE delivery SET state = 'ready', since = NULL, due = NULL")
  db.exec(sql)
  const ids = db.prepare('SELECT event_id FROM delivery ORDER BY key').all()
  db.close()
  return ids.map(({ event_id }) => String(event_id))
}

test.for([
  ['is not JSON', `substr(event, 1, 20) || char(1) || substr(event, 22)`],
  ['is JSON but not an event', `'7'`],
  ['is not UTF-8', `CAST(replace(CAST(event AS BLOB), x'2e', x'ff') AS TEXT)`],
  ['is another event', `replace(event, 'deal:', 'lead:')`],
] as const)('a stored event that %s is taken from the journal; every delivery is handled', async ([, damage]) => {
  const { dataDir, seen, handlers, path } = await withWaiting()
  change(path, `UPDATE delivery SET event = ${damage} WHERE key = 2`)
  const receiver = await startReceiver({ dataDir, handlers })
  await until(`all handled\n${receiver.output()}`, () => dealsIn(seen).size === 4)
  const told = () => receiver.logged('a stored event cannot be read; its line in the journal is')
  await expect.poll(told).toHaveLength(1)
  await expect.poll(() => readyzOf(receiver)).toMatchObject({ status: 'ready' })
})

test('a stored event that is nowhere readable is dead with its reason; its bytes stay for show --raw', async () => {
  const { dataDir, seen, handlers, path } = await withWaiting()
  const [, id = ''] = change(path, `UPDATE delivery SET event = 'half of ' || substr(event, 1, 30) WHERE key = 2`)
  // The retention may have removed its line since.
  for (const segment of await listSegments(dataDir)) {
    const lines = readFileSync(segment.path, 'utf8').split('\n')
    writeFileSync(segment.path, lines.map((line) => (line.includes(id) ? ' '.repeat(line.length) : line)).join('\n'))
  }
  const receiver = await startReceiver({ dataDir, handlers })
  await until(`the others are handled\n${receiver.output()}`, () => dealsIn(seen).size === 3)
  const line = await until('it is told', () => receiver.logged('failed for good: this delivery is dead')[0])
  expect(line).toMatchObject({ id, object: 'deal:2', reason: expect.stringContaining('it is not JSON') })
  const env = envOf(receiver)
  const raw = await runCli({ env }, 'show', id, '--raw')
  expect(raw).toMatchObject({ code: 0, stdout: expect.stringMatching(/^half of \{"level":30/) })
  expect((await runCli({ env }, 'show', id)).stderr).toContain('--raw')
  const retried = await runCli({ env }, 'dead', 'retry', id)
  expect(retried).toMatchObject({ code: 1, stderr: expect.stringContaining('its event cannot be read') })
  const [dead] = jsonLines((await runCli({ env }, 'dead', 'list', '--json')).stdout)
  expect(dead).toMatchObject({ id, object: 'deal:2' })
})

test('a damaged dispatch.db is named everywhere, posts are accepted, and after a repair all is handled', async () => {
  const { dataDir, seen, handlers, path } = await withWaiting()
  const db = new DatabaseSync(path)
  const root = Number(db.prepare("SELECT rootpage FROM sqlite_master WHERE name = 'delivery'").get()?.['rootpage'])
  db.close()
  const bytes = readFileSync(path)
  bytes.fill(0, (root - 1) * 4096, root * 4096)
  writeFileSync(path, bytes)
  const receiver = await startReceiver({ dataDir, handlers })
  const trouble = await troubleOf(receiver, /malformed/)
  expect(trouble).toContain(path)
  expect(trouble).toContain('b24-receiver repair')
  expect((await receiver.post(dealBody(5))).status).toBe(200)
  expect(receiver.output()).toContain(`${path} is malformed`)
  const env = envOf(receiver)
  expect((await runCli({ env }, 'doctor')).stdout).toMatch(/FAIL +queue +.*dispatch\.db is malformed/)
  expect(await runCli({ env }, 'status')).toMatchObject({ code: 1, stdout: expect.stringContaining('is malformed') })
  expect(await runCli({ env }, 'repair')).toMatchObject({ code: 64 })
  const repaired = await runCli({ env }, 'repair', '--yes', '--json')
  expect(repaired).toMatchObject({ code: 0, stderr: expect.stringContaining('4 are pending again') })
  await until(`all handled\n${receiver.output()}${repaired.stdout}`, () => dealsIn(seen).size === 5)
})

test('repair refuses while a dispatcher runs, and changes nothing where nothing is damaged', async () => {
  const receiver = await startReceiver({ handlers: { 'ONCRMDEALUPDATE.mjs': 'export default () => {}\n' } })
  await until('ready', async () => (await readyzOf(receiver)).status === 'ready')
  const env = envOf(receiver)
  const refused = await runCli({ env }, 'repair', '--yes')
  expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining('in use by another dispatcher') })
  await receiver.stop()
  const before = readFileSync(join(receiver.dataDir, 'dispatch.db'))
  expect(await runCli({ env }, 'repair', '--yes')).toMatchObject({
    code: 0,
    stdout: expect.stringContaining('is not damaged'),
  })
  expect(readFileSync(join(receiver.dataDir, 'dispatch.db')).equals(before)).toBe(true)
})

test('lock files that are garbage keep no receiver from starting, and still keep a second one out', async () => {
  const { dataDir, seen, handlers } = await withWaiting()
  const garbage = () => {
    for (const part of ['receiver', 'dispatcher']) writeFileSync(join(dataDir, `${part}.lock`), Buffer.alloc(8192, 'x'))
  }
  garbage()
  const receiver = await startReceiver({ dataDir, handlers })
  expect(receiver.logged('receiver.lock was damaged, and was emptied')).toHaveLength(1)
  await receiver.post(dealBody(5))
  await until(`handled\n${receiver.output()}`, () => dealsIn(seen).has('deal:5'))
  await expect.poll(() => receiver.logged('dispatcher.lock was damaged, and was emptied')).toHaveLength(1)
  // Written while it is held, as a bad disk does.
  garbage()
  const status = await runCli({ env: envOf(receiver) }, 'status')
  expect(status.stdout).toContain(`${join(dataDir, 'receiver.lock')} is damaged`)
  const second = await spawnReceiver({ dataDir })
  expect(await second.exited).toEqual({ code: 1, signal: null })
  expect(second.output()).toContain('is in use by another receiver')
})

test.runIf(process.getuid?.() === 0)(
  'a dispatch.db that may not be written is named, and posts are accepted',
  async () => {
    const { dataDir, handlers, path } = await withWaiting()
    const mine = [
      dataDir,
      join(dataDir, 'journal'),
      ...['receiver.lock', 'dispatcher.lock', 'journal.json'].map((name) => join(dataDir, name)),
      ...(await listSegments(dataDir)).map((segment) => segment.path),
    ]
    for (const file of mine) chownSync(file, 65534, 65534)
    chmodSync(path, 0o444)
    const receiver = await startReceiver({ dataDir, handlers, uid: 65534 })
    expect(await troubleOf(receiver, /may not be written/)).toContain(`${path} may not be written by user 65534`)
    expect((await receiver.post(dealBody(9))).status).toBe(200)
  },
)

test.runIf(existsSync('/dev/shm'))(
  'a journal on another file system is followed, and its stable name is a symbolic link',
  async () => {
    const dataDir = temporaryFolder('data')
    const elsewhere = mkdtempSync('/dev/shm/b24-journal-')
    onTestFinished(() => rmSync(elsewhere, { recursive: true }))
    symlinkSync(elsewhere, join(dataDir, 'journal'))
    const seen = join(temporaryFolder('seen'), 'seen')
    const receiver = await startReceiver({ dataDir, handlers: { 'ONCRMDEALUPDATE.mjs': recorder(seen) } })
    expect((await receiver.post(dealBody(1))).status).toBe(200)
    await until('handled', () => dealsIn(seen).size === 1)
    expect(lstatSync(join(dataDir, 'events.ndjson')).isSymbolicLink()).toBe(true)
    expect(readFileSync(join(dataDir, 'events.ndjson'), 'utf8')).toContain('deal:1')
  },
)

test.runIf(process.getuid?.() === 0)('an old segment that cannot be removed is named, and handlers go on', async () => {
  const { dataDir, seen, handlers } = await withWaiting()
  // So that the first segment is followed to its end.
  const second = await startReceiver({ dataDir, handlers })
  await second.post(dealBody(6))
  await until('handled', () => dealsIn(seen).has('deal:6'))
  await second.stop()
  const [old] = await listSegments(dataDir)
  if (old === undefined) throw new Error('no segment')
  utimesSync(old.path, 1, 1)
  const written = ['receiver.lock', 'dispatcher.lock', 'dispatch.db', 'loaded.json', 'events.ndjson', 'journal.json']
  for (const name of ['', ...written])
    if (join(dataDir, name) !== old.path) chownSync(join(dataDir, name), 65534, 65534)
  chmodSync(dirname(seen), 0o777)
  chmodSync(seen, 0o666)
  // Of a folder like this only its owner removes a file, as of /tmp.
  chownSync(old.path, 0, 0)
  chmodSync(makeFolder(dataDir, 'journal'), 0o1777)
  chmodSync(old.path, 0o644)
  const receiver = await startReceiver({ dataDir, handlers, uid: 65534 })
  const { warnings } = await until(
    () => `a warning\n${receiver.output()}`,
    async () => {
      const found = await readyzOf(receiver)
      return found.warnings && found
    },
  )
  expect(warnings?.join()).toContain(old.path)
  await receiver.post(dealBody(5))
  await until('handled', () => dealsIn(seen).has('deal:5'))
  expect(receiver.logged('the dispatcher ended; events wait in the journal')).toEqual([])
})
