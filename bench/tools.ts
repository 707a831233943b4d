import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { appendFileSync, utimesSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { createSegment, pointStableName } from '../src/journal/segments.ts'
import { openSqliteQueue, queuePath } from '../src/queue/sqlite/queue.ts'
import { remove, temporaryFolder } from './processes.ts'
import { megabytes, printTable, progress, spread } from './table.ts'

const lines = 1_000_000
const segmentSize = 64 * 1024 ** 2
const hour = 3_600_000
const rounds = 5

/** The commands that read the journal, on a million events of one day, which the page cache holds. */
export async function tools(): Promise<void> {
  const dataDir = temporaryFolder()
  progress(`writing ${lines} events`)
  const { middle, bytes, segments } = await writeDay(dataDir)
  const rows: string[][] = []
  for (const args of [
    ['events', '--object', 'deal:662'],
    ['events', '--event', 'ONCRMDEALUPDATE', '--since', '2h'],
    ['show', middle],
    ['show', middle.slice(0, 13)],
    ['tail', '--since', '1h', '--json'],
    ['verify'],
  ]) {
    const runs: Run[] = []
    for (let round = 1; round <= rounds; round++) {
      progress(`${args[0]}, ${round} of ${rounds}`)
      runs.push(await run(dataDir, args))
    }
    rows.push([
      args.join(' ').replace(middle, 'ID').replace(middle.slice(0, 13), 'the beginning of an id'),
      spread(
        runs.map(({ all }) => all / 1000),
        2,
      ),
      spread(
        runs.map(({ first }) => first / 1000),
        2,
      ),
      spread(
        runs.map(({ cpu }) => cpu / 1000),
        2,
      ),
      String(runs[0]?.lines),
      megabytes(Math.max(...runs.map(({ memory }) => memory))),
    ])
  }
  remove(dataDir)
  progress('')
  printTable(
    `The tools on ${lines} events, ${megabytes(bytes)} MB in ${segments} segments; seconds from the start of the process, ${rounds} runs`,
    ['command', 'done after s', 'first output after s', 'CPU s', 'lines', 'MB at most'],
    rows,
  )
}

interface Run {
  /** Milliseconds until it ended, and until it said something. */
  readonly all: number
  readonly first: number
  /** Milliseconds of it and of the kernel for it. */
  readonly cpu: number
  readonly lines: number
  /** Bytes. */
  readonly memory: number
}

/** Tells on another descriptor how much of the machine it took. */
const preload = `data:text/javascript,import{writeSync}from'node:fs';process.on('exit',()=>writeSync(3,JSON.stringify(process.resourceUsage())))`

async function run(dataDir: string, args: readonly string[]): Promise<Run> {
  const script = fileURLToPath(new URL('../src/bin/cli.ts', import.meta.url))
  const since = performance.now()
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', '--import', preload, script, ...args],
    {
      stdio: ['ignore', 'pipe', 'ignore', 'pipe'],
      env: { PATH: process.env['PATH'], DATA_DIR: dataDir },
    },
  )
  let first = Number.NaN
  let count = 0
  child.stdout?.on('data', (chunk: Buffer) => {
    if (Number.isNaN(first)) first = performance.now() - since
    for (const byte of chunk) if (byte === 0x0a) count++
  })
  let told = ''
  child.stdio[3]?.on('data', (chunk: Buffer) => {
    told += chunk.toString()
  })
  await once(child, 'close')
  if (child.exitCode !== 0) throw new Error(`${args.join(' ')} ended with ${child.exitCode}`)
  const usage: NodeJS.ResourceUsage = JSON.parse(told)
  const cpu = (usage.userCPUTime + usage.systemCPUTime) / 1000
  return { all: performance.now() - since, cpu, first, lines: count, memory: usage.maxRSS * 1024 }
}

/** A day until now, in full segments, each as old as its last line. All of it was followed. */
async function writeDay(dataDir: string): Promise<{ middle: string; bytes: number; segments: number }> {
  const end = Date.now()
  const from = end - 24 * hour
  let middle = ''
  let bytes = 0
  let number = 0
  let path = ''
  let text: string[] = []
  let size = 0
  const seal = async (time: number) => {
    const segment = await createSegment(dataDir, ++number, new Date(time))
    path = segment.path
    appendFileSync(path, text.join(''))
    utimesSync(path, time / 1000, time / 1000)
    await pointStableName(dataDir, segment)
    bytes += size
    text = []
  }
  for (let index = 0; index < lines; index++) {
    const time = Math.floor(from + (24 * hour * index) / lines)
    const { id, line } = lineOf(index, time)
    if (index === lines / 2) middle = id
    text.push(line)
    size += line.length
    if (size < segmentSize && index < lines - 1) continue
    await seal(time)
    if (index < lines - 1) size = 0
  }
  const queue = openSqliteQueue({ path: queuePath(dataDir) })
  await queue.add([], { segment: number, offset: size })
  await queue.close()
  return { middle, bytes, segments: number }
}

const kinds = [
  ['ONCRMDEALUPDATE', 'deal'],
  ['ONCRMCONTACTUPDATE', 'contact'],
  ['ONCRMLEADADD', 'lead'],
  ['ONCRMACTIVITYUPDATE', 'activity'],
] as const

/** As the receiver writes it, of ASCII only; 50,000 objects of each kind. */
function lineOf(index: number, time: number): { id: string; line: string } {
  const [event, kind] = kinds[index % kinds.length] ?? kinds[0]
  // All over the numbers, by the golden ratio.
  const number = Math.floor(((index * 0.618034) % 1) * 50_000)
  const hex = time.toString(16).padStart(12, '0')
  const id = `${hex.slice(0, 8)}-${hex.slice(8)}-7000-8000-${randomBytes(6).toString('hex')}`
  const line = JSON.stringify({
    level: 30,
    time: new Date(time).toISOString(),
    id,
    webhook: 'sales',
    event,
    object: `${kind}:${number}`,
    event_handler_id: '201',
    ts: String(Math.floor(time / 1000)),
    data: { FIELDS: { ID: String(number) } },
    auth: {
      domain: 'some-domain.bitrix24.com',
      client_endpoint: 'https://some-domain.bitrix24.com/rest/',
      server_endpoint: 'https://oauth.bitrix.info/rest/',
      member_id: 'a223c6b3710f85df22e9377d6c4f7553',
    },
    remote: '203.0.113.7',
    msg: `${event} ${kind}:${number}`,
  })
  return { id, line: `${line}\n` }
}
