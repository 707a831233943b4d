import { chmodSync, copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { generator, type Mode, modes, type Outcome, post } from './load.ts'
import { isInstalled, type Running, startServer, temporaryFolder } from './processes.ts'
import { emptyHandler, startReceiver } from './receiver.ts'
import { median, printTable, progress, say, spread } from './table.ts'

const connections = 64
const rounds = Number(process.env['ROUNDS'] ?? 5)
const seconds = Number(process.env['SECONDS'] ?? 2)

/** Rows of the table, by the names under which the others are compared with them. */
const bare = 'bare node:http'
const noLog = 'Fastify, formbody, qs, token; no log'
const php = 'nginx, php-fpm, hook.php'
const ours = 'ours, no handler'

/** A round of one server. */
interface Round extends Outcome {
  /** Microseconds of the server's CPU for a post. */
  readonly cpu: number
}

/** Durable answers against others, everything in one run. */
export async function throughput(): Promise<void> {
  const servers = await startAll()
  const found = new Map<string, Round[]>()
  const roundsOf = (name: string, mode: Mode) => found.get(`${mode} ${name}`) ?? []
  // The first round warms up.
  for (let round = 0; round <= rounds; round++)
    for (const mode of modes)
      for (const [name, server] of servers) {
        progress(`round ${round} of ${rounds}, ${mode}: ${name}`)
        const before = server.cpu()
        const outcome = await post({ url: server.url, mode, connections, seconds })
        if (outcome.refused > 0) throw new Error(`${name} refused ${outcome.refused} posts`)
        const cpu = (server.cpu() - before) / outcome.posts
        await server.settled?.()
        if (round > 0) found.set(`${mode} ${name}`, [...roundsOf(name, mode), { ...outcome, cpu }])
      }
  const lonely = await lonelyPosts(servers)
  for (const server of servers.values()) await server.stop()
  progress('')

  const ratio = (mode: Mode, name: string, other: string, of: (round: Round) => number) => {
    const others = roundsOf(other, mode)
    return median(roundsOf(name, mode).map((round, index) => of(round) / of(others[index] ?? round)))
  }
  const rate = (round: Round) => round.rate
  say(
    `${rounds} rounds of ${seconds} s, ${connections} connections, ${generator}; medians, with their spread; rates in posts a second`,
  )
  for (const mode of modes)
    printTable(
      mode === 'close' ? 'One connection per post, as Bitrix24 does it' : 'Keep-alive',
      ['server', 'rate', 'CPU µs/post', 'p50 ms', 'p99 ms', 'of bare', 'of no log', 'of PHP'],
      [...servers.keys()].map((name) => {
        const all = roundsOf(name, mode)
        const against = (other: string) => (servers.has(other) ? ratio(mode, name, other, rate).toFixed(2) : '–')
        return [
          name,
          spread(all.map(rate)),
          spread(all.map(({ cpu }) => cpu)),
          median(all.map(({ p50 }) => p50)).toFixed(1),
          median(all.map(({ p99 }) => p99)).toFixed(1),
          against(bare),
          against(noLog),
          against(php),
        ]
      }),
    )
  printTable(
    'A lonely post: one connection, one post at a time',
    ['server', 'p50 ms', 'of no log'],
    [...lonely].map(([name, p50]) => [name, p50.toFixed(2), (p50 / (lonely.get(noLog) ?? p50)).toFixed(1)]),
  )

  const perSync = await linesPerSync()
  const least = (mode: Mode, other: string, goal: number): Goal => ({
    what: `${mode}: rate of ours to ${other}`,
    is: servers.has(other) ? ratio(mode, ours, other, rate) : undefined,
    goal,
  })
  const goals: Goal[] = [
    least('keep-alive', bare, 0.38),
    least('keep-alive', noLog, 0.9),
    least('keep-alive', php, 1.3),
    least('close', bare, 0.52),
    least('close', noLog, 0.9),
    least('close', php, 1),
    { what: 'keep-alive: lines per fsync', is: perSync?.['keep-alive'], goal: 25 },
    { what: 'close: lines per fsync', is: perSync?.close, goal: 8 },
    {
      what: 'lonely post: p50 to no log',
      is: (lonely.get(ours) ?? 0) / (lonely.get(noLog) ?? 1),
      goal: 3,
      atMost: true,
    },
    ...modes.map((mode) => ({
      what: `${mode}: p99 to no log`,
      is: ratio(mode, ours, noLog, ({ p99 }) => p99),
      goal: 2,
      atMost: true,
    })),
  ]
  printTable(
    'Goals',
    ['', 'goal', 'is', ''],
    goals.map(({ what, goal, is, atMost = false }) => [
      what,
      `${atMost ? '≤' : '≥'} ${goal}`,
      is === undefined ? 'not measured' : is.toFixed(2),
      is === undefined ? '' : (atMost ? is <= goal : is >= goal) ? 'met' : 'missed',
    ]),
  )
}

interface Goal {
  readonly what: string
  readonly goal: number
  /** Undefined when a program is missing. */
  readonly is: number | undefined
  readonly atMost?: boolean
}

async function startAll(): Promise<Map<string, Running>> {
  const script = (name: string) => [process.execPath, fileURLToPath(new URL(`servers/${name}.ts`, import.meta.url))]
  const servers = new Map<string, Running>()
  servers.set(bare, await startServer(script('bare')))
  servers.set(noLog, await startServer(script('no-log')))
  servers.set('Express, 200 before the work', await startServer(script('express')))
  const phpServer = await startPhp()
  if (phpServer) servers.set(php, phpServer)
  else say('nginx or php-fpm is missing, so the PHP sample is left out (Debian: apt-get install nginx-light php-fpm)')
  servers.set(ours, await startReceiver())
  servers.set('ours, an empty handler on every event', await startReceiver({ handlers: emptyHandler }))
  servers.set('ours, no handler, a log line per post', await startReceiver({ env: { LOG_LEVEL: 'info' } }))
  return servers
}

/** The PHP sample behind nginx, both on the servers' core, with Debian's settings where they matter. */
async function startPhp(): Promise<Running | undefined> {
  const fpm = ['php-fpm', 'php-fpm8.4', 'php-fpm8.3', 'php-fpm8.2'].find((name) => isInstalled(name))
  if (fpm === undefined || !isInstalled('nginx')) return undefined
  const folder = temporaryFolder()
  // Its workers are of another user when we are root.
  chmodSync(folder, 0o777)
  copyFileSync(new URL('./servers/hook.php', import.meta.url), join(folder, 'hook.php'))
  writeFileSync(
    join(folder, 'fpm.conf'),
    `[global]
error_log = ${folder}/fpm.log
[www]
user = www-data
group = www-data
listen = ${folder}/fpm.sock
listen.mode = 0666
pm = static
pm.max_children = 5
env[HOOK_LOG] = ${folder}/hook.log
`,
  )
  const fastcgi = `fastcgi_param QUERY_STRING $query_string; fastcgi_param REQUEST_METHOD $request_method;
      fastcgi_param CONTENT_TYPE $content_type; fastcgi_param CONTENT_LENGTH $content_length;
      fastcgi_param SCRIPT_FILENAME ${folder}/hook.php; fastcgi_pass unix:${folder}/fpm.sock;`
  const nginxConf = join(folder, 'nginx.conf')
  const start = `${fpm} --nodaemonize --fpm-config ${folder}/fpm.conf &
sed s/PORT/$PORT/ ${nginxConf} > ${folder}/with-port.conf
nginx -e ${folder}/error.log -c ${folder}/with-port.conf &
wait`
  writeFileSync(
    nginxConf,
    `daemon off; worker_processes 1; pid ${folder}/nginx.pid; error_log ${folder}/error.log;
events { worker_connections 4096; }
http {
  access_log off; client_body_temp_path ${folder}/body; fastcgi_temp_path ${folder}/fastcgi;
  proxy_temp_path ${folder}/proxy; uwsgi_temp_path ${folder}/uwsgi; scgi_temp_path ${folder}/scgi;
  server { listen 127.0.0.1:PORT backlog=4096; location / {
      ${fastcgi}
  } }
}
`,
  )
  return startServer(['sh', '-c', start])
}

/** Without anybody else on the machine's mind: a post must not wait for company that does not come. */
async function lonelyPosts(servers: ReadonlyMap<string, Running>): Promise<Map<string, number>> {
  const p50s = new Map<string, number[]>()
  for (let round = 0; round < rounds; round++)
    for (const [name, { url }] of servers) {
      const { p50 } = await post({ url, mode: 'keep-alive', connections: 1, seconds: 1 })
      p50s.set(name, [...(p50s.get(name) ?? []), p50])
    }
  return new Map([...p50s].map(([name, all]) => [name, median(all)]))
}

async function linesPerSync(): Promise<Record<Mode, number> | undefined> {
  if (!isInstalled('strace')) {
    say('strace is missing, so lines per fsync are not counted')
    return undefined
  }
  const perMode = async (mode: Mode) => {
    const trace = join(temporaryFolder(), 'trace')
    const strace = ['strace', '-f', '--seccomp-bpf', '-e', 'trace=fdatasync', '-o', trace]
    const receiver = await startReceiver({ under: strace })
    const { posts } = await post({ url: receiver.url, mode, connections, seconds: 2 * seconds })
    await receiver.stop()
    return posts / (readFileSync(trace, 'utf8').match(/fdatasync\(/g)?.length ?? Number.NaN)
  }
  return { 'keep-alive': await perMode('keep-alive'), close: await perMode('close') }
}
