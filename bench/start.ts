import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, mkdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { freePort } from '../src/cli/free-port.ts'
import { journalDir } from '../src/journal/segments.ts'
import { openSqliteQueue, queuePath } from '../src/queue/sqlite/queue.ts'
import { post } from '../src/simulator/post.ts'
import { eventOf, fill } from './deliveries.ts'
import { dealBody, remove, temporaryFolder, token } from './processes.ts'
import { emptyHandler, writeHandlers } from './receiver.ts'
import { printTable, progress, spread } from './table.ts'

const segmentSize = 64 * 1024 ** 2
const times = 5

/** From `npm start` to the first post that is answered with 200. */
export async function start(): Promise<void> {
  const rows: string[][] = []
  for (const [what, prepare] of [
    ['an empty folder', () => undefined],
    ['a journal of 1 GiB', writeGibibyte],
    ['100,000 waiting deliveries', fillQueue],
  ] as const) {
    const taken: number[] = []
    const dataDir = temporaryFolder()
    prepare(dataDir)
    for (let time = 0; time < times; time++) {
      progress(`start ${time + 1} of ${times} with ${what}`)
      taken.push(await timeToFirstAnswer(dataDir))
    }
    remove(dataDir)
    rows.push([what, spread(taken)])
  }
  progress('')
  printTable('From npm start to the first answered post', ['with', 'ms'], rows)
}

async function timeToFirstAnswer(dataDir: string): Promise<number> {
  const port = await freePort()
  const since = performance.now()
  const child = spawn('npm', ['start'], {
    cwd: fileURLToPath(new URL('..', import.meta.url)),
    stdio: 'ignore',
    env: {
      PATH: process.env['PATH'],
      HOME: process.env['HOME'],
      B24_APPLICATION_TOKEN: token,
      HOST: '127.0.0.1',
      PORT: String(port),
      ADMIN_PORT: String(await freePort()),
      DATA_DIR: dataDir,
      HANDLERS_DIR: writeHandlers(dataDir, emptyHandler),
      LOG_LEVEL: 'warn',
    },
  })
  const url = `http://127.0.0.1:${port}/bitrix24`
  const isAnswered = () =>
    post(url, dealBody).then(
      ({ status }) => status === 200,
      () => false,
    )
  while (!(await isAnswered())) await sleep(5)
  const taken = performance.now() - since
  const gone = once(child, 'exit')
  child.kill('SIGTERM')
  await gone
  return taken
}

/** Full segments, followed to the end. */
function writeGibibyte(dataDir: string): void {
  const line = `${JSON.stringify({ level: 30, time: '2026-11-23T08:00:00.000Z', ...eventOf(1), msg: 'a deal' })}\n`
  const segments = 1024 ** 3 / segmentSize
  const path = (number: number) => join(journalDir(dataDir), `${String(number).padStart(12, '0')}-2026-11-23.ndjson`)
  mkdirSync(journalDir(dataDir), { recursive: true })
  writeFileSync(path(1), line.repeat(Math.ceil(segmentSize / line.length)))
  for (let number = 2; number <= segments; number++) copyFileSync(path(1), path(number))
  const queue = openSqliteQueue({ path: queuePath(dataDir) })
  void queue.add([], { segment: segments, offset: statSync(path(segments)).size })
  void queue.close()
}

function fillQueue(dataDir: string): void {
  const queue = openSqliteQueue({ path: queuePath(dataDir) })
  // They wait for another day: nothing may make them fewer while the start is measured.
  fill(queue, 100_000, 0, 30 * 86_400_000)
  void queue.close()
}
