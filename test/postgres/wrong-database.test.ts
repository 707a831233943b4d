import { rmSync, statfsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { createCluster, marking } from '../support/cluster.ts'
import { canMount, smallDisk } from '../support/faults.ts'
import { type Postgres, startPostgres } from '../support/postgres.ts'
import { dealBody, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres()
  await postgres.query("CREATE ROLE guest LOGIN PASSWORD 'secret0of0guest'")
})
afterAll(() => postgres.remove())

/** Posts are answered, /readyz says why nothing runs, and no password is in any output. */
async function waitAndMend(url: string, why: RegExp, mend: () => Promise<unknown>) {
  const folder = temporaryFolder('wrong')
  const receiver = await startReceiver({
    handlers: { 'ONCRMDEALUPDATE.mjs': marking(folder) },
    env: { DATABASE_URL: url },
  })
  await expect.poll(receiver.readyz).toMatchObject({ status: 'degraded', dispatcher: expect.stringMatching(why) })
  expect((await receiver.post(dealBody(1))).status).toBe(200)
  await mend()
  await until('its run', () => receiver.logged('handled').length === 1)
  await expect.poll(receiver.readyz).toMatchObject({ status: 'ready' })
  return receiver.output()
}

const passwords = /secret0of0guest|postgres:postgres/

test('a wrong password, until it is right', async () => {
  const database = await postgres.createDatabase()
  await postgres.query(`GRANT CREATE ON DATABASE ${database} TO guest`)
  const why = /password authentication failed for user "guest"/
  await postgres.query("ALTER ROLE guest PASSWORD 'another'")
  const output = await waitAndMend(postgres.url(database, 'guest:secret0of0guest'), why, () =>
    postgres.query("ALTER ROLE guest PASSWORD 'secret0of0guest'"),
  )
  expect(output).not.toMatch(passwords)
})

test('a database that is not there, until it is', async () => {
  const output = await waitAndMend(postgres.url('later'), /database "later" does not exist/, () =>
    postgres.query('CREATE DATABASE later'),
  )
  expect(output).not.toMatch(passwords)
})

test('a user without rights, until somebody grants them', async () => {
  const database = await postgres.createDatabase()
  const why = /permission denied for database .*: for the first start the user of DATABASE_URL needs CREATE/
  const output = await waitAndMend(postgres.url(database, 'guest:secret0of0guest'), why, () =>
    postgres.query(`GRANT CREATE ON DATABASE ${database} TO guest`),
  )
  expect(output).not.toMatch(passwords)
})

test('a schema of a newer version is refused, and left alone', async () => {
  const database = await postgres.createDatabase()
  await postgres.query(
    'CREATE SCHEMA b24_receiver; CREATE TABLE b24_receiver.version (version integer); INSERT INTO b24_receiver.version VALUES (99)',
    database,
  )
  const receiver = await startReceiver({ env: { DATABASE_URL: postgres.url(database) } })
  await expect.poll(receiver.readyz).toMatchObject({
    status: 'degraded',
    dispatcher: expect.stringMatching(
      /written by a newer version of the receiver \(99; this one knows \d+\): start that one/,
    ),
  })
  expect((await receiver.post(dealBody(1))).status).toBe(200)
})

test.skipIf(!canMount)('a database whose disk is full, until there is room', async () => {
  const disk = smallDisk('256m')
  const small = await startPostgres({ folder: disk, flags: ['-c', 'max_wal_size=32MB', '-c', 'min_wal_size=32MB'] })
  onTestFinished(() => small.end('SIGKILL').catch(() => undefined))
  const folder = temporaryFolder('full')
  const cluster = await createCluster({ postgres: small, handlers: { 'ONCRMDEALUPDATE.mjs': marking(folder) } })
  const receiver = await cluster.startReceiver({ env: { WORKERS: '1' } })
  await receiver.post(dealBody(1))
  await cluster.drained(1)
  const { bavail, bsize } = statfsSync(disk)
  writeFileSync(join(disk, 'filler'), Buffer.alloc(bavail * bsize))
  let posted = 1
  await until('a full disk', async () => {
    const answers = await Promise.all(Array.from({ length: 50 }, (_, deal) => receiver.post(dealBody(deal))))
    expect(answers.every(({ status }) => status === 200)).toBe(true)
    posted += 50
    return JSON.stringify(await receiver.readyz()).includes('degraded')
  })
  // Where it could not write its log ahead it may have ended meanwhile.
  expect(JSON.stringify(await receiver.readyz())).toMatch(/No space left on device|recovery|connect|terminat/)
  rmSync(join(disk, 'filler'))
  if (small.isGone()) await small.start()
  await cluster.drained(posted)
  await expect.poll(receiver.readyz).toMatchObject({ status: 'ready' })
})
