import { execFileSync } from 'node:child_process'
import { chmodSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { queuePath } from '../../src/queue/sqlite/queue.ts'
import { envOf, jsonLines, runCli } from '../support/cli.ts'
import { dealBody, type ReceiverOptions, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

/** A failure, so that everything that is written is written; a later start, which cuts, seals and names. */
async function fill(dataDir: string, env: ReceiverOptions['env'] = {}) {
  const handlers = { 'ONCRMDEALUPDATE.mjs': `export default () => { throw new Error('no') }` }
  const first = await startReceiver({ dataDir, handlers, env })
  await first.post(dealBody(1))
  await until('it failed', () => first.logged('failed, will be tried again').length > 0)
  first.killGroup('SIGKILL')
  await first.exited
  const [name = ''] = readdirSync(join(dataDir, 'journal'))
  execFileSync('sh', ['-c', `printf half >> "$0"`, join(dataDir, 'journal', name)])
  const second = await startReceiver({ dataDir, handlers, env })
  await second.post(dealBody(2))
  await until('it failed', () => second.logged('failed, will be tried again').length > 0)
  return second
}

/** Of the folder and everything in it: `mode name`. */
function modesOf(dataDir: string) {
  const names = ['', ...readdirSync(dataDir, { recursive: true, encoding: 'utf8' })]
  return Object.fromEntries(
    names.map((name) => [
      name.replace(/\d{12}-\d{4}-\d\d-\d\d/, 'N'),
      (statSync(join(dataDir, name)).mode & 0o777).toString(8),
    ]),
  )
}

test('DATA_DIR is made for the receiver alone, and so is every file in it, whatever the umask', async () => {
  const dataDir = join(temporaryFolder('home'), 'data')
  const before = process.umask(0)
  try {
    await fill(dataDir, { BACKFILL_ON_START: 'deal', B24_HOOK: 'https://127.0.0.1:9/rest/1/made0up0secret/' })
  } finally {
    process.umask(before)
  }
  const modes = modesOf(dataDir)
  expect(Object.keys(modes)).toEqual(
    expect.arrayContaining(['dispatch.db', 'dispatch.db-wal', 'dispatch.db-shm', 'events.ndjson', 'loaded.json']),
  )
  expect(Object.keys(modes)).toEqual(
    expect.arrayContaining([
      'receiver.lock',
      'dispatcher.lock',
      'journal.json',
      'journal/N.ndjson.cut',
      'backfill-since',
    ]),
  )
  for (const [name, mode] of Object.entries(modes))
    expect(`${mode} ${name}`).toBe(`${['', 'journal'].includes(name) ? 700 : 600} ${name}`)
})

test('a folder that is for a group, by its mode, gets files that the group may read', async () => {
  const dataDir = temporaryFolder('data')
  chmodSync(dataDir, 0o2750)
  await fill(dataDir)
  for (const [name, mode] of Object.entries(modesOf(dataDir)))
    expect(`${mode} ${name}`).toBe(`${['', 'journal'].includes(name) ? 750 : 640} ${name}`)
})

test('a folder that everybody may enter stays so, the log warns, and new files are private', async () => {
  const dataDir = join(temporaryFolder('home'), 'data')
  mkdirSync(dataDir)
  chmodSync(dataDir, 0o755)
  const receiver = await fill(dataDir)
  expect(receiver.logged('users of this machine other than the receiver may enter DATA_DIR')).toMatchObject([
    { level: 40, folder: dataDir, mode: '0755', advice: `chmod 700 ${dataDir}, or chmod 2750 to let a group read` },
  ])
  const doctor = await runCli({ env: envOf(receiver) }, 'doctor', '--json')
  expect(jsonLines(doctor.stdout).find(({ name }) => name === 'privacy')).toMatchObject({
    state: 'warn',
    text: `${dataDir} has the mode 0755: every user of this machine may enter it, and events hold personal data`,
    advice: expect.stringContaining(`chmod -R o-rwx ${dataDir}`),
  })
  const { '': folder, ...modes } = modesOf(dataDir)
  expect(folder).toBe('755')
  expect(new Set(Object.values(modes))).toEqual(new Set(['600', '700']))
  expect(statSync(queuePath(dataDir)).mode & 0o777).toBe(0o600)
})
