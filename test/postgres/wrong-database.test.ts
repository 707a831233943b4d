import { afterAll, beforeAll, expect, test } from 'vitest'
import { createCluster, marking } from '../support/cluster.ts'
import { type Postgres, startPostgres } from '../support/postgres.ts'
import { dealBody, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres()
  await postgres.query("CREATE ROLE guest LOGIN PASSWORD 'secret0of0guest'")
}, 60_000)
afterAll(() => postgres.remove(), 30_000)

/** Posts are answered, /readyz says why nothing runs, and no password is in any output. */
async function expectWaiting(url: string, why: RegExp, mend: () => Promise<unknown>) {
  const folder = temporaryFolder('wrong')
  const receiver = await startReceiver({
    handlers: { 'ONCRMDEALUPDATE.mjs': marking(folder) },
    env: { DATABASE_URL: url },
  })
  await expect
    .poll(receiver.readyz, { timeout: 15_000 })
    .toMatchObject({ status: 'degraded', dispatcher: expect.stringMatching(why) })
  expect((await receiver.post(dealBody(1))).status).toBe(200)
  expect(receiver.output()).not.toMatch(/secret0of0guest|postgres:postgres/)
  await mend()
  await until('its run', () => receiver.logged('handled').length === 1, 40_000)
  await expect.poll(receiver.readyz, { timeout: 15_000 }).toEqual({ status: 'ready' })
}

test('a wrong password, until it is right', async () => {
  const database = await postgres.createDatabase()
  await postgres.query(`GRANT CREATE ON DATABASE ${database} TO guest`)
  await expectWaiting(postgres.url(database, 'guest:wrong'), /password authentication failed for user "guest"/, () =>
    postgres.query("ALTER ROLE guest PASSWORD 'wrong'"),
  )
  await postgres.query("ALTER ROLE guest PASSWORD 'secret0of0guest'")
}, 60_000)

test('a database that is not there, until it is', async () => {
  await expectWaiting(postgres.url('later'), /database "later" does not exist/, () =>
    postgres.query('CREATE DATABASE later'),
  )
}, 60_000)

test('a user without rights, until somebody grants them', async () => {
  const database = await postgres.createDatabase()
  const why = /permission denied for database .*: for the first start the user of DATABASE_URL needs CREATE/
  await expectWaiting(postgres.url(database, 'guest:secret0of0guest'), why, () =>
    postgres.query(`GRANT CREATE ON DATABASE ${database} TO guest`),
  )
}, 60_000)

test('a schema of a newer version is refused, and left alone', async () => {
  const database = await postgres.createDatabase()
  await postgres.query(
    'CREATE SCHEMA b24_receiver; CREATE TABLE b24_receiver.version (version integer); INSERT INTO b24_receiver.version VALUES (99)',
    database,
  )
  const receiver = await startReceiver({ env: { DATABASE_URL: postgres.url(database) } })
  await expect.poll(receiver.readyz, { timeout: 15_000 }).toMatchObject({
    status: 'degraded',
    dispatcher: expect.stringMatching(
      /written by a newer version of the receiver \(99; this one knows \d+\): start that one/,
    ),
  })
  expect((await receiver.post(dealBody(1))).status).toBe(200)
}, 60_000)

test('a database that refuses to write, as with a full disk, until it does', async () => {
  const folder = temporaryFolder('full')
  const cluster = await createCluster({ postgres, handlers: { 'ONCRMDEALUPDATE.mjs': marking(folder) } })
  const receiver = await cluster.startReceiver({ env: { WORKERS: '1' } })
  await receiver.post(dealBody(1))
  await cluster.drained(1)
  // What Postgres says when its disk is full: https://www.postgresql.org/docs/current/errcodes-appendix.html, 53100.
  await cluster.query(`
    CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
    CREATE TRIGGER full_disk BEFORE INSERT ON b24_receiver.delivery FOR EACH STATEMENT EXECUTE FUNCTION full_disk()`)
  expect((await receiver.post(dealBody(1))).status).toBe(200)
  await expect.poll(receiver.readyz, { timeout: 15_000 }).toMatchObject({
    status: 'degraded',
    dispatcher: expect.stringContaining('No space left on device'),
  })
  expect((await receiver.post(dealBody(1))).status).toBe(200)
  await cluster.query('DROP TRIGGER full_disk ON b24_receiver.delivery')
  await cluster.drained(3)
  await expect.poll(receiver.readyz, { timeout: 15_000 }).toEqual({ status: 'ready' })
}, 60_000)
