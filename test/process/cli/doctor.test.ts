import { chmodSync, readdirSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import https, { type Server } from 'node:https'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { describe, expect, onTestFinished, test } from 'vitest'
import { envOf, jsonLines, runCli } from '../../support/cli.ts'
import { type CertificateOptions, otherCertificate, portalCertificate } from '../../support/portal/certificate.ts'
import { startPortal } from '../../support/portal.ts'
import { freePort, type ReceiverOptions, startReceiver, TOKEN, temporaryFolder, until } from '../../support/receiver.ts'

const isRoot = process.getuid?.() === 0
const good = 'export default () => {}'

async function start(options: ReceiverOptions = {}) {
  const receiver = await startReceiver({ ...options, handlers: options.handlers ?? { 'ONCRMDEALUPDATE.mjs': good } })
  await until('it is ready', async () => JSON.stringify(await receiver.readyz()).includes('"ready"'))
  return { receiver, env: envOf(receiver) }
}

/** What was found, by name; of several of a name the worst. */
async function look(env: Record<string, string>, ...args: string[]) {
  const { code, stdout, stderr } = await runCli({ env }, 'doctor', ...args, '--json')
  const checks = jsonLines(stdout)
  const of = (name: string) => checks.filter((check) => check['name'] === name)
  return {
    code,
    stderr,
    checks,
    of,
    states: Object.fromEntries(checks.map(({ name, state }) => [String(name), state])),
  }
}

describe('doctor', () => {
  test('of a running receiver finds all well, disturbs nothing, and exits with 0', async () => {
    const portal = await startPortal({ scopes: ['crm', 'task'] })
    const { receiver, env } = await start()
    const before = readdirSync(receiver.dataDir, { recursive: true })
    const { code, states, of } = await look({ ...env, ...portal.env, B24_HOOK: portal.incomingWebhook() })
    expect(code).toBe(0)
    expect(states).toEqual({
      settings: 'ok',
      folder: 'ok',
      privacy: 'ok',
      // Whatever the temporary folder of a test lies on.
      'file system': expect.stringMatching(/ok|warn/),
      disk: expect.stringMatching(/ok|warn/),
      fsync: expect.stringMatching(/ok|warn/),
      queue: 'ok',
      receiver: 'ok',
      listener: 'ok',
      descriptors: expect.stringMatching(/ok|warn/),
      handlers: 'ok',
      incoming_webhook: 'ok',
      clock: 'ok',
      url: 'skipped',
    })
    expect(of('receiver')).toMatchObject([{ text: expect.stringContaining(`pid ${receiver.child.pid} on `) }])
    expect(of('incoming_webhook')).toMatchObject([
      { text: `the incoming webhook of ${portal.host} answers: user 1, "User 1", an administrator; scopes crm, task` },
    ])
    expect(of('fsync')).toMatchObject([{ text: expect.stringMatching(/^[\d.]+ ms; /) }])
    expect(readdirSync(receiver.dataDir, { recursive: true })).toEqual(before)
    expect(receiver.logged('refused')).toEqual([])
    expect(await receiver.journal()).toEqual([])
    expect((await receiver.stop()).code).toBe(0)
  })

  test('is a line for each check, with what to do below it', async () => {
    const { env } = await start()
    const { code, stdout, stderr } = await runCli({ env }, 'doctor')
    expect([code, stderr]).toEqual([0, ''])
    expect(stdout).toMatch(/^ok {7}settings {5}tokens: unnamed; incoming webhooks: none\n/)
    expect(stdout).toMatch(/^skipped {2}url {10}the public address is not known\n {22}name it: --url https:/m)
  })

  test('of a stopped receiver says that none runs, and whether its port is free', async () => {
    const { receiver, env } = await start()
    await receiver.stop()
    const free = await look(env)
    expect([free.code, free.of('receiver')]).toMatchObject([
      0,
      [{ state: 'warn', text: `none runs on ${receiver.dataDir}`, advice: expect.stringContaining('is free for one') }],
    ])
    const other = http.createServer().listen(receiver.port, '127.0.0.1')
    onTestFinished(() => void other.close())
    const taken = await look(env)
    expect([taken.code, taken.of('receiver')]).toMatchObject([
      1,
      [{ state: 'FAIL', text: expect.stringContaining('is taken by another process') }],
    ])
    const again = await startReceiver({ dataDir: receiver.dataDir })
    await again.stop()
  })

  test('says what is wrong with a receiver that is not well', async () => {
    const receiver = await startReceiver({ handlers: { 'bad.mjs': 'export default 3' } })
    const env = envOf(receiver)
    await until('it waits', async () => JSON.stringify(await receiver.readyz()).includes('bad.mjs'))
    const { code, of } = await look(env)
    expect([code, of('handlers')]).toMatchObject([1, [{ state: 'FAIL' }]])
    expect(of('receiver')).toMatchObject([
      { state: 'warn', text: expect.stringContaining('is degraded'), advice: expect.stringContaining('bad.mjs') },
    ])
    const elsewhere = await look({ ...env, ADMIN_PORT: String(await freePort()), PORT: String(await freePort()) })
    expect(elsewhere.of('receiver')).toMatchObject([
      { state: 'FAIL', advice: expect.stringContaining('are ADMIN_HOST and ADMIN_PORT those of the receiver?') },
    ])
    expect(elsewhere.of('listener')).toMatchObject([
      { state: 'FAIL', text: expect.stringContaining('does not answer') },
    ])
  })

  test.skipIf(process.platform !== 'linux')(
    'says how many descriptors the receiver may have, and warns of few',
    async () => {
      const { env } = await start({ under: ['prlimit', '--nofile=300:300'] })
      const { code, of } = await look(env)
      expect([code, of('descriptors')]).toMatchObject([
        0,
        [
          {
            state: 'warn',
            text: 'the receiver may have 300 open, one for each connection',
            advice: expect.stringContaining('LimitNOFILE='),
          },
        ],
      ])
      const many = await start({ under: ['prlimit', '--nofile=4096:4096'] })
      expect((await look(many.env)).of('descriptors')).toMatchObject([
        { state: 'ok', text: expect.stringContaining('4096') },
      ])
    },
  )

  test('names every wrong setting, without a secret, and what else can be looked at', async () => {
    const { env } = await start()
    const { code, of } = await look({
      ...env,
      B24_APPLICATION_TOKEN: '',
      PORT: '80a',
      B24_HOOK: 'https://x/rest/c0dec0de',
    })
    expect(code).toBe(1)
    expect(of('settings')).toMatchObject([
      { state: 'FAIL', text: expect.stringMatching(/^B24_APPLICATION_TOKEN is required/) },
      { state: 'FAIL', text: expect.stringMatching(/^B24_HOOK entry 1 must be/) },
      { state: 'FAIL', text: expect.stringMatching(/^PORT must be a whole number .* got "80a"$/) },
    ])
    expect(of('folder')).toMatchObject([{ state: 'ok' }])
    expect(of('incoming_webhook')).toMatchObject([{ state: 'skipped' }])
    expect(JSON.stringify(of('settings'))).not.toContain('c0dec0de')
  })

  test('of a folder that is not there, or a queue of another version, says so', async () => {
    const nowhere = join(temporaryFolder('none'), 'data')
    const missing = await look({ DATA_DIR: nowhere, B24_APPLICATION_TOKEN: TOKEN, PORT: String(await freePort()) })
    expect(missing.states).toMatchObject({ folder: 'warn', fsync: 'skipped', queue: 'skipped', receiver: 'warn' })
    const { receiver, env } = await start()
    await receiver.stop()
    const db = new DatabaseSync(join(receiver.dataDir, 'dispatch.db'))
    db.exec('PRAGMA user_version = 99')
    db.close()
    const newer = await look(env)
    expect([newer.code, newer.of('queue')]).toMatchObject([
      1,
      [{ state: 'FAIL', text: expect.stringContaining('was written by another version of the receiver') }],
    ])
  })

  test.skipIf(!isRoot)('works for a user who may only read', async () => {
    const { receiver, env } = await start()
    for (const name of readdirSync(receiver.dataDir, { recursive: true, encoding: 'utf8' }))
      chmodSync(join(receiver.dataDir, name), name === 'journal' ? 0o755 : 0o644)
    chmodSync(receiver.dataDir, 0o755)
    const { code, stdout } = await runCli({ env, uid: 65534 }, 'doctor', '--json')
    expect(code).toBe(0)
    const states = Object.fromEntries(jsonLines(stdout).map(({ name, state }) => [String(name), state]))
    expect(states).toMatchObject({ folder: 'warn', fsync: 'skipped', queue: 'ok', receiver: 'ok', handlers: 'ok' })
    expect(stdout).toContain(`user 65534 may not write to ${receiver.dataDir}`)
  })
})

describe('the handlers', () => {
  const handlersOf = async (files: Record<string, string>, timeout = '30s') => {
    const dir = temporaryFolder('handlers')
    for (const [name, source] of Object.entries(files)) writeFileSync(join(dir, name), source)
    const env = {
      DATA_DIR: '/nowhere',
      HANDLERS_DIR: dir,
      HANDLER_LOAD_TIMEOUT: timeout,
      B24_APPLICATION_TOKEN: TOKEN,
      PORT: String(await freePort()),
    }
    const { code, of } = await look(env)
    return {
      code,
      checks: of('handlers').map(({ state, text, advice = '' }) => [state, text, advice].join(' ').trim()),
    }
  }

  test('are loaded, each with its events, and those that cannot be with the place', async () => {
    const { code, checks } = await handlersOf({
      'a.mjs': `import { defineHandler } from 'bitrix24-webhook-receiver'
        export default defineHandler(['ONCRMDEALUPDAT', 'ONCRMLEAD*'], () => {})`,
      'b.mjs': 'export default () => {\n  const a = = 1\n}',
      'c.mjs': 'export default 3; setInterval(() => {}, 1000)',
      'c.ts': good,
      'ONTASKADD.mjs': `console.log('hello'); ${good}`,
    })
    expect(code).toBe(1)
    expect(checks).toEqual([
      'ok ONTASKADD loads, for ONTASKADD',
      'ok a loads, for ONCRMDEALUPDAT, ONCRMLEAD*',
      'warn a: the documentation does not know ONCRMDEALUPDAT is it ONCRMDEALUPDATE?',
      expect.stringMatching(/^FAIL b\.mjs:2: SyntaxError: /),
      expect.stringMatching(/^FAIL c\.mjs: TypeError: its default export must be/),
      expect.stringMatching(/^FAIL c\.ts: TypeError: c\.mjs is a handler of the same name/),
    ])
  })

  test('may not end or block what looks at them, and those that load are listed all the same', async () => {
    const ended = await handlersOf({ 'a.mjs': 'process.exit(0)' })
    expect(ended).toMatchObject({
      code: 1,
      checks: [expect.stringMatching(/^FAIL a\.mjs ends the process that loads it/)],
    })
    const blocked = await handlersOf({ 'ONTASKADD.mjs': good, 'b.mjs': 'for (;;);' }, '1s')
    expect(blocked).toMatchObject({
      code: 1,
      checks: ['ok ONTASKADD loads, for ONTASKADD', expect.stringMatching(/^FAIL b\.mjs was not loaded within 16 s/)],
    })
  })

  test('of the same name, and a folder that is not there, fail; an empty one is reported', async () => {
    const twins = await handlersOf({ 'a.mjs': good, 'a.ts': good })
    expect(twins.checks.at(-1)).toMatch(/^FAIL a\.ts: TypeError: a\.mjs is a handler of the same name/)
    expect((await handlersOf({ '_shared.mjs': 'x' })).checks).toEqual([
      expect.stringMatching(/^warn there are none in /),
    ])
    const { of } = await look({
      HANDLERS_DIR: '/nowhere',
      B24_APPLICATION_TOKEN: TOKEN,
      PORT: String(await freePort()),
    })
    expect(of('handlers')).toMatchObject([{ state: 'FAIL', text: expect.stringMatching(/^\/nowhere: Error: ENOENT/) }])
  })
})

describe('an incoming webhook', () => {
  test.each([
    [302, 'HTTP_302 (a redirect to new.bitrix24.com; if the portal was renamed, B24_HOOK needs its new address)'],
    [404, 'HTTP_404 (the answer is not that of a REST API)'],
  ])(
    'at an address that answers %i and no REST is reported, with what may have become of the portal',
    async (status, why) => {
      const portal = await startPortal()
      portal.behaviour.raw = { status, headers: { location: 'https://new.bitrix24.com/' }, body: '<h1>Portal</h1>' }
      const env = { ...portal.env, B24_APPLICATION_TOKEN: TOKEN, DATA_DIR: temporaryFolder('data') }
      const { of } = await look({ ...env, B24_HOOK: portal.incomingWebhook() })
      expect(of('incoming_webhook')).toMatchObject([
        {
          state: 'FAIL',
          text: expect.stringContaining(`is answered by something else than Bitrix24's REST: ${why}`),
          advice: expect.stringContaining('was the portal renamed, deleted or blocked'),
        },
      ])
    },
  )

  test('that a token has no URL for is reported', async () => {
    const portal = await startPortal()
    const env = { ...portal.env, B24_APPLICATION_TOKEN: `sales=${TOKEN}`, DATA_DIR: temporaryFolder('data') }
    const { of } = await look({ ...env, B24_HOOK: `sails=${portal.incomingWebhook()}` })
    expect(of('settings')).toMatchObject([
      { state: 'ok' },
      { state: 'warn', text: 'B24_HOOK has no URL for the events of the token "sales"' },
    ])
  })

  const base = { DATA_DIR: '/nowhere', HANDLERS_DIR: '/nowhere', B24_APPLICATION_TOKEN: TOKEN }

  test('that does not work fails, with what to do and without its URL', async () => {
    const portal = await startPortal()
    portal.behaviour.dead = 'expired_token'
    const env = {
      ...base,
      ...portal.env,
      B24_HOOK: `sales=${portal.incomingWebhook()},support=https://127.0.0.1:9/rest/1/c0dec0de/`,
    }
    const { code, of, checks } = await look(env)
    expect(code).toBe(1)
    expect(of('incoming_webhook')).toMatchObject([
      { state: 'FAIL', text: expect.stringContaining('expired_token'), advice: expect.stringContaining('make a new') },
      { state: 'FAIL', text: expect.stringContaining('ECONNREFUSED'), advice: expect.stringContaining('be reached') },
    ])
    expect(JSON.stringify(checks)).not.toMatch(new RegExp(`${portal.code()}|c0dec0de`))
  })

  test.each([
    // Give or take what the call takes here.
    [10_000, 'warn', /is 1?\d\.\d s ahead of this machine$/],
    [-60_000, 'warn', /is [56]\d\.\d s behind this machine$/],
  ])("whose portal's clock is %d ms off is reported", async (offset, state, text) => {
    const portal = await startPortal({ now: () => Date.now() + offset })
    const { of } = await look({ ...base, ...portal.env, B24_HOOK: portal.incomingWebhook() })
    expect(of('clock')).toMatchObject([{ state, text: expect.stringMatching(text) }])
  })
})

describe('the public address', () => {
  const base = { DATA_DIR: '/nowhere', HANDLERS_DIR: '/nowhere', B24_APPLICATION_TOKEN: TOKEN }

  /** A proxy with such a certificate; it passes requests on, or answers itself. */
  async function startProxy(options: {
    readonly certificate?: CertificateOptions
    readonly to?: string
    readonly answer?: { readonly status: number; readonly location?: string; readonly body?: string }
  }) {
    const trusted = portalCertificate()
    const { key, cert } = options.certificate ? otherCertificate(options.certificate) : trusted
    const { status, location = '', body = '' } = options.answer ?? { status: 502 }
    const server: Server = https.createServer({ key, cert }, (request, response) => {
      if (options.to === undefined) response.writeHead(status, { location }).end(body)
      else
        http.get(`${options.to}${request.url}`, (answer) => {
          response.writeHead(answer.statusCode ?? 0, answer.headers)
          answer.pipe(response)
        })
    })
    const port = await freePort()
    server.listen(port, '127.0.0.1')
    onTestFinished(() => void server.close())
    const see = async (path = '/bitrix24') => {
      const url = `https://localhost:${port}${path}`
      const { code, of } = await look({ ...base, NODE_EXTRA_CA_CERTS: trusted.caFile }, '--url', url)
      // Of several the names of the checks; a test of the loopback is told that nobody reaches it from outside.
      expect(of('address')).toMatchObject([
        { state: 'warn', text: expect.stringMatching(/^localhost is .*127\.0\.0\.1/) },
      ])
      return { code, certificate: of('certificate')[0], answer: of('answer')[0] }
    }
    return { port, see, caFile: trusted.caFile }
  }

  test('that leads to the receiver is well; another path of it is not', async () => {
    const { receiver } = await start()
    const { see } = await startProxy({ to: receiver.origin })
    expect(await see()).toMatchObject({
      certificate: { state: 'ok', text: 'valid for 1 days' },
      answer: { state: 'ok', text: expect.stringMatching(/^the receiver answers, in \d+ ms$/) },
    })
    expect(await see('/hook')).toMatchObject({
      answer: { state: 'FAIL', text: '404: the receiver has nothing there', advice: 'is the path WEBHOOK_PATH?' },
    })
    await until('both are told', () => receiver.logged('refused').length === 2)
    expect(receiver.logged('refused').map(({ code }) => code)).toEqual(['method_not_allowed', 'not_found'])
  })

  test('is that of DOMAIN where it is not given', async () => {
    const { receiver, env } = await start()
    const { port, caFile } = await startProxy({ to: receiver.origin })
    const { code, of } = await look({ ...env, NODE_EXTRA_CA_CERTS: caFile, DOMAIN: `localhost:${port}` })
    expect([code, of('answer')]).toMatchObject([0, [{ state: 'ok' }]])
  })

  const days = (count: number) => new Date(Date.now() + count * 86_400_000)
  test.each<[string, CertificateOptions, string, RegExp]>([
    ['has expired', { from: days(-30), to: days(-1) }, 'FAIL', /^it has expired \(CERT_HAS_EXPIRED\)$/],
    ['is self-signed', { isSelfSigned: true }, 'FAIL', /^it is self-signed \(DEPTH_ZERO_SELF_SIGNED_CERT\)$/],
    ['is for another name', { names: 'DNS:example.com' }, 'FAIL', /^it is for another name/],
    ['ends soon', { from: days(-88), to: days(2.5) }, 'warn', /^valid for 2 days$/],
  ])('whose certificate %s', async (_, certificate, state, text) => {
    const { see } = await startProxy({ certificate })
    expect((await see()).certificate).toMatchObject({ state, text: expect.stringMatching(text) })
  })

  test.each([
    ['redirects', { status: 301, location: 'https://example.com/' }, '301: it redirects to https://example.com/'],
    ['has nothing there', { status: 404, body: 'Not Found' }, "404: that is not the receiver's answer"],
    ['is of somebody else', { status: 200, body: '<html>' }, "200: that is not the receiver's answer"],
    ['does not reach the receiver', { status: 502 }, '502: the proxy does not reach the receiver'],
  ])('that %s fails', async (_, answer, text) => {
    const { see } = await startProxy({ answer })
    expect(await see()).toMatchObject({ code: 1, answer: { state: 'FAIL', text } })
  })

  test.each([
    ['http', 'http://hooks.example.com/bitrix24', 'url', 'http:// is not taken by Bitrix24'],
    ['no URL', 'hooks.example.com', 'url', 'hooks.example.com is no URL'],
    ['a name that nobody has', 'https://hooks.invalid/bitrix24', 'address', /^hooks\.invalid is not found/],
    ['a port where nobody listens', 'https://127.0.0.1:9/bitrix24', 'answer', /^127\.0\.0\.1:9 does not answer https/],
  ])('%s fails', async (_, url, name, text) => {
    const { code, of } = await look(base, '--url', url)
    expect([code, of(name)]).toMatchObject([1, [{ state: 'FAIL', text: expect.stringMatching(text) }]])
  })

  test('a server without TLS fails', async () => {
    const { receiver } = await start()
    const { of } = await look(base, '--url', `https://127.0.0.1:${receiver.port}/bitrix24`)
    expect(of('answer')).toMatchObject([{ state: 'FAIL', text: expect.stringContaining('does not answer https') }])
  })
})
