import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { PgBoss } from 'pg-boss'
import { pino } from 'pino'
import { initIdentity } from '../src/queue/identity.ts'
import { openDatabase } from '../src/queue/postgres/database.ts'
import { openPgBossQueue } from '../src/queue/postgres/queue.ts'
import type { Queue } from '../src/queue/queue.ts'
import { openSqliteQueue, queuePath } from '../src/queue/sqlite/queue.ts'
import { post } from '../src/simulator/post.ts'
import { type Postgres, startPostgres } from '../test/support/postgres.ts'
import { eventOf, writeEvents } from './deliveries.ts'
import { dealBody, loadCore, remove, serverCore, spawnPinned, temporaryFolder } from './processes.ts'
import { emptyHandler, startReceiver, writeHandlers } from './receiver.ts'
import { percentile, printTable, progress, say } from './table.ts'

const log = pino({ level: 'silent' })
const dispatcherScript = fileURLToPath(new URL('../src/bin/dispatcher.ts', import.meta.url))
const count = 20_000
const posts = 200
const large = 100_000

/** Several machines on one Postgres, compared with the embedded engine; all of it on the cores of this one. */
export async function cluster(): Promise<void> {
  const postgres = await startPostgres()
  const rows: string[][] = []
  let forwarded = ''
  try {
    rows.push(['embedded', await rateOfEmbedded(), await delayOf({}), ...(await claimsOfEmbedded())])
    for (const workers of [1, 2, 4]) {
      progress(`${workers} workers`)
      const rate = await rateOf(postgres, workers)
      const rest =
        workers === 1
          ? [await delayOf({ DATABASE_URL: await databaseOf(postgres) }), ...(await claimsOf(postgres))]
          : ['', '', '']
      rows.push([`Postgres, ${workers} worker${workers === 1 ? '' : 's'}`, rate, ...rest])
    }
    forwarded = await rateOfForwarder(postgres)
    rows.push(['pg-boss alone, key_strict_fifo', '', '', ...(await claimsOfFifo(postgres))])
  } finally {
    await postgres.remove()
  }
  progress('')
  printTable(
    'Deliveries: how many, how soon, and what a large backlog costs (10 of each object)',
    [
      'engine',
      'handled a second',
      '200 to handler, p50 / p99 ms',
      '8 of 8: p50 / p99 ms',
      `8 of ${large}: p50 / p99 ms`,
    ],
    rows,
  )
  say(`Forwarded by one receiver, whose handlers run elsewhere: ${forwarded} deliveries a second`)
}

async function databaseOf(postgres: Postgres): Promise<string> {
  return postgres.url(await postgres.createDatabase())
}

async function openQueue(url: string): Promise<{ queue: Queue; close: () => Promise<void> }> {
  const database = await openDatabase({ url, log })
  const queue = openPgBossQueue({ database, receiver: 'bench', worker: 'bench', heartbeat: 45_000, log })
  return {
    queue,
    close: async () => {
      await queue.close()
      await database.close()
    },
  }
}

/** Ten deliveries of each object. */
async function fill(queue: Queue, from: number, many: number): Promise<void> {
  for (let done = 0; done < many; done += 1_000) {
    const ids = Array.from({ length: Math.min(1_000, many - done) }, (_, index) => from + done + index)
    const deliveries = ids.map((id) => ({
      handler: 'empty',
      event: { level: 30, time: '2026-11-23T08:00:00.000Z', ...eventOf(id), msg: 'a deal' },
      segment: 1,
      order: 'object' as const,
      debounce: 0,
    }))
    await queue.add(deliveries, { segment: 1, offset: 0 })
  }
}

/** From the first end to the last. */
async function rateOf(postgres: Postgres, workers: number): Promise<string> {
  const url = await databaseOf(postgres)
  const { queue, close } = await openQueue(url)
  progress('filling a database')
  await fill(queue, 0, count)
  await close()
  const folder = temporaryFolder()
  const handlersDir = writeHandlers(folder, emptyHandler)
  const cli = fileURLToPath(new URL('../src/bin/cli.ts', import.meta.url))
  const command = [process.execPath, '--disable-warning=ExperimentalWarning', cli, 'work']
  const env = {
    DATABASE_URL: url,
    HANDLERS_DIR: handlersDir,
    ADMIN_PORT: '0',
    LOG_LEVEL: 'warn',
    CONCURRENCY: '50',
  }
  const running = Array.from({ length: workers }, (_, index) =>
    spawnPinned(command, env, 'ignore', index % 2 === 0 ? loadCore : serverCore),
  )
  const name = new URL(url).pathname.slice(1)
  for (;;) {
    const [row] = await postgres.query(
      `SELECT count(*) AS done, max(ended_at) - min(ended_at) AS took FROM b24_receiver.delivery WHERE state = 'done'`,
      name,
    )
    if (Number(row?.['done']) >= count) {
      for (const { stop } of running) await stop()
      remove(folder)
      return (count / (Number(row?.['took']) / 1_000)).toFixed(0)
    }
    await sleep(200)
  }
}

/** Of one receiver's journal, from the first transaction to the last. */
async function rateOfForwarder(postgres: Postgres): Promise<string> {
  const url = await databaseOf(postgres)
  const dataDir = temporaryFolder()
  initIdentity(dataDir, true)
  await writeEvents(dataDir, count)
  progress('forwarding them')
  const env = {
    DATABASE_URL: url,
    DATA_DIR: dataDir,
    HANDLERS_DIR: writeHandlers(dataDir, emptyHandler),
    RUN_HANDLERS: 'off',
    LOG_LEVEL: 'warn',
  }
  const { stop } = spawnPinned([process.execPath, dispatcherScript], env)
  const name = new URL(url).pathname.slice(1)
  const isThere = "SELECT to_regclass('b24_receiver.snapshot') AS made"
  for (; ; await sleep(200)) {
    if (!(await postgres.query(isThere, name))[0]?.['made']) continue
    const [row] = await postgres.query(
      'SELECT count(*) AS count, max(created_at) - min(created_at) AS took FROM b24_receiver.delivery',
      name,
    )
    if (Number(row?.['count']) < count) continue
    await stop()
    remove(dataDir)
    return (count / (Number(row?.['took']) / 1_000)).toFixed(0)
  }
}

async function rateOfEmbedded(): Promise<string> {
  progress('the embedded engine')
  const dataDir = temporaryFolder()
  const queue = openSqliteQueue({ path: queuePath(dataDir) })
  await fill(queue, 0, count)
  await queue.close()
  const child = spawnPinned([process.execPath, dispatcherScript], {
    DATA_DIR: dataDir,
    HANDLERS_DIR: writeHandlers(dataDir, emptyHandler),
    DISPATCH_FROM: 'oldest',
    LOG_LEVEL: 'warn',
    CONCURRENCY: '50',
  })
  const db = new DatabaseSync(queuePath(dataDir), { readOnly: true, timeout: 5_000 })
  const look = db.prepare(
    "SELECT count(*) AS done, max(ended_at) - min(ended_at) AS took FROM delivery WHERE state = 'done'",
  )
  for (;;) {
    const row = look.get()
    if (Number(row?.['done']) >= count) {
      db.close()
      await child.stop()
      remove(dataDir)
      return (count / (Number(row?.['took']) / 1_000)).toFixed(0)
    }
    await sleep(200)
  }
}

/** Milliseconds from the line's own time, a moment before its answer, to the first line of the handler. */
async function delayOf(env: Record<string, string>): Promise<string> {
  const folder = temporaryFolder()
  const seen = join(folder, 'snapshot')
  const handler = `import { appendFileSync } from 'node:fs'
export default (event) => {
  const now = performance.timeOrigin + performance.now()
  appendFileSync(${JSON.stringify(seen)}, \`\${now - Date.parse(event.time)}\\n\`)
}`
  const receiver = await startReceiver({ handlers: { 'ONCRMDEALUPDATE.mjs': handler }, env })
  const delays = () => {
    try {
      return readFileSync(seen, 'utf8').trim().split('\n').map(Number)
    } catch {
      return []
    }
  }
  // The first waits for the start of the dispatcher.
  await post(receiver.url, dealBody)
  while (delays().length < 1) await sleep(50)
  for (let done = 0; done < posts; done++) {
    progress(`idle: post ${done} of ${posts}`)
    await post(receiver.url, dealBody)
    while (delays().length < done + 2) await sleep(20)
  }
  const [, ...all] = delays()
  await receiver.stop()
  remove(folder)
  return `${percentile(all, 50).toFixed(1)} / ${percentile(all, 99).toFixed(1)}`
}

/** Takes eight and ends them, as many times; as many come as went. */
async function measure(queue: Queue, waiting: number, times: number, rest = async () => undefined): Promise<string> {
  progress(`filling a queue with ${waiting}`)
  await fill(queue, 0, waiting)
  await rest()
  const taken: number[] = []
  for (let round = 0; round < times; round++) {
    const since = performance.now()
    const deliveries = await queue.claim([{ handler: 'empty', limit: 8, coalesce: false }], 8)
    await Promise.all(deliveries.map(async (delivery) => queue.done(delivery)))
    taken.push(performance.now() - since)
    await fill(queue, 1_000_000 + round * 80, deliveries.length)
  }
  return `${percentile(taken, 50).toFixed(2)} / ${percentile(taken, 99).toFixed(2)}`
}

async function claimsOfEmbedded(): Promise<string[]> {
  const cells: string[] = []
  for (const waiting of [8, large]) {
    const folder = temporaryFolder()
    const queue = openSqliteQueue({ path: join(folder, 'dispatch.db') })
    cells.push(await measure(queue, waiting, 500))
    await queue.close()
    remove(folder)
  }
  return cells
}

async function claimsOf(postgres: Postgres): Promise<string[]> {
  const cells: string[] = []
  for (const waiting of [8, large]) {
    const url = await databaseOf(postgres)
    const { queue, close } = await openQueue(url)
    // What the filling has left to do would be counted.
    const rest = async () => {
      await postgres.query('VACUUM ANALYZE', new URL(url).pathname.slice(1))
      await postgres.query('CHECKPOINT')
      return undefined
    }
    cells.push(await measure(queue, waiting, 500, rest))
    await close()
  }
  return cells
}

/** The order that pg-boss keeps by itself: what was tried first, see docs/decisions/0015-pg-boss-for-leases.md. */
async function claimsOfFifo(postgres: Postgres): Promise<string[]> {
  const boss = new PgBoss({ connectionString: await databaseOf(postgres), schedule: false, supervise: false })
  boss.on('error', () => undefined)
  await boss.start()
  const cells: string[] = []
  for (const waiting of [8, large]) {
    const queue = `fifo-${waiting}`
    await boss.createQueue(queue, { policy: 'key_strict_fifo' })
    const add = (from: number, many: number) =>
      boss.insert(
        queue,
        Array.from({ length: many }, (_, index) => ({
          singletonKey: `deal:${Math.floor((from + index) / 10)}`,
          data: eventOf(from + index),
        })),
      )
    progress(`filling pg-boss with ${waiting}`)
    for (let from = 0; from < waiting; from += 1_000) await add(from, Math.min(1_000, waiting - from))
    await postgres.query('CHECKPOINT')
    const taken: number[] = []
    for (let round = 0; round < 50; round++) {
      const since = performance.now()
      const jobs = await boss.fetch(queue, { batchSize: 8 })
      if (jobs.length > 0) await boss.complete(queue, jobs)
      taken.push(performance.now() - since)
      if (jobs.length > 0) await add(1_000_000 + round * 80, jobs.length)
    }
    cells.push(`${percentile(taken, 50).toFixed(2)} / ${percentile(taken, 99).toFixed(2)}`)
  }
  await boss.stop({ graceful: false })
  return cells
}
