import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { freePort } from '../src/cli/free-port.ts'
import { journalDir } from '../src/journal/segments.ts'
import { post } from '../src/simulator/post.ts'
import {
  apacheDefault,
  apacheHaproxy,
  caddy,
  haproxy,
  haproxyDefault,
  nginxHold,
  nginxPlain,
  type ProxySetup,
} from '../test/support/proxies.ts'
import { stopProxy } from '../test/support/proxy-programs.ts'
import { dealBody, remove, temporaryFolder, token } from './processes.ts'
import { printTable, progress, say } from './table.ts'

const rounds = Number(process.env['ROUNDS'] ?? 3)
const main = fileURLToPath(new URL('../src/bin/receiver.ts', import.meta.url))

/** Starts a receiver on the socket that it has, again and again, as systemd does. */
const serviceManager = 'while :; do (export LISTEN_PID=$BASHPID; exec "$@"); done'

const setups: readonly (readonly [ProxySetup, boolean])[] = [
  [nginxPlain, false],
  [apacheDefault, false],
  [haproxyDefault, false],
  [nginxPlain, true],
  [apacheDefault, true],
  [haproxyDefault, true],
  [caddy, false],
  [haproxy, false],
  [nginxHold, false],
  [apacheHaproxy, false],
]

/** What becomes of posts that come, each on a new connection, while the receiver restarts behind a proxy. */
export async function proxies(): Promise<void> {
  const rows: string[][] = []
  for (const [proxy, isActivated] of setups) {
    const name = `${proxy.name}${isActivated ? ', and the port held by systemd' : ''}`
    if (!proxy.isThere) {
      say(`${name} is left out: its programs are missing`)
      continue
    }
    progress(name)
    rows.push([name, await measure(proxy, isActivated, 'SIGTERM'), await measure(proxy, isActivated, 'SIGKILL')])
  }
  progress('')
  say(`\n${versions().join(', ')}, Node ${process.versions.node}`)
  printTable(
    `Posts lost of those sent, over ${rounds} restarts each`,
    ['in front', 'SIGTERM and start', 'kill -9 and start'],
    rows,
  )
}

async function measure(proxy: ProxySetup, isActivated: boolean, signal: NodeJS.Signals): Promise<string> {
  const folder = temporaryFolder()
  const [port, upstream, between] = [await freePort(), await freePort(), await freePort()]
  const receiver = startReceivers(join(folder, 'data'), upstream, isActivated)
  const programs = proxy.start({ folder: join(folder, 'proxy'), port, upstream, between })
  const url = `http://127.0.0.1:${port}/bitrix24`
  while ((await send(url, 0)) !== 200) await sleep(50)

  const statuses = new Map<number, number>()
  let isPosting = true
  const posters = Array.from({ length: 4 }, async () => {
    while (isPosting) {
      const id = statuses.size + 1
      statuses.set(id, 0)
      statuses.set(id, await send(url, id))
      await sleep(20)
    }
  })
  for (let round = 0; round < rounds; round++) {
    await sleep(1_000)
    await receiver.restart(signal)
  }
  await sleep(1_000)
  isPosting = false
  await Promise.all(posters)

  await receiver.stop()
  await Promise.all(programs.map(stopProxy))
  const times = new Map<string, number>()
  for (const object of objectsOf(join(folder, 'data'))) times.set(object, (times.get(object) ?? 0) + 1)
  remove(folder)
  const lost = [...statuses.values()].filter((status) => status !== 200).length
  const doubled = [...statuses.keys()].filter((id) => (times.get(`deal:${id}`) ?? 0) > 1).length
  const missing = [...statuses].filter(([id, status]) => status === 200 && !times.has(`deal:${id}`)).length
  if (missing > 0) throw new Error(`${missing} posts were answered 200 and are not in the journal`)
  return `${lost} of ${statuses.size}${doubled > 0 ? ` (${doubled} doubled)` : ''}`
}

/** Receivers on one port, one after the other. */
function startReceivers(dataDir: string, port: number, isActivated: boolean) {
  const env = {
    PATH: process.env['PATH'] ?? '',
    B24_APPLICATION_TOKEN: token,
    HOST: '127.0.0.1',
    PORT: String(port),
    ADMIN_PORT: '0',
    DATA_DIR: dataDir,
    DISPATCHER: 'off',
    TRUST_PROXY: '127.0.0.1',
    LOG_LEVEL: 'error',
  }
  const options = { env, stdio: 'ignore', detached: true } as const
  const handedOn = Object.keys(env).flatMap((name) => ['-E', name])
  const start = (): ChildProcess =>
    isActivated
      ? spawn(
          'systemd-socket-activate',
          [
            '-l',
            `127.0.0.1:${port}`,
            ...handedOn,
            'bash',
            '-c',
            serviceManager,
            'service-manager',
            process.execPath,
            main,
          ],
          options,
        )
      : spawn(process.execPath, [main], options)
  let child = start()
  const end = async (signal: NodeJS.Signals) => {
    const gone = once(child, 'exit')
    child.kill(signal)
    await gone
  }
  return {
    async restart(signal: NodeJS.Signals) {
      if (isActivated) {
        const pid = Number(readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim())
        process.kill(pid, signal)
        return
      }
      await end(signal)
      child = start()
      await sleep(1_000)
    },
    async stop() {
      const gone = once(child, 'exit')
      // A group of our own making.
      process.kill(-(child.pid ?? 0), 'SIGKILL')
      await gone
    },
  }
}

function send(url: string, id: number): Promise<number> {
  return post(url, dealBody.replace(/(%5BID%5D=)\d+/, `$1${id}`)).then(
    ({ status }) => status,
    () => 0,
  )
}

function objectsOf(dataDir: string): string[] {
  return readdirSync(journalDir(dataDir))
    .filter((name) => name.endsWith('.ndjson'))
    .flatMap((name) => readFileSync(join(journalDir(dataDir), name), 'utf8').match(/"object":"[^"]*"/g) ?? [])
    .map((field) => field.slice('"object":"'.length, -1))
}

function versions(): string[] {
  const nginx = spawnSync('nginx', ['-v'], { encoding: 'utf8' }).stderr
  return [
    `nginx ${/\/(\S+)/.exec(nginx)?.[1]}`,
    `HAProxy ${/version (\S+?)[-+ ]/.exec(execFileSync('haproxy', ['-v'], { encoding: 'utf8' }))?.[1]}`,
    `Apache ${/Apache\/(\S+)/.exec(execFileSync('apache2', ['-v'], { encoding: 'utf8' }))?.[1]}`,
    `Caddy ${execFileSync('caddy', ['version'], { encoding: 'utf8' }).split(' ')[0]?.trim()}`,
  ]
}
