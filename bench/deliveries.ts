import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import type { Event, JournalledEvent } from '../src/events/event.ts'
import { openJournal } from '../src/journal/journal.ts'
import type { Queue } from '../src/queue/queue.ts'
import { openSqliteQueue, queuePath } from '../src/queue/sqlite/queue.ts'
import { post } from '../src/simulator/post.ts'
import { dealBody, remove, spawnPinned, temporaryFolder } from './processes.ts'
import { allHandled, backlogOf, emptyHandler, startReceiver, writeHandlers } from './receiver.ts'
import { percentile, printTable, progress, say } from './table.ts'

const log = pino({ level: 'silent' })

/** The dispatcher by itself: how fast it follows, how soon a handler starts, and what a large backlog costs. */
export async function dispatcher(): Promise<void> {
  await followed()
  await started()
  await claimed()
}

async function followed(): Promise<void> {
  const events = 50_000
  const dataDir = temporaryFolder()
  await writeEvents(dataDir, events)
  void openSqliteQueue({ path: queuePath(dataDir) }).close()
  progress('following them')
  const script = fileURLToPath(new URL('../src/bin/dispatcher.ts', import.meta.url))
  const env = {
    DATA_DIR: dataDir,
    HANDLERS_DIR: writeHandlers(dataDir, emptyHandler),
    DISPATCH_FROM: 'oldest',
    LOG_LEVEL: 'warn',
  }
  const child = spawnPinned([process.execPath, script], env)
  while (backlogOf(dataDir).deliveries === 0) await sleep(5)
  const since = performance.now()
  await allHandled(dataDir)
  const seconds = (performance.now() - since) / 1000
  await child.stop()
  remove(dataDir)
  progress('')
  say(
    `Dispatcher: ${events} events followed and handled in ${seconds.toFixed(1)} s, ${(events / seconds).toFixed(0)} a second (an empty handler)`,
  )
}

export async function writeEvents(dataDir: string, events: number): Promise<void> {
  progress(`writing ${events} events`)
  const journal = await openJournal({ dataDir, segmentSize: 64 * 1024 ** 2, log })
  for (let id = 0; id < events; id += 1000)
    await Promise.all(Array.from({ length: 1000 }, (_, index) => journal.append(eventOf(id + index))))
  await journal.close()
}

/** Milliseconds from the line's own time, which has no finer one, to the first line of the handler. */
async function started(): Promise<void> {
  const posts = 300
  const folder = temporaryFolder()
  const seen = join(folder, 'snapshot')
  const handler = `import { appendFileSync } from 'node:fs'
export default (event) => {
  const now = performance.timeOrigin + performance.now()
  appendFileSync(${JSON.stringify(seen)}, \`\${now - Date.parse(event.time)}\\n\`)
}`
  const receiver = await startReceiver({ handlers: { 'ONCRMDEALUPDATE.mjs': handler } })
  // The first waits for the start of the dispatcher.
  await post(receiver.url, dealBody)
  await allHandled(receiver.dataDir)
  rmSync(seen)
  for (let done = 0; done < posts; done++) {
    progress(`idle: post ${done} of ${posts}`)
    await post(receiver.url, dealBody)
    await sleep(20)
  }
  await allHandled(receiver.dataDir)
  await receiver.stop()
  const delays = readFileSync(seen, 'utf8').trim().split('\n').map(Number)
  progress('')
  say(
    `Dispatcher: from journal line to handler, idle, ${delays.length} posts: p50 ${percentile(delays, 50).toFixed(1)} ms, p99 ${percentile(delays, 99).toFixed(1)} ms`,
  )
}

async function claimed(): Promise<void> {
  const rows: string[][] = []
  for (const waiting of [8, 100_000]) {
    const folder = temporaryFolder()
    const queue = openSqliteQueue({ path: join(folder, 'dispatch.db') })
    progress(`filling a queue with ${waiting}`)
    fill(queue, waiting)
    const times: number[] = []
    for (let round = 0; round < 2000; round++) {
      const since = performance.now()
      const deliveries = await queue.claim([{ handler: 'empty', limit: 8, coalesce: false }], 8)
      for (const delivery of deliveries) await queue.done(delivery)
      times.push(performance.now() - since)
      // As many come as went.
      fill(queue, deliveries.length, 1_000_000 + round * 8)
    }
    await queue.close()
    remove(folder)
    rows.push([String(waiting), percentile(times, 50).toFixed(2), percentile(times, 99).toFixed(2)])
  }
  progress('')
  printTable(
    'Claiming and ending 8 deliveries, with so many waiting (10 of each object)',
    ['waiting', 'p50 ms', 'p99 ms'],
    rows,
  )
}

/** Ten deliveries of each object, which wait for so many milliseconds of quiet. */
export function fill(queue: Queue, count: number, from = 0, debounce = 0): void {
  for (let done = 0; done < count; done += 1000) {
    const ids = Array.from({ length: Math.min(1000, count - done) }, (_, index) => from + done + index)
    void queue.add(
      ids.map((id) => ({ handler: 'empty', event: journalled(id), segment: 1, order: 'object', debounce })),
      { segment: 1, offset: 0 },
    )
  }
}

export function eventOf(id: number): Event {
  return {
    id: `01a20cc3-ba57-7eb6-8cc0-${String(id).padStart(12, '0')}`,
    event: 'ONCRMDEALUPDATE',
    object: `deal:${Math.floor(id / 10)}`,
    event_handler_id: '312',
    ts: '1736405807',
    data: { FIELDS: { ID: String(Math.floor(id / 10)) } },
    auth: { domain: 'example.bitrix24.com', member_id: 'a223c6b3710f85df22e9377d6c4f7553' },
    remote: '203.0.113.7',
  }
}

function journalled(id: number): JournalledEvent {
  return { level: 30, time: '2026-11-23T08:00:00.000Z', ...eventOf(id), msg: 'a deal' }
}
