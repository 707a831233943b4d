import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { dealBody, rssOf, temporaryFolder, token } from './processes.ts'
import { startReceiver } from './receiver.ts'
import { megabytes, percentile, printTable, progress, say } from './table.ts'

const size = 1024 ** 2
const autocannon = fileURLToPath(import.meta.resolve('autocannon'))
const wrong = token.replaceAll('0', '1')

/** What a body is made of: so many parameters of one kind, and a value that fills it up to a megabyte. */
interface Shape {
  readonly count: number
  readonly depth: number
  /** Signs of a name before its brackets. */
  readonly name: number
  readonly letter: string
  readonly bracket: string
  readonly value: string
  readonly isOneObject: boolean
  readonly isValueShared: boolean
  readonly token: 'ours' | 'wrong' | 'none'
}

const choices = {
  count: [0, 1, 10, 100, 300, 500, 1_000, 2_000, 3_300, 4_900, 8_000, 9_900, 100_000, 400_000],
  depth: [0, 1, 2, 3, 5, 10, 20, 33, 60],
  name: [1, 2, 8, 30, 100, 500, 1_900],
  letter: [
    'a',
    '%61',
    '%zz',
    '%FF',
    '+',
    'П',
    '\u0001',
    'auth[application_token',
    '%61%75%74%68%5Bapplication',
    'e',
    '&',
    '1',
  ],
  bracket: ['[]', '[a]', '[0]', '%5Ba%5D', '[', '[[]]', '[a', '[%41%zz]', '[constructor]'],
  value: ['a', '%41', '%zz', '%', '%FF', '+', '%5B', ']=', '=', '"', '%01', '\u0001', '%D0%9F', '&', 'a&', token],
  isOneObject: [true, false],
  isValueShared: [true, false],
  token: ['ours', 'wrong', 'none'],
} as const

const plain = {
  count: 0,
  depth: 0,
  name: 1,
  letter: 'a',
  bracket: '[a]',
  value: 'a',
  isOneObject: false,
  isValueShared: false,
} as const

/** Where the search begins: what was dear once. */
const known: readonly Shape[] = (['none', 'ours'] as const).flatMap((one) => [
  { ...plain, token: one, count: 8_000, depth: 60, bracket: '[]' },
  { ...plain, token: one, count: 500, depth: 60, bracket: '[b]', name: 1_800 },
  { ...plain, token: one, count: 8_000, letter: '%zz%41', name: 90 },
  { ...plain, token: one, value: '\u0001' },
])

/** mulberry32: a run can be had again by its seed. */
function createRandom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

function bodyOf(shape: Shape): Buffer {
  const end = shape.token === 'none' ? '' : `&auth[application_token]=${shape.token === 'ours' ? token : wrong}`
  const parts = ['event=ONCRMDEALUPDATE']
  let length = Buffer.byteLength(parts[0] ?? '') + Buffer.byteLength(end)
  const letters = shape.letter.repeat(Math.ceil(shape.name / shape.letter.length))
  // Below `data`, because what stands beside it is dropped.
  const brackets = shape.bracket.repeat(shape.depth)
  for (let index = 0; index < shape.count; index++) {
    const name = shape.isOneObject ? `data[x]${brackets}[${letters}${index}]` : `data[${letters}${index}]${brackets}`
    const part = `&${name}=${shape.isValueShared ? shape.value.repeat(20) : ''}`
    const bytes = Buffer.byteLength(part)
    if (length + bytes > size) break
    parts.push(part)
    length += bytes
  }
  const fill = '&data[fill]='
  const room = Math.floor((size - length - fill.length) / Buffer.byteLength(shape.value))
  if (room > 0) parts.push(fill, shape.value.repeat(room))
  return Buffer.from(parts.join('') + end)
}

function describe(shape: Shape): string {
  const { count, depth, name, letter, bracket, value, isOneObject } = shape
  const names = `${count} × ${JSON.stringify(letter)} to ${name} signs, ${depth} × ${bracket}${isOneObject ? ', one object' : ''}`
  return `${names}; values of ${JSON.stringify(value)}`
}

/** Milliseconds that the main thread of a process has run. */
function busy(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6
}

const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY })

function post(url: string, body: Buffer | string): Promise<{ status: number; ms: number }> {
  const since = performance.now()
  const headers = { 'content-type': 'application/x-www-form-urlencoded', 'content-length': Buffer.byteLength(body) }
  return new Promise((resolve) => {
    const sent = request(url, { method: 'POST', headers, agent }, (answer) => {
      answer.resume().on('end', () => resolve({ status: answer.statusCode ?? 0, ms: performance.now() - since }))
    })
    // A refused body may be cut off while it is sent.
    sent.on('error', () => resolve({ status: 0, ms: performance.now() - since }))
    sent.end(body)
  })
}

interface Found {
  readonly shape: Shape
  readonly ms: number
  readonly status: number
}

/** Searches for the dearest megabyte: shapes by chance, then changes of the dearest that were found. */
export async function forms(): Promise<void> {
  const seed = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1e9))
  const rounds = Number(process.env['ROUNDS'] ?? 300)
  const random = createRandom(seed)
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T
  const receiver = await startReceiver({ env: { DISPATCHER: 'off', SEGMENT_SIZE: '1GB' } })
  const rss = rssOf(receiver.pid)
  for (let warm = 0; warm < 200; warm++) await post(receiver.url, dealBody)

  const cost = async (shape: Shape): Promise<Found> => {
    const body = bodyOf(shape)
    let least = { ms: Number.POSITIVE_INFINITY, status: 0 }
    // The least of some: a collection of garbage belongs to no body in particular.
    for (let time = 0; time < 3; time++) {
      const before = busy(receiver.pid)
      const { status } = await post(receiver.url, body)
      const ms = busy(receiver.pid) - before
      if (ms < least.ms) least = { ms, status }
      if (ms > 500) break
    }
    return { shape, ...least }
  }
  const any = (): Shape => ({
    count: pick(choices.count),
    depth: pick(choices.depth),
    name: pick(choices.name),
    letter: pick(choices.letter),
    bracket: pick(choices.bracket),
    value: pick(choices.value),
    isOneObject: pick(choices.isOneObject),
    isValueShared: pick(choices.isValueShared),
    token: pick(choices.token),
  })
  const change = (shape: Shape): Shape => {
    const other = any()
    const key = pick(Object.keys(choices) as (keyof Shape)[])
    const count = Math.max(0, Math.round(shape.count * (0.6 + 0.8 * random())))
    return { ...shape, [key]: key === 'count' && random() < 0.5 ? count : other[key], token: shape.token }
  }

  const found: Found[] = []
  const dearest = (isOurs: boolean) =>
    found.filter(({ shape }) => (shape.token === 'ours') === isOurs).sort((a, b) => b.ms - a.ms)
  for (const shape of known) found.push(await cost(shape))
  for (let round = found.length; round < rounds; round++) {
    progress(`forms ${round + 1} of ${rounds}`)
    const best = dearest(round % 2 === 0).slice(0, 8)
    found.push(await cost(round < rounds / 3 || best.length === 0 ? any() : change(pick(best).shape)))
  }
  progress('')
  say(`seed ${seed}, ${rounds} bodies of 1 MB`)
  for (const isOurs of [false, true])
    printTable(
      `The ten dearest ${isOurs ? 'with' : 'without'} a token of ours`,
      ['ms of the receiver', 'MB/s', 'answer', 'shape'],
      dearest(isOurs)
        .slice(0, 10)
        .map(({ ms, status, shape }) => [ms.toFixed(1), (1000 / ms).toFixed(1), String(status), describe(shape)]),
    )
  await receiver.stop()
  await underFire(dearest(false)[0]?.shape ?? any(), rss)
  await holdBack()
}

/** Good posts, one after another, before and while 200 of the dearest come at once. */
async function underFire(shape: Shape, rss: number): Promise<void> {
  const receiver = await startReceiver({ env: { DISPATCHER: 'off' } })
  for (let warm = 0; warm < 500; warm++) await post(receiver.url, dealBody)
  const rest = Math.max(rss, rssOf(receiver.pid))
  const calm: number[] = []
  for (let one = 0; one < 500; one++) calm.push((await post(receiver.url, dealBody)).ms)
  let most = rest
  const watch = setInterval(() => {
    most = Math.max(most, rssOf(receiver.pid))
  }, 5)
  const file = join(temporaryFolder(), 'body')
  writeFileSync(file, bodyOf(shape))
  const disturbed: { status: number; ms: number }[] = []
  let isUnderFire = true
  const since = performance.now()
  // In another process, so that what is measured here is not our own sending.
  const headers = ['-H', 'content-type=application/x-www-form-urlencoded']
  const cannon = [
    autocannon,
    '-j',
    '-m',
    'POST',
    '-c',
    '200',
    '-a',
    '200',
    '-t',
    '60',
    ...headers,
    '-i',
    file,
    receiver.url,
  ]
  const fire = promisify(execFile)(process.execPath, cannon).finally(() => {
    isUnderFire = false
  })
  while (isUnderFire) {
    disturbed.push(await post(receiver.url, dealBody))
    await sleep(2)
  }
  const { stdout } = await fire
  const taken = performance.now() - since
  clearInterval(watch)
  const refused = disturbed.filter(({ status }) => status !== 200).length
  const { statusCodeStats = {}, errors = 0 }: { statusCodeStats?: Record<string, { count: number }>; errors?: number } =
    JSON.parse(stdout)
  const statuses = Object.entries(statusCodeStats).map(([status, { count }]) => `${count} × ${status}`)
  if (errors > 0) statuses.push(`${errors} cut off`)
  printTable(
    '200 of the dearest without a token at once',
    ['answers', 'all after ms', 'MB at rest', 'MB at most', 'ratio', 'good p99 ms before', 'meanwhile', 'good refused'],
    [
      [
        statuses.join(', '),
        taken.toFixed(0),
        megabytes(rest),
        megabytes(most),
        (most / rest).toFixed(2),
        percentile(calm, 99).toFixed(1),
        percentile(
          disturbed.map(({ ms }) => ms),
          99,
        ).toFixed(1),
        `${refused} of ${disturbed.length}`,
      ],
    ],
  )
  await receiver.stop()
}

/** 200 bodies that lack their last byte: what they cost as long as their senders like. */
async function holdBack(): Promise<void> {
  const receiver = await startReceiver({ env: { DISPATCHER: 'off' } })
  for (let warm = 0; warm < 500; warm++) await post(receiver.url, dealBody)
  const rest = rssOf(receiver.pid)
  let most = rest
  const watch = setInterval(() => {
    most = Math.max(most, rssOf(receiver.pid))
  }, 5)
  const { hostname, port, pathname } = new URL(receiver.url)
  const type = 'Content-Type: application/x-www-form-urlencoded'
  const head = `POST ${pathname} HTTP/1.1\r\nHost: ${hostname}\r\n${type}\r\nContent-Length: ${size}\r\n\r\n`
  const held = Buffer.concat([Buffer.from(head), Buffer.alloc(size - 1, 'a')])
  const senders = await Promise.all(
    Array.from({ length: 200 }, async () => {
      const socket = connect(Number(port), hostname)
      const sender = { socket, answer: '' }
      socket.on('data', (bytes) => {
        sender.answer += bytes.toString('latin1')
      })
      // What is refused is not read on, and its connection is reset.
      socket.on('error', () => undefined)
      await new Promise((resolve) => {
        socket.once('close', resolve).write(held, resolve)
      })
      return sender
    }),
  )
  const good: number[] = []
  for (let one = 0; one < 100; one++) good.push((await post(receiver.url, dealBody)).status)
  const after = rssOf(receiver.pid)
  clearInterval(watch)
  const open = senders.filter(({ socket }) => !socket.destroyed).length
  const told = senders.filter(({ answer }) => answer.startsWith('HTTP/1.1 503')).length
  printTable(
    '200 bodies of 1 MB that lack their last byte',
    ['still held', 'answered 503', 'MB at rest', 'MB at most', 'more', 'MB while they are held', 'good refused'],
    [
      [
        String(open),
        String(told),
        megabytes(rest),
        megabytes(most),
        `+${megabytes(most - rest)}`,
        megabytes(after),
        `${good.filter((status) => status !== 200).length} of ${good.length}`,
      ],
    ],
  )
  for (const { socket } of senders) socket.destroy()
  await receiver.stop()
}
