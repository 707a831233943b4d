import type { ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import { blockWith, readText } from './docs.ts'
import {
  hasApache,
  hasCaddy,
  hasEchoModule,
  hasHaproxy,
  hasNginx,
  startApache,
  startCaddy,
  startHaproxy,
  startNginx,
} from './proxy-programs.ts'

interface Place {
  /** For its files: logs, and what it is started with. */
  readonly folder: string
  readonly port: number
  /** The receiver's port. */
  readonly upstream: number
  /** Another free one, for a proxy between the two. */
  readonly between: number
}

/** A proxy, or several in a row, in front of a receiver on the same machine. */
export interface ProxySetup {
  readonly name: string
  /** Whether its programs are installed. */
  readonly isThere: boolean
  start(this: void, place: Place): readonly ChildProcess[]
}

/** The configurations that are shipped; only the ports are others. All of them hold posts while the receiver is away. */
export const caddy: ProxySetup = {
  name: 'Caddyfile',
  isThere: hasCaddy,
  start: ({ folder, port, upstream }) => [startCaddy(folder, port, upstream)],
}

export const haproxy: ProxySetup = {
  name: 'deploy/haproxy.cfg',
  isThere: hasHaproxy,
  start: ({ folder, port, upstream }) => [startHaproxy({ folder, config: haproxyConfig(port, upstream) })],
}

export const nginxHold: ProxySetup = {
  name: 'deploy/nginx-hold.conf',
  isThere: hasEchoModule,
  start: ({ folder, port, upstream }) => {
    const config = readText('deploy/nginx-hold.conf')
    return [
      startNginx({
        folder,
        config: replace(config, ['listen 80;', `listen 127.0.0.1:${port};`], [local(8080), local(upstream)]),
      }),
    ]
  },
}

export const apacheHaproxy: ProxySetup = {
  name: 'deploy/apache.conf and deploy/haproxy.cfg',
  isThere: hasApache && hasHaproxy,
  start: ({ folder, port, upstream, between }) => {
    const config = replace(readText('deploy/apache.conf'), ['*:80', local(port)], [local(8081), local(between)])
    return [
      startHaproxy({ folder: join(folder, 'haproxy'), config: haproxyConfig(between, upstream) }),
      startApache({ folder: join(folder, 'apache'), config }, port),
    ]
  },
}

/** nginx as docs/proxies.md has it where nothing else is installed: it holds no post. */
export const nginxPlain: ProxySetup = {
  name: 'nginx, plain, as above',
  isThere: hasNginx,
  start: ({ folder, port, upstream }) => {
    const locations = replace(blockWith('docs/proxies.md', 'location /bitrix24'), [local(8080), local(upstream)])
    return [startNginx({ folder, config: `server { listen ${local(port)}; ${locations} }` })]
  },
}

/** As most have them, to compare with. */
export const apacheDefault: ProxySetup = {
  name: 'Apache, `ProxyPass` alone',
  isThere: hasApache,
  start: ({ folder, port, upstream }) => {
    const config = `ProxyPass / http://${local(upstream)}/`
    return [startApache({ folder, config }, port)]
  },
}

export const haproxyDefault: ProxySetup = {
  name: 'HAProxy, one `server` alone',
  isThere: hasHaproxy,
  start: ({ folder, port, upstream }) => {
    const timeouts = 'timeout connect 5s\ntimeout client 60s\ntimeout server 60s'
    const config = `defaults\nmode http\n${timeouts}\nlisten all\nbind ${local(port)}\nserver one ${local(upstream)}\n`
    return [startHaproxy({ folder, config })]
  },
}

function haproxyConfig(port: number, upstream: number): string {
  return replace(readText('deploy/haproxy.cfg'), [local(8081), local(port)], [local(8080), local(upstream)])
}

function local(port: number): string {
  return `127.0.0.1:${port}`
}

/** Changes what must be there. */
function replace(text: string, ...changes: readonly (readonly [string, string])[]): string {
  return changes.reduce((before, [from, to]) => {
    if (!before.includes(from)) throw new Error(`a configuration does not have ${from}`)
    return before.replaceAll(from, to)
  }, text)
}
