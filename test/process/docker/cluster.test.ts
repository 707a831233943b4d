import { spawnSync } from 'node:child_process'
import { parseEnv } from 'node:util'
import { expect, test } from 'vitest'
import { readConfig } from '../../../src/config/config.ts'
import { readText } from '../../support/docs.ts'

const compose = readText('compose.cluster.yaml')
const program = 'caddy'
const hasCaddy = spawnSync(program, ['version']).status === 0

/** The lines below a key that stands at the left, or at the left of the services. */
function blockOf(name: string): string {
  return new RegExp(`^(?:  )?${name}:.*\\n((?:(?:  )+.*\\n|\\n)+)`, 'm').exec(compose)?.[1] ?? ''
}

test('every receiver has a journal of its own, and none runs handlers', () => {
  expect(compose.match(/- \.\/data\d:\/data$/gm)).toEqual(['- ./data1:/data', '- ./data2:/data'])
  const block = blockOf('x-environment: &environment'.split(':')[0] ?? '')
  const env = Object.fromEntries(
    [...block.matchAll(/^ {2}(\w+): '?(.*?)'?$/gm)].map(([, name, value]) => [name, value]),
  )
  const { DATABASE_URL_FILE: file, ...rest } = env
  expect(file).toBe('/run/secrets/database_url')
  const settings = { ...parseEnv(readText('.env.example')), B24_APPLICATION_TOKEN: 'some-token', ...rest }
  const config = readConfig({ ...settings, DATABASE_URL: 'postgres://b24:some-password@postgres:5432/b24' })
  expect(config).toMatchObject({ dataDir: '/data', handlersDir: '/handlers', host: '0.0.0.0', runHandlers: false })
  const grace = Number(/stop_grace_period: (\d+)s\n/.exec(blockOf('x-part'))?.[1])
  expect(grace * 1000).toBeGreaterThan(config.shutdownGrace)
})

test('it runs this version and three workers, and only Caddy is reachable', () => {
  const { version } = JSON.parse(readText('package.json')) as { version: string }
  expect(compose).toContain(`image: bitrix24-webhook-receiver:${version}\n`)
  expect(compose).toMatch(/command: \[b24-receiver, worker\]\n {4}deploy:\n {6}replicas: 3\n/)
  expect(compose.match(/^ *ports: .*$/gm)).toEqual(["    ports: ['80:80', '443:443']"])
})

test.runIf(hasCaddy)('Caddy takes both receivers', () => {
  const upstream = /UPSTREAM: (.*)\n/.exec(compose)?.[1] ?? ''
  const { stdout } = spawnSync(program, ['adapt', '--config', 'Caddyfile', '--adapter', 'caddyfile'], {
    encoding: 'utf8',
    env: { PATH: process.env['PATH'], DOMAIN: 'hooks.example.com', UPSTREAM: upstream },
  })
  expect(stdout.match(/"dial":"[^"]+"/g)).toEqual(['"dial":"receiver1:8080"', '"dial":"receiver2:8080"'])
})
