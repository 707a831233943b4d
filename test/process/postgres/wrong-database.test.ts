import { rmSync, statfsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pino } from 'pino'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { openDatabase } from '../../../src/queue/postgres/database.ts'
import { envOf, runCli } from '../../support/cli.ts'
import { createCluster, marking } from '../../support/cluster.ts'
import { canMount, smallDisk } from '../../support/faults.ts'
import { type Postgres, startPostgres } from '../../support/postgres.ts'
import { dealBody, startReceiver, temporaryFolder, until } from '../../support/receiver.ts'

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

test('a user without rights, until someone grants them', async () => {
  const database = await postgres.createDatabase()
  const why = /permission denied for database .*: for the first start the user of DATABASE_URL needs CREATE/
  const output = await waitAndMend(postgres.url(database, 'guest:secret0of0guest'), why, () =>
    postgres.query(`GRANT CREATE ON DATABASE ${database} TO guest`),
  )
  expect(output).not.toMatch(passwords)
})

test.each([
  ['WIN1251', /encoding WIN1251, and Bitrix24's texts need UTF8/],
  ['LATIN1', /encoding LATIN1/],
  ['SQL_ASCII', /encoding SQL_ASCII/],
])('a database in %s is refused at the start and by doctor, before an emoji comes', async (encoding, why) => {
  const database = `in_${encoding.toLowerCase()}`
  await postgres.query(
    `CREATE DATABASE ${database} ENCODING '${encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0`,
  )
  const receiver = await startReceiver({
    handlers: { 'ONCRMDEALUPDATE.mjs': 'export default () => {}' },
    env: { DATABASE_URL: postgres.url(database) },
  })
  await expect.poll(receiver.readyz).toMatchObject({ status: 'degraded', dispatcher: expect.stringMatching(why) })
  expect((await receiver.post(dealBody(1))).status).toBe(200)
  expect(await postgres.query("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'b24%'", database)).toEqual([])
  const { stdout } = await runCli({ env: { ...envOf(receiver), DATABASE_URL: postgres.url(database) } }, 'doctor')
  expect(stdout).toMatch(new RegExp(`^FAIL +queue .*${why.source}.*TEMPLATE template0`, 'm'))
})

test('a schema that someone else owns, as after pg_dump --no-owner: whose it is, until it is given away', async () => {
  const database = await postgres.createDatabase()
  await (await openDatabase({ url: postgres.url(database), log: pino({ level: 'silent' }) })).close()
  const give = ['b24_receiver', 'b24_receiver_jobs']
    .map((schema) => `GRANT ALL ON SCHEMA ${schema} TO guest;`)
    .join(' ')
  const why = /permission denied.*belongs to "postgres", and the user of DATABASE_URL is "guest": .*OWNER TO/
  const output = await waitAndMend(postgres.url(database, 'guest:secret0of0guest'), why, () =>
    postgres.query(
      `${give} DO $$ DECLARE one record; BEGIN
         FOR one IN SELECT nspname FROM pg_namespace WHERE nspname LIKE 'b24%'
         LOOP EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA %1$s TO guest;
           GRANT ALL ON ALL SEQUENCES IN SCHEMA %1$s TO guest', one.nspname); END LOOP;
         FOR one IN SELECT oid::regclass AS name FROM pg_class WHERE relnamespace::regnamespace::text LIKE 'b24%' AND relkind IN ('r', 'p')
         LOOP EXECUTE format('ALTER TABLE %s OWNER TO guest', one.name); END LOOP;
       END $$; ALTER SCHEMA b24_receiver OWNER TO guest; ALTER SCHEMA b24_receiver_jobs OWNER TO guest`,
      database,
    ),
  )
  expect(output).not.toMatch(passwords)
})

test('a schema of this name that belongs to something else is refused, and left alone', async () => {
  const database = await postgres.createDatabase()
  await postgres.query('CREATE SCHEMA b24_receiver; CREATE TABLE b24_receiver.delivery (mine text)', database)
  const receiver = await startReceiver({ env: { DATABASE_URL: postgres.url(database) } })
  await expect.poll(receiver.readyz).toMatchObject({
    status: 'degraded',
    dispatcher: expect.stringMatching(/schema b24_receiver is not the receiver's: .*ALTER SCHEMA b24_receiver RENAME/),
  })
  expect((await receiver.post(dealBody(1))).status).toBe(200)
  expect(await postgres.query("SELECT tablename FROM pg_tables WHERE schemaname LIKE 'b24%'", database)).toEqual([
    { tablename: 'delivery' },
  ])
})

test('commands that read make nothing in an empty database, and migrate nothing of an older version', async () => {
  const used = await postgres.createDatabase()
  const receiver = await startReceiver({
    handlers: { 'ONCRMDEALUPDATE.mjs': 'export default () => {}' },
    env: { DATABASE_URL: postgres.url(used) },
  })
  await receiver.post(dealBody(1))
  await until('its run', () => receiver.logged('handled').length === 1)
  await receiver.stop()
  const commands = ['status', 'doctor', 'events', 'handlers', 'dead', 'verify']
  const saidOf = async (database: string) => {
    const env = { ...envOf(receiver), DATABASE_URL: postgres.url(database) }
    const said = []
    for (const command of commands) {
      const { stdout, stderr } = await runCli({ env }, command)
      said.push(stdout + stderr)
    }
    return said
  }
  const empty = await postgres.createDatabase()
  for (const said of await saidOf(empty)) expect(said).toMatch(/nothing is in the database of DATABASE_URL yet/)
  expect(await postgres.query("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'b24%'", empty)).toEqual([])
  await postgres.query('UPDATE b24_receiver.version SET version = 1', used)
  for (const said of await saidOf(used))
    expect(said).toMatch(/written by an older version of the receiver \(1; this one/)
  expect(await postgres.query('SELECT version FROM b24_receiver.version', used)).toEqual([{ version: 1 }])
})

test('a database that is frozen is named within seconds, and everything goes on when it is not', async () => {
  const database = await postgres.createDatabase()
  const receiver = await startReceiver({
    handlers: { 'ONCRMDEALUPDATE.mjs': 'export default () => {}' },
    env: { DATABASE_URL: postgres.url(database) },
  })
  await expect.poll(receiver.readyz).toMatchObject({ status: 'ready' })
  const thaw = await postgres.freeze(database)
  try {
    await expect.poll(receiver.readyz).toMatchObject({
      status: 'degraded',
      dispatcher: expect.stringMatching(/no answer for 10 s: it is frozen/),
    })
    expect((await receiver.post(dealBody(1))).status).toBe(200)
  } finally {
    thaw()
  }
  await until('its run', () => receiver.logged('handled').length === 1)
  await expect.poll(receiver.readyz).toMatchObject({ status: 'ready' })
})

test('a limit of two connections: everything is handled, and one line says so', async () => {
  const database = await postgres.createDatabase()
  await postgres.query(`GRANT CREATE ON DATABASE ${database} TO guest; ALTER ROLE guest CONNECTION LIMIT 2`)
  try {
    const receiver = await startReceiver({
      handlers: { 'ONCRMDEALUPDATE.mjs': 'export default () => {}' },
      env: { DATABASE_URL: postgres.url(database, 'guest:secret0of0guest') },
    })
    const warnings = () => receiver.logged('fewer connections than a process takes: it goes on with those it has')
    let posted = 0
    // Whether a third one is asked for depends on what happens to go on at once.
    await until('it is told', async () => {
      const answers = await Promise.all(Array.from({ length: 20 }, (_, deal) => receiver.post(dealBody(deal))))
      expect(answers.every(({ status }) => status === 200)).toBe(true)
      posted += 20
      return warnings().length > 0
    })
    await until('all ran', () => receiver.logged('handled').length >= posted)
    expect(receiver.logged('the database cannot be used; what needs it waits')).toEqual([])
    expect(warnings()).toMatchObject([
      { reason: expect.stringMatching(/too many connections for role .*: a process takes five connections/) },
    ])
  } finally {
    await postgres.query('ALTER ROLE guest CONNECTION LIMIT -1')
  }
})

test('a dispatcher that ends at each start is not said to be starting', async () => {
  const database = await postgres.createDatabase()
  // Its own function is in the way of ours: no trouble that anybody foresaw.
  await postgres.query(
    `CREATE SCHEMA b24_receiver; CREATE TABLE b24_receiver.version (version integer);
     INSERT INTO b24_receiver.version VALUES (0); CREATE TABLE b24_receiver.delivery (mine text)`,
    database,
  )
  const receiver = await startReceiver({ env: { DATABASE_URL: postgres.url(database) } })
  await expect.poll(receiver.readyz).toMatchObject({
    status: 'degraded',
    dispatcher: expect.stringMatching(/cannot go on: .*relation "delivery" already exists/),
  })
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
  const receiver = await cluster.startReceiver({ env: { RUN_HANDLERS: 'on' } })
  await receiver.post(dealBody(1))
  await cluster.drained(1)
  const { bavail, bsize } = statfsSync(disk)
  writeFileSync(join(disk, 'filler'), Buffer.alloc(bavail * bsize))
  let posted = 1
  await until('a full disk', async () => {
    const answers = await Promise.all(Array.from({ length: 50 }, (_, deal) => receiver.post(dealBody(deal))))
    expect(answers.every(({ status }) => status === 200)).toBe(true)
    posted += 50
    // Where it could not write its log ahead it may have ended meanwhile.
    return /degraded.*(No space left on device|recovery|connect|terminat)/.test(JSON.stringify(await receiver.readyz()))
  })
  rmSync(join(disk, 'filler'))
  if (small.isGone()) await small.start()
  await cluster.drained(posted)
  await expect.poll(receiver.readyz).toMatchObject({ status: 'ready' })
})
