import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { freePort } from '../src/cli/free-port.ts'
import { post } from '../src/simulator/post.ts'
import { postCount } from './load.ts'
import { childrenOf, dealBody, remove, rssOf, temporaryFolder, token } from './processes.ts'
import { emptyHandler, writeHandlers } from './receiver.ts'
import { median, printTable, progress, say, spread } from './table.ts'

const rounds = Number(process.env['ROUNDS'] ?? 3)
const events = Number(process.env['EVENTS'] ?? 50_000)

/** A checkout, used as its user would: by `npm start`, and by the program of its `bin`. */
interface Version {
  readonly root: string
  readonly cli: readonly string[]
}

/** One run gives a value for each row. */
interface Measure {
  readonly rows: readonly string[]
  readonly run: (version: Version) => Promise<readonly number[]>
}

const readers = ['--help', 'status', 'events', 'show deal:662', 'dead', 'handlers', 'verify'] as const

const measures: Readonly<Record<string, Measure>> = {
  memory: { rows: ['MB private at rest, all processes, no handlers'], run: memoryAtRest },
  start: { rows: ['ms from npm start to the first answer, empty journal'], run: timeToFirstAnswer },
  commands: { rows: readers.map((command) => `ms of b24-receiver ${command}, 200 events`), run: timeOfCommands },
  deliveries: {
    rows: [
      'deliveries a second, embedded, empty handler',
      'bytes in dispatch.db for a finished delivery',
      `MB RSS of the receiver after ${events} posts`,
      `MB RSS of the dispatcher after ${events} deliveries`,
    ],
    run: deliver,
  },
}

/**
 * Measures another checkout (`BEFORE=/path`, with its packages installed) and this one, one after the other in every
 * round. `MEASURES=memory,start` chooses some.
 */
export async function versions(): Promise<void> {
  const { BEFORE: path = '', MEASURES: names = Object.keys(measures).join() } = process.env
  if (!existsSync(join(path, 'node_modules'))) {
    say('versions is left out: BEFORE must be the folder of another checkout, in which `npm ci` was run')
    return
  }
  const pair = [path, fileURLToPath(new URL('..', import.meta.url))].map(versionIn)
  const table: string[][] = []
  for (const name of names.split(',')) {
    const measure = measures[name]
    if (measure === undefined) {
      say(`versions does not measure "${name}": it measures ${Object.keys(measures).join(', ')}`)
      continue
    }
    const { rows, run } = measure
    const taken: (readonly number[])[][] = []
    for (let round = 1; round <= rounds; round++) {
      progress(`${name}: round ${round} of ${rounds}`)
      const values: (readonly number[])[] = []
      for (const version of pair) values.push(await run(version))
      taken.push(values)
    }
    for (const [row, what] of rows.entries()) {
      const [before, now] = [0, 1].map((version) => taken.map((round) => round[version]?.[row] ?? Number.NaN))
      const ratios = now?.map((value, round) => value / (before?.[round] ?? Number.NaN)) ?? []
      table.push([what, spread(before ?? []), spread(now ?? []), median(ratios).toFixed(2)])
    }
  }
  progress('')
  const [before = '', now = ''] = pair.map(({ root }) => commitOf(root))
  printTable(`Two versions in turn, ${rounds} rounds`, ['what', before, now, 'ratio'], table)
}

function versionIn(root: string): Version {
  const { bin } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  return { root, cli: [join(root, 'node_modules/.bin/node'), join(root, bin['b24-receiver'])] }
}

function commitOf(root: string): string {
  return execFileSync('git', ['-C', root, 'describe', '--always', '--dirty'], { encoding: 'utf8' }).trim()
}

interface Started {
  readonly url: string
  readonly env: Readonly<Record<string, string>>
  /** Of the receiver, and of what it started. */
  readonly pids: () => readonly number[]
  readonly stop: () => Promise<void>
}

/** Resolves when it answers. */
async function start({ root }: Version, folder: string, more: Readonly<Record<string, string>> = {}): Promise<Started> {
  const port = await freePort()
  const env = {
    PATH: process.env['PATH'] ?? '',
    HOME: process.env['HOME'] ?? '',
    B24_APPLICATION_TOKEN: token,
    HOST: '127.0.0.1',
    PORT: String(port),
    ADMIN_PORT: String(await freePort()),
    DATA_DIR: join(folder, 'data'),
    LOG_LEVEL: 'warn',
    ...more,
  }
  const child = spawn('npm', ['start'], { cwd: root, stdio: 'ignore', env })
  const url = `http://127.0.0.1:${port}/bitrix24`
  while (!(await isAnswered(url))) await sleep(5)
  return {
    url,
    env,
    pids: () => familyOf(child.pid ?? 0).filter((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('src/')),
    async stop() {
      const gone = once(child, 'exit')
      child.kill('SIGTERM')
      await gone
    },
  }
}

/** A wrong token is refused, so nothing is journalled. */
function isAnswered(url: string): Promise<boolean> {
  return post(url, dealBody.replace(token, token.toUpperCase())).then(
    ({ status }) => status === 403,
    () => false,
  )
}

function familyOf(pid: number): number[] {
  return [pid, ...childrenOf(pid).flatMap(familyOf)]
}

async function memoryAtRest(version: Version): Promise<readonly number[]> {
  const folder = temporaryFolder()
  const env = { HANDLERS_DIR: writeHandlers(folder, {}), ALERT_URL: 'http://127.0.0.1:9/alerts' }
  const running = await start(version, folder, env)
  // Alerts are looked at every few seconds, and what the start left is collected.
  await sleep(10_000)
  const bytes = running.pids().map(privateOf)
  await running.stop()
  remove(folder)
  return [bytes.reduce((sum, one) => sum + one, 0) / 1024 ** 2]
}

function privateOf(pid: number): number {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8')
  return Number(/Private_Dirty:\s+(\d+)/.exec(rollup)?.[1]) * 1024
}

async function timeToFirstAnswer(version: Version): Promise<readonly number[]> {
  const folder = temporaryFolder()
  const env = { HANDLERS_DIR: writeHandlers(folder, emptyHandler) }
  const since = performance.now()
  const running = await start(version, folder, env)
  const taken = performance.now() - since
  await running.stop()
  remove(folder)
  return [taken]
}

const withSmallJournal = new Map<string, Started>()

/** While the receiver runs; of each the middle one of five. */
async function timeOfCommands(version: Version): Promise<readonly number[]> {
  const { env } = withSmallJournal.get(version.root) ?? (await startSmall(version))
  return readers.map((command) => {
    const [file = '', ...args] = [...version.cli, ...command.split(' ')]
    const times = Array.from({ length: 5 }, () => {
      const since = performance.now()
      spawnSync(file, args, { env, stdio: 'ignore' })
      return performance.now() - since
    })
    return median(times)
  })
}

async function startSmall(version: Version): Promise<Started> {
  const folder = temporaryFolder()
  const running = await start(version, folder, { HANDLERS_DIR: writeHandlers(folder, emptyHandler) })
  for (let posts = 0; posts < 200; posts++) await post(running.url, dealBody)
  withSmallJournal.set(version.root, running)
  process.once('exit', () => void running.stop())
  return running
}

/** Posts that no dispatcher sees, and then their deliveries with nothing else to do. */
async function deliver(version: Version): Promise<readonly number[]> {
  const folder = temporaryFolder()
  const times = join(folder, 'times')
  const handler = `import { appendFileSync } from 'node:fs'
let count = 0
export default () => {
  if (++count === 1000 || count === ${events}) appendFileSync(${JSON.stringify(times)}, performance.now() + '\\n')
}`
  const env = { HANDLERS_DIR: writeHandlers(folder, { 'ONCRMDEALUPDATE.mjs': handler }), DISPATCH_FROM: 'oldest' }
  const receiver = await start(version, folder, { ...env, DISPATCHER: 'off' })
  await postCount(events, { url: receiver.url, mode: 'keep-alive', connections: 64 })
  const [receiverPid = 0] = receiver.pids()
  const receiverRss = rssOf(receiverPid)
  await receiver.stop()
  const running = await start(version, folder, env)
  const taken = () => (existsSync(times) ? readFileSync(times, 'utf8').trim().split('\n').map(Number) : [])
  while (taken().length < 2) await sleep(100)
  // The last of them are ended.
  await sleep(2_000)
  const dispatcherRss = Math.max(...running.pids().slice(1).map(rssOf))
  await running.stop()
  const [from = 0, to = 0] = taken()
  const bytes = filesOf(join(folder, 'data'), 'dispatch.db').reduce((sum, path) => sum + statSync(path).size, 0)
  remove(folder)
  return [((events - 1000) / (to - from)) * 1000, bytes / events, receiverRss / 1024 ** 2, dispatcherRss / 1024 ** 2]
}

function filesOf(folder: string, beginning: string): string[] {
  return readdirSync(folder)
    .filter((name) => name.startsWith(beginning))
    .map((name) => join(folder, name))
}
