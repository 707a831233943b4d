import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './docs.ts'

/** Where Debian has them; a checkout of another system skips what needs them. */
const echoModule = '/usr/lib/nginx/modules/ngx_http_echo_module.so'
const apacheModules = '/usr/lib/apache2/modules'
const isRoot = process.getuid?.() === 0

export const hasHaproxy = hasProgram('haproxy', '-v')
export const hasNginx = hasProgram('nginx', '-v')
export const hasEchoModule = hasNginx && existsSync(echoModule)
export const hasApache = hasProgram('apache2', '-v') && existsSync(apacheModules)
export const hasCaddy = hasProgram('caddy', 'version')

export interface ProxyDeps {
  /** Its own files, such as a log. */
  readonly folder: string
  /** Its configuration, with the ports that it is to have. */
  readonly config: string
}

/** Starts HAProxy in the foreground, with a whole configuration. */
export function startHaproxy({ folder, config }: ProxyDeps): ChildProcess {
  const file = fileIn(folder, 'haproxy.cfg')
  writeFileSync(file, config)
  return start(folder, 'haproxy', '-db', '-f', file)
}

/** Starts nginx in the foreground, with what stands in its `http`. */
export function startNginx({ folder, config }: ProxyDeps): ChildProcess {
  const file = fileIn(folder, 'nginx.conf')
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `${name}_temp_path ${folder}/${name};`,
  )
  const main = [
    'daemon off;',
    'worker_processes 1;',
    ...(isRoot ? ['user root;'] : []),
    `pid ${folder}/nginx.pid;`,
    ...(hasEchoModule ? [`load_module ${echoModule};`] : []),
    'events {}',
    `http {\naccess_log ${folder}/access.log;\n${paths.join('\n')}\n${config}\n}`,
  ]
  writeFileSync(file, main.join('\n'))
  return start(folder, 'nginx', '-e', join(folder, 'error.log'), '-c', file)
}

/** Starts Apache in the foreground, with what stands in its sites, which have the `Listen` of the port. */
export function startApache({ folder, config }: ProxyDeps, port: number): ChildProcess {
  const file = fileIn(folder, 'apache.conf')
  const modules = ['mpm_event', 'authz_core', 'setenvif', 'proxy', 'proxy_http']
  const main = [
    `ServerRoot ${folder}`,
    `DefaultRuntimeDir ${folder}`,
    `PidFile ${folder}/apache.pid`,
    'ServerName 127.0.0.1',
    `Listen 127.0.0.1:${port}`,
    `Define APACHE_LOG_DIR ${folder}`,
    `ErrorLog ${folder}/error.log`,
    ...modules.map((name) => `LoadModule ${name}_module ${apacheModules}/mod_${name}.so`),
    'LogFormat "%h %r %>s" combined',
    ...(isRoot ? ['User www-data', 'Group www-data'] : []),
    config,
  ]
  writeFileSync(file, main.join('\n'))
  return start(folder, 'apache2', '-f', file, '-D', 'FOREGROUND')
}

/** Starts the Caddyfile as it is, adapted by its variables only. */
export function startCaddy(folder: string, port: number, upstream: number): ChildProcess {
  const env = {
    HOME: folder,
    XDG_DATA_HOME: folder,
    XDG_CONFIG_HOME: folder,
    DOMAIN: `http://127.0.0.1:${port}`,
    UPSTREAM: `127.0.0.1:${upstream}`,
    CADDY_ADMIN: 'off',
  }
  return spawn('caddy', ['run', '--config', join(root, 'Caddyfile'), '--adapter', 'caddyfile'], {
    stdio: 'ignore',
    env: { PATH: process.env['PATH'], ...env },
  })
}

/** Ends it and the processes that work for it. */
export async function stopProxy(proxy: ChildProcess): Promise<void> {
  if (proxy.exitCode !== null || proxy.signalCode !== null) return
  const ended = once(proxy, 'exit')
  proxy.kill('SIGTERM')
  await ended
}

function fileIn(folder: string, name: string): string {
  mkdirSync(folder, { recursive: true })
  return join(folder, name)
}

function start(folder: string, program: string, ...args: readonly string[]): ChildProcess {
  // Its complaints explain why a test fails.
  return spawn(program, args, {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { PATH: process.env['PATH'] },
    cwd: folder,
  })
}

function hasProgram(name: string, ...args: readonly string[]): boolean {
  return spawnSync(name, args).status === 0
}
