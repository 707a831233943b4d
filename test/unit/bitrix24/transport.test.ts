import { execFile } from 'node:child_process'
import { createServer } from 'node:https'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import { describe, expect, onTestFinished, test } from 'vitest'
import { parseIncomingWebhooks } from '../../../src/bitrix24/incoming-webhook.ts'
import { createTransport } from '../../../src/bitrix24/transport.ts'
import { portalCertificate } from '../../support/portal/certificate.ts'
import { startPortal } from '../../support/portal.ts'
import { freePort, until } from '../../support/receiver.ts'

async function start() {
  const portal = await startPortal()
  return { portal, send: sendTo(portal.incomingWebhook()) }
}

function sendTo(url: string) {
  const [incomingWebhook] = parseIncomingWebhooks(url)
  if (!incomingWebhook) throw new Error('no incoming webhook')
  return createTransport(incomingWebhook, undefined)
}

const failureOf = (work: Promise<unknown>) =>
  work.then(
    () => ({ code: 'none' }),
    (error: unknown) => error,
  )

describe('a write is sent once', () => {
  // 421 is where fetch posts a second time by itself.
  test.each([200, 204, 301, 307, 308, 401, 407, 408, 421, 425, 429, 502, 503, 504])(
    'when it is answered with %i and a page',
    async (status) => {
      const { portal, send } = await start()
      const headers = {
        'content-type': 'text/html',
        location: `${portal.incomingWebhook()}crm.deal.add`,
        'retry-after': '0',
      }
      portal.behaviour.raw = { status, headers, body: status === 204 ? '' : '<h1>A page</h1>' }
      const code = `HTTP_${status}`
      expect(await failureOf(send('crm.deal.add', { fields: {} }))).toMatchObject({ code, status })
      expect(portal.requests).toHaveLength(1)
    },
  )

  test('when its answer is lost, on a connection that was used before too', async () => {
    const { portal, send } = await start()
    await send('profile', {})
    const never = Promise.withResolvers<void>()
    portal.behaviour.held = never.promise
    const lost = failureOf(send('crm.deal.add', { fields: {} }))
    await until('it was sent', () => portal.requests.length === 2)
    await portal.unplug()
    expect(await lost).toMatchObject({ status: 0, trouble: 'unreachable' })
    portal.behaviour.held = undefined
    await portal.plugIn()
    await send('profile', {})
    expect(portal.called()).toEqual(['profile', 'crm.deal.add', 'profile'])
  })
})

describe('an answer', () => {
  async function answerWith(body: Buffer, headers: Record<string, string> = {}) {
    const { key, cert } = portalCertificate()
    const asked: (string | undefined)[] = []
    const server = createServer({ key, cert }, (request, response) => {
      asked.push(request.headers['accept-encoding'])
      request.resume().on('end', () => response.writeHead(200, headers).end(body))
    })
    const port = await freePort()
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
    onTestFinished(() => server.closeAllConnections())
    return { asked, answer: await sendTo(`https://127.0.0.1:${port}/rest/1/abc/`)('profile', {}) }
  }

  test('is asked for and read compressed', async () => {
    const body = gzipSync(JSON.stringify({ result: 'Größe'.repeat(1_000) }))
    const { asked, answer } = await answerWith(body, { 'content-encoding': 'gzip' })
    expect(answer.result).toBe('Größe'.repeat(1_000))
    expect(asked).toEqual(['gzip'])
  })

  test('may begin with a byte-order mark, as the files of some portals do', async () => {
    const { answer } = await answerWith(Buffer.from('\ufeff{"result":7}'))
    expect(answer.result).toBe(7)
  })
})

test('an error in the format of something in front of the portal is not taken for the portal’s', async () => {
  const { portal, send } = await start()
  const headers = { 'content-type': 'application/json' }
  portal.behaviour.raw = { status: 404, headers, body: '{"error":"Not Found"}' }
  expect(await failureOf(send('profile', {}))).toMatchObject({ code: 'HTTP_404', trouble: 'not_rest' })
  portal.behaviour.raw = { status: 200, headers, body: '{"error":"","error_description":"Not found"}' }
  expect(await failureOf(send('profile', {}))).toMatchObject({ code: 'NO_CODE', trouble: undefined })
})

test('a redirect says where to, without what may be a secret', async () => {
  const { portal, send } = await start()
  const location = `https://new-name.bitrix24.com/rest/1/${portal.code()}/profile`
  portal.behaviour.raw = { status: 302, headers: { location }, body: '' }
  const error = await failureOf(send('profile', {}))
  expect(String(error)).toContain(
    "is answered by something else than Bitrix24's REST: HTTP_302 (a redirect to new-name.bitrix24.com; if the portal was renamed, B24_HOOK needs its new address)",
  )
  expect(String(error)).not.toContain(portal.code())
})

test('what a handler does to fetch, or to the global dispatcher of undici, does nothing to our calls', async () => {
  const portal = await startPortal()
  const src = fileURLToPath(new URL('../../../src/bitrix24/', import.meta.url))
  const script = `
    import { MockAgent, setGlobalDispatcher } from 'undici'
    import { parseIncomingWebhooks } from '${src}incoming-webhook.ts'
    import { createTransport } from '${src}transport.ts'
    globalThis.fetch = () => { throw new Error('patched') }
    const mock = new MockAgent()
    mock.disableNetConnect()
    setGlobalDispatcher(mock)
    const [hook] = parseIncomingWebhooks(process.env.HOOK)
    const send = createTransport(hook, undefined)
    console.log((await send('profile', {})).result.ID)
  `
  const { stdout, stderr } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', script], {
    cwd: fileURLToPath(new URL('../../../', import.meta.url)),
    env: { ...portal.env, HOOK: portal.incomingWebhook() },
  })
  expect([stdout, stderr]).toEqual(['1\n', ''])
})

test('HTTPS_PROXY is used, and NO_PROXY kept to', async () => {
  const portal = await startPortal()
  const src = fileURLToPath(new URL('../../../src/bitrix24/', import.meta.url))
  const script = `
    import { createServer } from 'node:http'
    import { connect } from 'node:net'
    const tunnels = []
    const proxy = createServer().on('connect', (request, client, head) => {
      tunnels.push(request.url)
      const [host, port] = request.url.split(':')
      const server = connect(port, host, () => {
        client.write('HTTP/1.1 200 OK\\r\\n\\r\\n')
        server.pipe(client).pipe(server)
      })
    })
    await new Promise((resolve) => proxy.listen(0, '127.0.0.1', resolve))
    process.env.HTTPS_PROXY = 'http://127.0.0.1:' + proxy.address().port
    const { parseIncomingWebhooks } = await import('${src}incoming-webhook.ts')
    const { createTransport } = await import('${src}transport.ts')
    const [hook] = parseIncomingWebhooks(process.env.HOOK)
    await createTransport(hook, undefined)('profile', {})
    console.log(tunnels.length)
    process.exit()
  `
  const run = async (env: Record<string, string>) => {
    const options = { env: { ...portal.env, HOOK: portal.incomingWebhook(), ...env } }
    return (await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', script], options)).stdout
  }
  expect(await run({})).toBe('1\n')
  expect(await run({ NO_PROXY: portal.host })).toBe('0\n')
  expect(portal.requests).toHaveLength(2)
})
