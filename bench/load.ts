import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { dealBody, isInstalled, loadCore, temporaryFolder } from './processes.ts'

/** `close`: a connection per post, as Bitrix24 does it. */
export const modes = ['keep-alive', 'close'] as const
export type Mode = (typeof modes)[number]

export interface Load {
  readonly url: string
  readonly mode: Mode
  readonly connections: number
  readonly seconds: number
}

export interface Outcome {
  /** Answered with 200. */
  readonly posts: number
  /** Answered with something else. */
  readonly refused: number
  /** Never answered. */
  readonly failed: number
  /** Per second. */
  readonly rate: number
  /** Milliseconds. */
  readonly p50: number
  readonly p99: number
  readonly max: number
}

const run = promisify(execFile)
const pinned = ['-c', String(loadCore)]
const autocannon = fileURLToPath(import.meta.resolve('autocannon'))
const contentType = 'application/x-www-form-urlencoded'

export const generator = isInstalled('wrk') ? 'wrk' : 'autocannon'

/** Posts the same body over and over again. */
export const post =
  generator === 'wrk'
    ? postWithWrk
    : ({ seconds, ...load }: Load) => postWithAutocannon({ ...load, args: ['-d', String(seconds)] })

const scripts = temporaryFolder()

async function postWithWrk({ url, mode, connections, seconds }: Load): Promise<Outcome> {
  const script = join(scripts, `${mode}.lua`)
  writeFileSync(
    script,
    `wrk.method = 'POST'
wrk.body = '${dealBody}'
wrk.headers['Content-Type'] = '${contentType}'
${mode === 'close' ? "wrk.headers['Connection'] = 'close'" : ''}
done = function(summary, latency)
  local e = summary.errors
  print(string.format('@{"posts":%d,"refused":%d,"failed":%d,"rate":%f,"p50":%f,"p99":%f,"max":%f}',
    summary.requests - e.status, e.status, e.connect + e.read + e.write + e.timeout,
    (summary.requests - e.status) / summary.duration * 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
`,
  )
  const wrk = ['wrk', '-t1', `-c${connections}`, `-d${seconds}s`, '--timeout', '60s', '-s', script, url]
  const { stdout } = await run('taskset', [...pinned, ...wrk])
  return JSON.parse(stdout.slice(stdout.indexOf('@{') + 1))
}

/** Posts an exact number, each about another deal; of wrk only a time can be asked. */
export function postCount(count: number, load: Omit<Load, 'seconds'>): Promise<Outcome> {
  // Its own word for an id that is new in every request.
  const body = dealBody.replace(/(FIELDS%5D%5BID%5D=)[^&]*/, '$1[<id>]')
  return postWithAutocannon({ ...load, args: ['-a', String(count), '-I'], body })
}

async function postWithAutocannon({
  url,
  mode,
  connections,
  args,
  body = dealBody,
}: Omit<Load, 'seconds'> & { args: readonly string[]; body?: string }): Promise<Outcome> {
  const headers = [`content-type=${contentType}`, ...(mode === 'close' ? ['connection=close'] : [])]
  const options = [
    '-j',
    '-m',
    'POST',
    '-c',
    String(connections),
    '-t',
    '60',
    ...headers.flatMap((one) => ['-H', one]),
    '-b',
    body,
  ]
  const command = [process.execPath, autocannon, ...options, ...args, url]
  const { stdout } = await run('taskset', [...pinned, ...command], { maxBuffer: 64 * 1024 ** 2 })
  const found: {
    '2xx': number
    non2xx: number
    errors: number
    timeouts: number
    duration: number
    latency: { p50: number; p99: number; max: number }
  } = JSON.parse(stdout)
  const { p50, p99, max } = found.latency
  const posts = found['2xx']
  const failed = found.errors + found.timeouts
  return { posts, refused: found.non2xx, failed, rate: posts / found.duration, p50, p99, max }
}
