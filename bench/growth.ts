import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { post, postCount } from './load.ts'
import { isInstalled, rssOf, temporaryFolder } from './processes.ts'
import { allHandled, backlogOf, countLines, emptyHandler, type Receiver, startReceiver } from './receiver.ts'
import { megabytes, printTable, progress, say } from './table.ts'

const connections = 64

/** Whether a receiver that runs for long grows: every 100,000 posts, each about another deal, all of them handled. */
export async function million(): Promise<void> {
  const steps = Number(process.env['STEPS'] ?? 10)
  const receiver = await startReceiver({ handlers: emptyHandler })
  const rows: string[][] = []
  for (let step = 1; step <= steps; step++) {
    progress(`${step} of ${steps} × 100,000`)
    const { posts, rate } = await postCount(100_000, { url: receiver.url, mode: 'keep-alive', connections })
    const { deliveries } = backlogOf(receiver.dataDir)
    const since = performance.now()
    await allHandled(receiver.dataDir)
    const seconds = (performance.now() - since) / 1000
    rows.push([
      `${step}00,000`,
      String(posts),
      rate.toFixed(0),
      String(deliveries),
      seconds.toFixed(1),
      ...memoryOf(receiver),
    ])
  }
  progress('')
  const lines = countLines(receiver.dataDir)
  await receiver.stop()
  printTable(
    `${steps * 100_000} posts through one receiver, a handler for every event, ${connections} connections; ${lines} lines in the journal`,
    ['posts', '200', 'rate', 'not handled yet', 'all handled after s', 'receiver MB', 'dispatcher MB'],
    rows,
  )
}

/** A bulk edit: a thousand connections at the same moment, one post each. */
export async function burst(): Promise<void> {
  const receiver = await startReceiver()
  const rows: string[][] = []
  for (let round = 1; round <= 10; round++) {
    progress(`burst ${round} of 10`)
    const before = countLines(receiver.dataDir)
    const { posts, refused, failed, p50, p99, max } = await postCount(1000, {
      url: receiver.url,
      mode: 'close',
      connections: 1000,
    })
    rows.push([round, posts, refused, failed, countLines(receiver.dataDir) - before, p50, p99, max].map(String))
  }
  progress('')
  await receiver.stop()
  printTable(
    '1,000 connections at once, one post each',
    ['', 'answered 200', 'refused', 'failed', 'lines', 'p50 ms', 'p99 ms', 'max ms'],
    rows,
  )
}

/** Group commit where an fsync takes 5 ms longer: the rate must hold, only the latency may grow. */
export async function slowDisk(): Promise<void> {
  if (!canDelay()) return
  const rows: string[][] = []
  for (const mode of ['keep-alive', 'close'] as const)
    for (const [delay, clients] of [
      [0, 64],
      [5000, 64],
      [0, 256],
      [5000, 256],
    ] as const) {
      progress(`fsync + ${delay} µs, ${mode}, ${clients} connections`)
      const trace = join(temporaryFolder(), 'trace')
      const receiver = await startReceiver({ under: delayedFsync(trace, `delay_exit=${delay}`) })
      const load = { url: receiver.url, mode, connections: clients }
      await post({ ...load, seconds: 1 })
      const before = syncsIn(trace)
      const { posts, rate, p50, p99 } = await post({ ...load, seconds: 4 })
      const perSync = posts / (syncsIn(trace) - before)
      const lonely = await post({ ...load, connections: 1, seconds: 1 })
      rows.push([
        mode,
        String(clients),
        `+ ${delay / 1000} ms`,
        rate.toFixed(0),
        perSync.toFixed(1),
        p50.toFixed(1),
        p99.toFixed(1),
        lonely.p50.toFixed(1),
      ])
      await receiver.stop()
    }
  progress('')
  printTable(
    'A slow disk (strace delays fdatasync)',
    ['', 'connections', 'fsync', 'rate', 'lines per fsync', 'p50 ms', 'p99 ms', 'lonely p50 ms'],
    rows,
  )
}

/** A disk that does not answer for a while, while posts come: they wait, then they are refused, and memory stays bounded. */
export async function stalledDisk(): Promise<void> {
  if (!canDelay()) return
  const rows: string[][] = []
  for (const { stall, clients } of [
    { stall: 5, clients: 1000 },
    { stall: 30, clients: 1000 },
    { stall: 30, clients: 15_000 },
  ]) {
    progress(`the disk stands for ${stall} s, ${clients} clients`)
    const trace = join(temporaryFolder(), 'trace')
    // Not the first: it is to work before it stalls.
    const fault = `delay_enter=${stall}s:when=5..5`
    const receiver = await startReceiver({ under: delayedFsync(trace, fault), env: { DISPATCHER: 'off' } })
    const before = rssOf(receiver.pid)
    let peak = before
    const watch = setInterval(() => {
      peak = Math.max(peak, rssOf(receiver.pid))
    }, 100)
    const outcome = await post({ url: receiver.url, mode: 'close', connections: clients, seconds: stall + 5 })
    clearInterval(watch)
    const after = rssOf(receiver.pid)
    rows.push([
      `${stall} s, ${clients} clients`,
      String(outcome.posts),
      String(outcome.refused),
      String(outcome.failed),
      (outcome.max / 1000).toFixed(1),
      megabytes(before),
      megabytes(peak),
      megabytes(after),
    ])
    await receiver.stop()
  }
  progress('')
  printTable(
    'A disk that stalls (strace delays one fdatasync), a connection per post',
    ['stall', '200', '503', 'failed', 'longest wait s', 'MB before', 'MB at most', 'MB after'],
    rows,
  )
}

function canDelay(): boolean {
  const isThere = isInstalled('strace')
  if (!isThere) say('strace is missing, so no disk can be made slow (Debian: apt-get install strace)')
  return isThere
}

function delayedFsync(trace: string, fault: string): string[] {
  return ['strace', '-f', '--seccomp-bpf', '-e', 'trace=fdatasync', '-e', `inject=fdatasync:${fault}`, '-o', trace]
}

function syncsIn(trace: string): number {
  return readFileSync(trace, 'utf8').match(/fdatasync\(/g)?.length ?? 0
}

function memoryOf(receiver: Receiver): string[] {
  return [receiver.pid, receiver.dispatcherPid() ?? receiver.pid].map((pid) => megabytes(rssOf(pid)))
}
