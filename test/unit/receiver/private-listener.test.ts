import { expect, onTestFinished, test } from 'vitest'
import { createRefusalLog } from '../../../src/intake/refusal-log.ts'
import { createAdminServer } from '../../../src/receiver/private-listener.ts'
import { createLines, healthyDeps, open } from '../../support/intake.ts'

async function start(...allowedHosts: string[]) {
  const { log, lines } = createLines()
  const admin = createAdminServer({
    ...healthyDeps,
    metrics: async () => 'metrics of ours\n',
    allowedHosts,
    refusals: createRefusalLog({ log, secrets: () => [] }),
  })
  onTestFinished(() => admin.close())
  const ask = (host: string, url = '/metrics') => admin.inject({ url, headers: { host } })
  return { admin, lines, ask }
}

test.each([
  ...['127.0.0.1:9090', '10.42.0.17:9090', '[::1]:9090', '[fe80::1]', '192.168.1.4'],
  ...['localhost', 'localhost:9090', 'LocalHost.', 'receiver.localhost:9090'],
])('a call of the private listener as %s is answered: no page of a stranger can have that name', async (host) => {
  const { ask } = await start()
  expect((await ask(host)).body).toBe('metrics of ours\n')
})

test.each(['receiver:9090', 'Receiver', 'receiver.prod.svc.cluster.local.:9090', 'admin.internal'])(
  'a call as %s is answered once ADMIN_ALLOWED_HOSTS, or ADMIN_HOST, names it',
  async (host) => {
    const { ask } = await start('receiver', 'RECEIVER.prod.svc.cluster.local', 'admin.internal.')
    expect((await ask(host)).statusCode).toBe(200)
    expect((await (await start()).ask(host)).statusCode).toBe(403)
  },
)

test.each([
  ...['evil.example', 'evil.example:9090', 'localhost.evil.example', '127.0.0.1.evil.example', 'xreceiver'],
  ...[':9090', '[::1', '::1', '127.0.0.1@evil.example', 'evil.example:127.0.0.1', 'receiver.evil.example'],
])('a call as "%s" gets one clear answer at every route, and nothing else', async (host) => {
  const { ask, lines } = await start('receiver')
  for (const url of ['/readyz', '/metrics', '/nothing']) {
    const answer = await ask(host, url)
    expect([answer.statusCode, answer.json()]).toEqual([
      403,
      {
        ...{ status: 'error', error: 'host_not_allowed' },
        message: `the private listener does not answer to the name "${host}": call it by an IP address, or add the name to ADMIN_ALLOWED_HOSTS`,
      },
    ])
  }
  expect(lines[0]).toMatchObject({ code: 'host_not_allowed', host, msg: 'refused' })
})

test('a name with what steers a terminal is repeated as text', async () => {
  const answer = await (await start()).ask('x\u009b2J')
  expect(answer.body).toContain('x\\\\u009b2J')
})

test('a checker that speaks HTTP/1.0 and sends no Host is answered, as no browser does that', async () => {
  const { admin } = await start()
  await admin.listen({ port: 0, host: '127.0.0.1' })
  const address = admin.server.address()
  const ask = async (head: string) => {
    using connection = open(typeof address === 'object' && address ? address.port : 0)
    connection.write(`${head}\r\n\r\n`)
    return (await connection.answer())?.status
  }
  expect(await ask('GET /readyz HTTP/1.0')).toBe(200)
  expect(await ask('GET /readyz HTTP/1.1\r\nHost:')).toBe(403)
  expect(await ask('GET /readyz HTTP/1.0\r\nHost: evil.example')).toBe(403)
})
