import { execFileSync } from 'node:child_process'
import { chownSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { type Postgres, startPostgres } from '../../support/postgres.ts'
import { dealBody, type Receiver, startReceiver, temporaryFolder, until } from '../../support/receiver.ts'

// Run on demand with each major version, see versions.sh.
let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres()
})
afterAll(() => postgres.remove())

const handlers = { 'ONCRMDEALUPDATE.mjs': 'export default () => {}' }
const start = (url: string) => startReceiver({ handlers, env: { DATABASE_URL: url } })
const said = 'the database cannot be used; what needs it waits'

/** Posts some, and waits until they ran. @returns what /readyz says then */
async function handleSome(receiver: Receiver) {
  const count = 5
  const before = receiver.logged('handled').length
  for (let deal = 0; deal < count; deal++) expect((await receiver.post(dealBody(deal))).status).toBe(200)
  await until(
    () => `all ran\n${receiver.output()}`,
    () => receiver.logged('handled').length >= before + count,
  )
  return until('it is ready', async () => {
    const readiness = JSON.stringify(await receiver.readyz())
    return readiness.includes('"ready"') ? readiness : undefined
  })
}

/** What /readyz says once that fits; a post is answered. */
async function troubleOf(receiver: Receiver, why: RegExp): Promise<string> {
  const trouble = await until(
    () => `${why}\n${receiver.output()}`,
    async () => {
      const readiness = JSON.stringify(await receiver.readyz())
      return why.test(readiness) ? readiness : undefined
    },
  )
  expect((await receiver.post(dealBody(1))).status).toBe(200)
  return trouble
}

const ready = /"status":"ready"/
const degraded = /"status":"degraded"/

test.each([
  ['statement_timeout = 500', 'a statement_timeout of 500 ms'],
  ['idle_in_transaction_session_timeout = 500', 'an idle_in_transaction_session_timeout of 500 ms'],
])('with %s on the role it works', async (setting) => {
  const role = setting.split(' ')[0]
  await postgres.query(`CREATE ROLE ${role} LOGIN PASSWORD 'p'; ALTER ROLE ${role} SET ${setting}`)
  const database = await postgres.createDatabase()
  await postgres.query(`GRANT CREATE ON DATABASE ${database} TO ${role}`)
  expect(await handleSome(await start(postgres.url(database, `${role}:p`)))).toMatch(ready)
})

test.each([
  ['C', "LC_COLLATE 'C' LC_CTYPE 'C'"],
  ['ICU', "LOCALE_PROVIDER icu ICU_LOCALE 'und' LC_COLLATE 'C' LC_CTYPE 'C'"],
  ['Turkish', "LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR' LC_COLLATE 'C' LC_CTYPE 'C'"],
])('with collation %s it works', async (name, locale) => {
  const database = `collated_${name.toLowerCase()}`
  await postgres.query(`CREATE DATABASE ${database} ENCODING 'UTF8' ${locale} TEMPLATE template0`)
  expect(await handleSome(await start(postgres.url(database)))).toMatch(ready)
})

test('two receivers that start at once on an empty database both work', async () => {
  const url = postgres.url(await postgres.createDatabase())
  const receivers = await Promise.all([start(url), start(url)])
  for (const receiver of receivers) expect((await receiver.post(dealBody(1))).status).toBe(200)
  await until('both ran', () => receivers.flatMap((one) => one.logged('handled')).length === 2)
  for (const receiver of receivers) {
    expect(receiver.logged(said)).toEqual([])
    expect(receiver.logged('the dispatcher ended; events wait in the journal')).toEqual([])
  }
})

test('a password with special characters works, percent-encoded', async () => {
  const password = '%#/?@:&+ ü'
  await postgres.query(`CREATE ROLE special LOGIN PASSWORD '${password}'`)
  const database = await postgres.createDatabase()
  await postgres.query(`GRANT CREATE ON DATABASE ${database} TO special`)
  expect(await handleSome(await start(postgres.url(database, `special:${encodeURIComponent(password)}`)))).toMatch(
    ready,
  )
})

test('backends that are killed by an administrator cost nothing', async () => {
  const database = await postgres.createDatabase()
  const receiver = await start(postgres.url(database))
  expect(await handleSome(receiver)).toMatch(ready)
  await postgres.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '${database}'`)
  expect(await handleSome(receiver)).toMatch(ready)
  expect(receiver.logged('the dispatcher ended; events wait in the journal')).toEqual([])
})

test('a hot standby is named, until it is promoted', async () => {
  const standby = await startPostgres()
  onTestFinished(() => standby.remove())
  const database = await standby.createDatabase()
  await standby.end('SIGINT')
  const { uid, gid } = statSync(standby.dataDir)
  const signal = join(standby.dataDir, 'standby.signal')
  writeFileSync(signal, '')
  chownSync(signal, uid, gid)
  // It waits for a server that takes writes.
  const promoted = standby.start()
  const receiver = await start(standby.url(database))
  expect(await troubleOf(receiver, /leads to a standby, or to a database that is read-only/)).toMatch(degraded)
  await standby.query('SELECT pg_promote()')
  await promoted
  expect(await handleSome(receiver)).toMatch(ready)
})

test('TLS: a server without it, one with a certificate of its own, and what each needs', async () => {
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const url = `${server.url(await server.createDatabase())}?sslmode=`
  const receiver = await start(`${url}require`)
  expect(await troubleOf(receiver, /does not support SSL connections.*switch ssl on there/)).toMatch(degraded)

  const folder = temporaryFolder('tls')
  const [key, certificate] = [join(server.dataDir, 'server.key'), join(server.dataDir, 'server.crt')]
  const request = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=127.0.0.1']
  execFileSync('openssl', [...request, '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', certificate], {
    stdio: 'ignore',
  })
  const { uid, gid } = statSync(server.dataDir)
  for (const path of [key, certificate]) chownSync(path, uid, gid)
  const copy = join(folder, 'server.pem')
  execFileSync('cp', [certificate, copy])
  await server.query('ALTER SYSTEM SET ssl = on')
  await server.query('SELECT pg_reload_conf()')
  expect(await troubleOf(receiver, /self-signed certificate.*: name the certificate.*sslrootcert/)).toMatch(degraded)
  expect(await handleSome(await start(`${url}verify-full&sslrootcert=${copy}`))).toMatch(ready)
})
