import { parseEnv } from 'node:util'
import { expect, test } from 'vitest'
import { readConfig } from '../../../src/config/config.ts'
import { readText } from '../../support/docs.ts'

const compose = readText('compose.yaml')

/** The lines of a service, up to the next one. */
function serviceOf(name: string): string {
  const text = new RegExp(`^  ${name}:\\n((?:    .*\\n|\\n)+)`, 'm').exec(compose)?.[1]
  if (text === undefined) throw new Error(`compose.yaml has no service ${name}`)
  return text
}

test('compose.yaml runs this version, with everything that may be written outside of the container', () => {
  const { version } = JSON.parse(readText('package.json')) as { version: string }
  const receiver = serviceOf('receiver')
  expect(readText('README.md')).toContain(`docker build -t bitrix24-webhook-receiver:${version} .\n`)
  expect(receiver).toContain(`image: bitrix24-webhook-receiver:${version}\n`)
  expect(receiver).toContain('read_only: true\n')
  expect(receiver).toContain('- ./data:/data\n')
  expect(receiver).toContain('- ./handlers:/handlers:ro\n')
})

test('what our containers and the unit of systemd hold in memory is in no core dump', () => {
  expect(serviceOf('receiver')).toContain('ulimits: { core: 0 }\n')
  expect(/^x-part: &part\n(?: {2}.*\n)+/m.exec(readText('compose.cluster.yaml'))?.[0]).toContain(
    'ulimits: { core: 0 }\n',
  )
  expect(readText('deploy/bitrix24-receiver.service')).toContain('\nLimitCORE=0\n')
})

test('Prometheus beside our containers may call them by the names of their services', () => {
  expect(serviceOf('receiver')).toMatch(/^ +ADMIN_ALLOWED_HOSTS: receiver$/m)
  const cluster = readText('compose.cluster.yaml')
  const names = [...cluster.matchAll(/ADMIN_ALLOWED_HOSTS: (.*)/g)].flatMap(([, list = '']) => list.split(','))
  const services = [...cluster.matchAll(/^ {2}(\w+):\n {4}<<: \*part\n/gm)].map(([, name]) => name)
  expect(names).toEqual(services)
})

test('only Caddy is reachable from outside, so that TRUST_PROXY may cover all networks of Docker', () => {
  expect(serviceOf('receiver')).not.toMatch(/^ *(ports|network_mode):/m)
  expect(serviceOf('caddy')).toContain("ports: ['80:80', '443:443']\n")
})

test("the receiver's settings win over .env, are right, and fit the Caddyfile and the grace of the stop", () => {
  const receiver = serviceOf('receiver')
  const block = /^ {4}environment:\n((?: {6}.*\n)+)/m.exec(receiver)?.[1] ?? ''
  const env = Object.fromEntries(
    [...block.matchAll(/^ {6}(\w+): '?(.*?)'?$/gm)].map(([, name = '', value = '']) => [name, value]),
  )
  const config = readConfig({ ...parseEnv(readText('.env.example')), B24_APPLICATION_TOKEN: 'some-token', ...env })
  expect(config).toMatchObject({ dataDir: '/data', handlersDir: '/handlers', host: '0.0.0.0' })
  expect(config.trustProxy).toHaveLength(4)
  expect(readText('Caddyfile')).toContain(`{$UPSTREAM:receiver:${config.port}}`)
  const grace = Number(/stop_grace_period: (\d+)s\n/.exec(receiver)?.[1])
  expect(grace * 1000).toBeGreaterThan(config.shutdownGrace)
})
