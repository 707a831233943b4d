import { once } from 'node:events'
import { describe, expect, test, vi } from 'vitest'
import { Refusal, type RefusalCode, refusals } from '../../../src/intake/refusal.ts'
import { createServer } from '../../../src/intake/server.ts'
import { createTokens } from '../../../src/intake/token.ts'
import { forwarderId, forwardMark } from '../../../src/lib/forward-mark.ts'
import {
  type Answer,
  createLines,
  goodBody,
  heldToken,
  isObject,
  open,
  post,
  readFixture,
  request,
  samples,
  startServer,
  type TestServer,
  type TestServerOptions,
} from '../../support/intake.ts'

const accepted = '{"status":"ok","message":"event accepted"}'
const wrongToken = 'tokenoftheintaketests99999999999'
const withToken = (token: string) => goodBody.replace(heldToken, token)
/** The head of a post, for tests that send its body their own way. */
const head = (...fields: string[]) =>
  `${['POST /bitrix24 HTTP/1.1', 'Host: a', 'Content-Type: application/x-www-form-urlencoded', ...fields].join('\r\n')}\r\n\r\n`
const chunk = (text: string) => `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`

interface Case {
  readonly about: string
  readonly send: (server: TestServer) => Promise<Answer | undefined>
  readonly server?: () => TestServerOptions
  /** What the answer says beside the code. */
  readonly message?: string
}

/** What is sent is a whole request, or nothing more will come. */
const raw = (bytes: string | Buffer, end = false) => {
  return async ({ port }: TestServer) => {
    using connection = open(port)
    connection.write(bytes)
    if (end) connection.socket.end()
    return await connection.answer()
  }
}
const posted =
  (body: string, options?: Parameters<typeof post>[2]) =>
  ({ port }: TestServer) =>
    post(port, body, options)

/** The first append fails, the later ones do not. */
function failOnce(error: () => Error): TestServerOptions {
  let failed = false
  return {
    beforeAppend: async () => {
      if (failed) return
      failed = true
      throw error()
    },
  }
}

/** A state is waited for, and a busy machine may take its time. */
const patient = { timeout: 300_000, interval: 5 }
const impatient = (): TestServerOptions => ({ timeouts: { headers: 200, request: 200, check: 10 } })
const addressWorks = 'POST only; the address works'

/** Behind a proxy that says whom a post is from, ourselves where it says nothing. */
const onlyLocal = (): TestServerOptions => ({ trustProxy: ['127.0.0.1'], allowedIps: ['127.0.0.1'] })
const from = (...addresses: string[]) => ({ headers: [`X-Forwarded-For: ${addresses.join(', ')}`] })

/** Every code of the table has its cases here, or it does not compile. */
const cases = {
  invalid_application_token: [
    { about: 'a wrong token', send: posted(withToken(wrongToken)) },
    { about: 'no token', send: posted('event=ONCRMDEALUPDATE') },
    { about: 'an empty body', send: posted('') },
    { about: 'a doubled token', send: posted(`${goodBody}&auth[application_token]=${heldToken}`) },
    { about: 'a nested token', send: posted(`event=E&auth[application_token][x]=${heldToken}`) },
    { about: 'a token in a list', send: posted(`event=E&auth[application_token][]=${heldToken}`) },
    { about: 'a token as the whole auth', send: posted(`event=E&auth=${heldToken}`) },
    {
      about: 'the token only in the query',
      send: posted('event=E', { target: `/bitrix24?auth[application_token]=${heldToken}` }),
    },
  ],
  source_not_allowed: [
    { about: 'an event from another address', send: posted(goodBody, from('203.0.113.7')), server: onlyLocal },
    { about: 'no event, from another address', send: posted('x', from('203.0.113.7')), server: onlyLocal },
    { about: 'an event from what is no address', send: posted(goodBody, from('unknown')), server: onlyLocal },
  ],
  malformed_form: [
    { about: 'a body too deep', send: posted(`${goodBody}&data${'[a]'.repeat(65)}=1`) },
    { about: 'a body of too many parameters', send: posted(`${'&a=1'.repeat(10_001)}&${goodBody}`) },
    { about: 'a body that contradicts itself', send: posted(`${goodBody}&data[FIELDS][ID][x]=1`) },
    { about: 'a query too deep', send: posted(goodBody, { target: `/bitrix24?a${'[b]'.repeat(65)}=1` }) },
    { about: 'a query that contradicts itself', send: posted(goodBody, { target: '/bitrix24?a=1&a[b]=2' }) },
  ],
  malformed_event: [
    { about: 'a form without event', send: posted(`auth[application_token]=${heldToken}`) },
    { about: 'an event that is a list', send: posted(`event[]=E&auth[application_token]=${heldToken}`) },
    { about: 'a ts that is an object', send: posted(`event=E&ts[a]=1&auth[application_token]=${heldToken}`) },
    { about: 'an event_handler_id that is a list', send: posted(`${goodBody.replace('_id=', '_id[]=')}`) },
  ],
  malformed_request: [
    { about: 'garbage', send: raw('garbage\r\n\r\n') },
    { about: 'a TLS greeting', send: raw(Buffer.from('160301020001000201fc0303', 'hex')) },
    { about: 'the preface of HTTP/2', send: raw('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n') },
    { about: 'a head that ends early', send: raw('POST /bitrix24 HT', true) },
    { about: 'a head that is too long', send: raw(head(`X: ${'a'.repeat(20_000)}`)) },
    { about: 'a body shorter than announced', send: raw(request(goodBody).subarray(0, -10), true) },
    { about: 'a body with two lengths', send: raw(head('Content-Length: 5', 'Content-Length: 6')) },
    { about: 'a length that is no number', send: raw(head('Content-Length: abc')) },
    { about: 'a chunk that is none', send: raw(`${head('Transfer-Encoding: chunked')}zz\r\n`) },
    { about: 'a control character in the URL', send: raw(request(goodBody, { target: '/bitrix24?a=\x01' })) },
    { about: 'raw text in the URL of what is no HTTP', send: raw('POST /bitrix24?имя HTTP/9.9\r\n\r\n') },
  ],
  request_timeout: [
    { about: 'a connection on which nothing comes', send: raw(''), server: impatient },
    { about: 'a head that stops', send: raw('POST /bitrix24 HTTP/1.1\r\nHost:'), server: impatient },
    { about: 'a body that stops', send: raw(request(goodBody).subarray(0, -1)), server: impatient },
  ],
  body_too_large: [
    { about: 'a body that is announced too long', send: raw(head(`Content-Length: ${64 * 1024 + 1}`)) },
    {
      about: 'a chunked body that becomes too long',
      send: raw(head('Transfer-Encoding: chunked') + chunk('a'.repeat(1024)) + chunk('b')),
      server: () => ({ bodyLimit: 1024 }),
    },
  ],
  unsupported_media_type: [
    { about: 'JSON', send: posted('{"event":"E"}', { contentType: 'application/json' }) },
    { about: 'JSON null', send: posted('null', { contentType: 'application/json' }) },
    { about: 'text', send: posted(goodBody, { contentType: 'text/plain' }) },
    { about: 'multipart', send: posted('--x--', { contentType: 'multipart/form-data; boundary=x' }) },
    { about: 'a body without a content type', send: posted(goodBody, { contentType: null }) },
    { about: 'a post without anything', send: raw('POST /bitrix24 HTTP/1.1\r\nHost: a\r\n\r\n') },
    { about: 'a content type that is none', send: posted(goodBody, { contentType: ';;;' }) },
    { about: 'a longer name', send: posted(goodBody, { contentType: 'application/x-www-form-urlencoded2' }) },
    { about: 'gzip', send: posted(goodBody, { headers: ['Content-Encoding: gzip'] }) },
    { about: 'two encodings', send: posted(goodBody, { headers: ['Content-Encoding: identity, br'] }) },
  ],
  method_not_allowed: [
    ...['GET', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND', 'TRACE'].map((method) => ({
      about: `${method} of the handler URL`,
      send: posted('', { method }),
      message: addressWorks,
    })),
    { about: 'GET with a slash', send: posted('', { method: 'GET', target: '/bitrix24/' }), message: addressWorks },
    { about: 'GET with a query', send: posted('', { method: 'GET', target: '/bitrix24?a=b' }), message: addressWorks },
    { about: 'PUT of an event', send: posted(goodBody, { method: 'PUT' }), message: addressWorks },
  ],
  not_found: [
    { about: 'a post to another path', send: posted(goodBody, { target: '/other' }) },
    { about: 'a post to the root', send: posted(goodBody, { target: '/' }) },
    { about: 'a post below the handler URL', send: posted(goodBody, { target: '/bitrix24/x' }) },
    { about: 'another letter case', send: posted(goodBody, { target: '/BITRIX24' }) },
    { about: 'a post to /healthz', send: posted(goodBody, { target: '/healthz' }) },
    { about: 'a path with an escape that is none', send: posted(goodBody, { target: '/bitrix24%' }) },
    { about: 'a path of bytes that are not UTF-8', send: posted(goodBody, { target: '/%ff%fe' }) },
    { about: 'a path named like a prototype', send: posted(goodBody, { target: '/__proto__/constructor' }) },
    { about: 'GET of the root', send: posted('', { method: 'GET', target: '/' }) },
  ],
  forwarding_loop: [
    { about: 'a post of our own handlers', send: posted(goodBody, { headers: [`${forwardMark}: ${forwarderId()}`] }) },
  ],
  journal_unavailable: [
    { about: 'an event for a full disk', send: posted(goodBody), server: () => failOnce(() => fullDisk()) },
  ],
  overloaded: [
    {
      about: 'the largest of bodies that are more than there is memory for',
      server: () => ({ bodyLimit: 4 * 1024 ** 2 }),
      async send({ port }) {
        const connections = Array.from({ length: 5 }, () => open(port))
        try {
          for (const connection of connections) connection.write(request(Buffer.alloc(4 * 1024 ** 2)).subarray(0, -1))
          return await Promise.race(connections.map((connection) => connection.answer()))
        } finally {
          for (const { socket } of connections) socket.destroy()
        }
      },
    },
  ],
  internal: [
    {
      about: 'an event on which we stumble',
      send: posted(goodBody),
      server: () => failOnce(() => new Error('the secret /path')),
    },
    {
      about: 'an event on which we stumble with a status',
      send: posted(goodBody),
      server: () =>
        failOnce(() => Object.assign(new TypeError('the secret /path'), { statusCode: 418, code: 'E_TEAPOT' })),
    },
  ],
  // host_not_allowed is of the private listener.
} as const satisfies Record<Exclude<RefusalCode, 'host_not_allowed'>, readonly Case[]>

function fullDisk(): Refusal {
  return new Refusal('journal_unavailable', {}, { cause: new Error('ENOSPC: the secret /path') })
}

const allCases = Object.entries<readonly Case[]>(cases).flatMap(([code, list]) =>
  list.map((each): [string, string, Case] => [each.about, code, each]),
)

test('forms are read by @fastify/formbody', async () => {
  const app = createServer({
    config: { webhookPath: '/bitrix24', robotPath: undefined, bodyLimit: 1024, trustProxy: [] },
    tokens: createTokens([]),
    journal: { append: async () => undefined },
    log: createLines().log,
  })
  await app.ready()
  expect(app.hasPlugin('@fastify/formbody')).toBe(true)
  await app.close()
})

test('every code of the table of refusals is tested here', () => {
  const ofPrivateListener = ['host_not_allowed']
  expect([...Object.keys(cases), ...ofPrivateListener].toSorted()).toEqual(Object.keys(refusals).toSorted())
  for (const list of Object.values(cases)) expect(list.length).toBeGreaterThan(0)
})

test.each(allCases)('%s is answered %s and the next post is accepted', async (_, code, each) => {
  await using server = await startServer(each.server?.())
  const answer = await each.send(server)
  expect(answer?.status).toBe(statusOf(code))
  expect(answer?.headers.get('content-type')).toBe('application/json; charset=utf-8')
  expect(JSON.parse(answer?.body ?? '')).toEqual({
    status: 'error',
    error: code,
    ...(each.message !== undefined && { message: each.message }),
  })
  expect(answer?.headers.get('retry-after')).toBe(code === 'overloaded' ? '1' : undefined)
  expect(server.events).toEqual([])
  expect(server.logged()).not.toContain(heldToken)
  expect(server.logged()).not.toContain(wrongToken)
  expect((await post(server.port, goodBody)).body).toBe(accepted)
  expect(server.events).toHaveLength(1)
})

test.each(allCases)('%s is shown to the operator as %s', async (_, code, each) => {
  await using server = await startServer(each.server?.())
  await each.send(server)
  const told = server.lines.filter(({ level }) => level !== 30)
  const mistake = { level: 50, msg: 'a mistake of ours, answered with 500' }
  const expected = code === 'internal' ? mistake : { level: 40, msg: 'refused', code }
  expect(told).toContainEqual(expect.objectContaining(expected))
})

// What Node's HTTP server would answer by itself, with no code of the table and no line in the log.
describe('answered by the receiver, not by Node:', () => {
  const refused = { status: 403, body: '{"status":"error","error":"invalid_application_token"}' }

  test('a post without Host', async () => {
    await using server = await startServer()
    const withoutHost = (body: string) =>
      request(body)
        .toString()
        .replace(/Host:.*\r\n/, '')
    expect(await raw(withoutHost(goodBody))(server)).toMatchObject({ status: 200, body: accepted })
    expect(await raw(withoutHost(withToken(wrongToken)))(server)).toMatchObject(refused)
  })

  test('a post that expects something unknown', async () => {
    await using server = await startServer()
    const headers = ['Expect: the-unexpected']
    expect(await post(server.port, goodBody, { headers })).toMatchObject({ status: 200, body: accepted })
    expect(await post(server.port, withToken(wrongToken), { headers })).toMatchObject(refused)
  })

  test('a CONNECT, which asks for a tunnel', async () => {
    await using server = await startServer()
    const answer = await raw('CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n')(server)
    expect(Object.entries(refusals).map(([error]) => JSON.stringify({ status: 'error', error }))).toContain(
      answer?.body,
    )
    expect((await post(server.port, goodBody)).status).toBe(200)
  })
})

test('what is no HTTP is reported with the address that it came from', async () => {
  await using server = await startServer()
  await raw('garbage\r\n\r\n')(server)
  expect(server.lines).toContainEqual(expect.objectContaining({ code: 'malformed_request', remote: '127.0.0.1' }))
})

test.each(['GET', 'PUT', 'CONNECT'])('the answer to %s names the method that is allowed', async (method) => {
  await using server = await startServer()
  const target = method === 'CONNECT' ? 'example.com:443' : '/bitrix24'
  const answer = await raw(`${method} ${target} HTTP/1.1\r\nHost: a\r\n\r\n`)(server)
  expect([answer?.status, answer?.headers.get('allow')]).toEqual([405, 'POST'])
})

// Node's parser refuses such bytes in a URL, whatever its options say.
describe('a URL with text that is not percent-encoded', () => {
  const target = '/bitrix24?имя=Борис ü'.replace(' ', '+')
  const query = { имя: 'Борис ü' }

  test('is taken, and its query is decoded', async () => {
    await using server = await startServer()
    expect(await raw(request(goodBody, { target }))(server)).toMatchObject({ status: 200, body: accepted })
    expect(server.events).toMatchObject([{ event: 'ONCRMDEALUPDATE', object: 'deal:662', query, remote: '127.0.0.1' }])
    expect(server.lines.filter(({ level }) => level === 40)).toEqual([])
  })

  test('is taken when its body comes later, in pieces', async () => {
    await using server = await startServer()
    using connection = open(server.port)
    const bytes = request(goodBody, { target })
    const headEnd = bytes.indexOf('\r\n\r\n') + 4
    for (const [from, to] of [
      [0, headEnd],
      [headEnd, headEnd + 10],
      [headEnd + 10, bytes.length],
    ]) {
      connection.write(bytes.subarray(from, to))
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    expect(await connection.answer()).toMatchObject({ status: 200 })
    expect(server.events).toMatchObject([{ query }])
  })

  test('is taken behind another post on one connection, which is closed then', async () => {
    await using server = await startServer()
    using connection = open(server.port)
    connection.write(request(goodBody, { connection: 'keep-alive' }))
    expect(await connection.answer()).toMatchObject({ status: 200 })
    connection.write(request(goodBody, { target, connection: 'keep-alive' }))
    const answer = await connection.answer()
    expect([answer?.status, answer?.headers.get('connection')]).toEqual([200, 'close'])
    expect(server.events).toMatchObject([{ event: 'ONCRMDEALUPDATE' }, { query }])
  })

  test('needs the token like any other', async () => {
    await using server = await startServer()
    expect(await raw(request(withToken(wrongToken), { target }))(server)).toMatchObject({ status: 403 })
    expect(server.logged()).not.toContain(wrongToken)
  })

  test('leaves no connection behind', async () => {
    await using server = await startServer()
    for (let post = 0; post < 20; post++) await raw(request(goodBody, { target }))(server)
    await vi.waitFor(async () => expect(await server.openConnections()).toBe(0), patient)
    expect(server.events).toHaveLength(20)
  })
})

describe('a post with a known token', () => {
  test('is answered 200 when the journal has it, with what the documentation says', async () => {
    await using server = await startServer()
    const answer = await post(server.port, goodBody)
    expect(answer).toMatchObject({ status: 200, body: accepted })
    expect(answer.headers.get('content-type')).toBe('application/json; charset=utf-8')
    expect(JSON.parse(JSON.stringify(server.events))).toEqual([
      {
        id: expect.stringMatching(/^[0-9a-f-]{36}$/),
        webhook: 'sales',
        event: 'ONCRMDEALUPDATE',
        object: 'deal:662',
        event_handler_id: '312',
        ts: '1736405807',
        data: { FIELDS: { ID: '662' } },
        auth: { domain: 'example.bitrix24.com' },
        remote: '127.0.0.1',
      },
    ])
  })

  test('is not answered before the journal has it', async () => {
    const reached = Promise.withResolvers<void>()
    const written = Promise.withResolvers<void>()
    const order: string[] = []
    await using server = await startServer({
      beforeAppend: async () => {
        reached.resolve()
        await written.promise
        order.push('written')
      },
    })
    const answered = post(server.port, goodBody).then(() => order.push('answered'))
    await reached.promise
    // Others are served meanwhile.
    expect((await post(server.port, '', { method: 'GET', target: '/healthz' })).status).toBe(200)
    expect(order).toEqual([])
    written.resolve()
    await answered
    expect(order).toEqual(['written', 'answered'])
  })

  test('is logged in one line with id, event, object and webhook, and nothing of its data', async () => {
    await using server = await startServer()
    await post(server.port, goodBody.replace('662', '662&data[comment]=private-comment'))
    const { level, time, pid, hostname, ...line } = server.lines[0] ?? {}
    expect([level, typeof time, typeof pid, typeof hostname]).toEqual([30, 'number', 'number', 'string'])
    const id = server.events[0]?.id
    expect(line).toEqual({ id, event: 'ONCRMDEALUPDATE', object: 'deal:662', webhook: 'sales', msg: 'accepted' })
    expect(server.lines).toHaveLength(1)
    expect(server.logged()).not.toMatch(/private-comment|tokenoftheintaketests/)
  })

  test('may have an event name as long as a body: the line stays short', async () => {
    await using server = await startServer()
    await post(server.port, goodBody.replace('ONCRMDEALUPDATE', 'E'.repeat(10_000)))
    expect(server.events[0]?.event).toHaveLength(10_000)
    expect(server.logged().length).toBeLessThan(500)
  })

  test('carries the name of the token it came with', async () => {
    const tokens = [
      { name: 'sales', value: heldToken },
      { name: 'support', value: wrongToken },
      { name: undefined, value: 'unnamed' },
    ]
    await using server = await startServer({ tokens })
    for (const { value } of tokens) await post(server.port, withToken(value))
    expect(server.events.map(({ webhook }) => webhook)).toEqual(['sales', 'support', undefined])
  })

  test.each([
    ['ID=777', ''],
    ['ID=12345678', '?key=12345678'],
    ['ID=662', '?key=ONCRMDEALUPDATE'],
    ['ID=662', '?auth=example.bitrix24.com'],
  ])('with %s keeps it although tokens and the query %s hold the same', async (field, query) => {
    const tokens = [
      { name: 'crm', value: heldToken },
      { name: 'bot', value: '777' },
    ]
    await using server = await startServer({ tokens })
    const body = goodBody.replace('ID%5D=662', field.replace('ID', 'ID%5D'))
    expect(await post(server.port, body, { target: `/bitrix24${query}` })).toMatchObject({ status: 200 })
    const ID = field.slice(3)
    expect(server.events).toMatchObject([
      {
        event: 'ONCRMDEALUPDATE',
        object: `deal:${ID}`,
        data: { FIELDS: { ID } },
        auth: { domain: 'example.bitrix24.com' },
      },
    ])
    expect(server.events[0]?.shape).toBeUndefined()
  })

  test('has no token of another webhook in it either', async () => {
    const tokens = [
      { name: 'sales', value: heldToken },
      { name: 'support', value: 'tokenofanotherwebhook' },
    ]
    await using server = await startServer({ tokens })
    await post(server.port, `${goodBody}&data[a]=tokenofanotherwebhook&data[b]=1`)
    expect(server.events).toMatchObject([{ webhook: 'sales', data: { b: '1' } }])
    expect(JSON.stringify(server.events)).not.toContain('tokenofanotherwebhook')
  })

  test.each([
    ['a charset', { contentType: 'application/x-www-form-urlencoded; charset=UTF-8' }],
    ['a charset in quotes', { contentType: 'application/x-www-form-urlencoded;charset="utf-8"' }],
    ['a content type in other letters', { contentType: 'Application/X-WWW-Form-Urlencoded' }],
    ['a trailing slash', { target: '/bitrix24/' }],
    ['a trailing slash and a query', { target: '/bitrix24/?a=b' }],
    ['an empty query', { target: '/bitrix24?' }],
    ['the whole URL as a proxy would ask', { target: 'http://hooks.example.com/bitrix24' }],
    ['no content encoding by name', { headers: ['Content-Encoding: identity'] }],
    ['Expect: 100-continue', { headers: ['Expect: 100-continue'] }],
    ['an Upgrade that nobody offers', { headers: ['Upgrade: h2c'] }],
  ])('may have %s', async (_, options) => {
    await using server = await startServer()
    expect((await post(server.port, goodBody, options)).body).toBe(accepted)
    expect(server.events).toMatchObject([{ event: 'ONCRMDEALUPDATE', object: 'deal:662' }])
  })

  test('may be chunked, in pieces of one byte', async () => {
    await using server = await startServer()
    using connection = open(server.port)
    connection.write(head('Transfer-Encoding: chunked'))
    for (const byte of goodBody) connection.write(chunk(byte))
    connection.write('0\r\n\r\n')
    expect((await connection.answer())?.body).toBe(accepted)
  })

  test('may come in HTTP/1.0', async () => {
    await using server = await startServer()
    const text = request(goodBody)
      .toString()
      .replace('HTTP/1.1', 'HTTP/1.0')
      .replace(/Host:.*\r\n/, '')
    expect((await raw(text)(server))?.body).toBe(accepted)
  })

  test('may be exactly as long as the limit', async () => {
    await using server = await startServer({ bodyLimit: goodBody.length })
    expect((await post(server.port, goodBody)).status).toBe(200)
    expect((await raw(request(`${goodBody}&`))(server))?.status).toBe(413)
  })

  test('has its query decoded into the event, less secrets', async () => {
    await using server = await startServer()
    const target =
      '/bitrix24?CLIENT_ID=custom1&a%5B0%5D=%D0%9F&a%5B1%5D=%zz&token=geheimgeheimgeheim&b=geheimgeheimgeheim'
    await post(server.port, `${goodBody}&data[x]=geheimgeheimgeheim`, { target })
    expect(server.events[0]?.query).toEqual({ CLIENT_ID: 'custom1', a: ['П', '%zz'] })
    expect(JSON.stringify(server.events)).not.toContain('geheimgeheimgeheim')
    expect(server.logged()).not.toMatch(/geheimgeheimgeheim|CLIENT_ID/)
  })
})

test('every sample of the wire that has a token is accepted, each on a connection of its own', async () => {
  const sent = samples.map(({ body, json }) => ({ body, form: asObject(JSON.parse(json)) }))
  const tokenOf = (form: Record<string, unknown>) => asObject(form['auth'])['application_token']
  const values = new Set(sent.map(({ form }) => tokenOf(form)).filter((token) => typeof token === 'string'))
  await using server = await startServer({ tokens: [...values].map((value) => ({ name: undefined, value })) })
  const answers = await Promise.all(sent.map(({ body }) => post(server.port, body)))
  const expected = sent.map(({ form }) => (tokenOf(form) === undefined ? 403 : 200))
  expect(answers.map(({ status }) => status)).toEqual(expected)
  expect(expected.filter((status) => status === 403)).toHaveLength(1)
  expect(server.events).toHaveLength(samples.length - 1)
  const line = server.logged() + JSON.stringify(server.events)
  for (const value of values) expect(line).not.toContain(value)
  const objects = Object.values(asObject(readFixture('objects.json'))).flatMap((object) => object ?? [])
  expect(server.events.flatMap(({ object }) => object ?? [])).toHaveLength(objects.length)
  expect(server.events.map(({ object }) => object)).toEqual(expect.arrayContaining(objects))
})

describe('connections', () => {
  test('are closed after a post that asks for it, as Bitrix24 does', async () => {
    await using server = await startServer()
    using connection = open(server.port)
    connection.write(request(goodBody))
    expect((await connection.answer())?.headers.get('connection')).toBe('close')
    await connection.closed
    await vi.waitFor(async () => expect(await server.openConnections()).toBe(0), patient)
  })

  test('may be kept for many posts, refused ones among them', async () => {
    await using server = await startServer()
    using connection = open(server.port)
    const statuses: (number | undefined)[] = []
    for (const body of [goodBody, withToken(wrongToken), goodBody, goodBody.replace('event', 'x'), goodBody]) {
      connection.write(request(body, { connection: 'keep-alive' }))
      statuses.push((await connection.answer())?.status)
    }
    expect(statuses).toEqual([200, 403, 200, 400, 200])
    expect(server.events).toHaveLength(3)
  })

  test('may carry several posts at once, answered in order', async () => {
    await using server = await startServer()
    using connection = open(server.port)
    const kept = { connection: 'keep-alive' } as const
    connection.write(Buffer.concat([goodBody, withToken(wrongToken), goodBody].map((body) => request(body, kept))))
    const statuses = [await connection.answer(), await connection.answer(), await connection.answer()]
    expect(statuses.map((answer) => answer?.status)).toEqual([200, 403, 200])
  })

  test('a hundred at once are all answered', async () => {
    await using server = await startServer()
    const answers = await Promise.all(Array.from({ length: 100 }, () => post(server.port, goodBody)))
    expect(answers.every(({ status }) => status === 200)).toBe(true)
    expect(new Set(server.events.map(({ id }) => id)).size).toBe(100)
  })

  test('a client that disappears in the middle of a body leaves nothing behind', async () => {
    await using server = await startServer()
    const connection = open(server.port)
    connection.write(request(goodBody).subarray(0, -10))
    await vi.waitFor(async () => expect(await server.openConnections()).toBe(1), patient)
    connection.socket.resetAndDestroy()
    await vi.waitFor(async () => expect(await server.openConnections()).toBe(0), patient)
    expect((await post(server.port, goodBody)).status).toBe(200)
    expect(server.events).toHaveLength(1)
    expect(server.lines.filter(({ level }) => level === 50)).toEqual([])
  })

  test('a client that does not wait for its answer has its event kept', async () => {
    const reached = Promise.withResolvers<void>()
    const written = Promise.withResolvers<void>()
    await using server = await startServer({
      beforeAppend: async () => {
        reached.resolve()
        await written.promise
      },
    })
    const connection = open(server.port)
    connection.write(request(goodBody))
    await reached.promise
    connection.socket.resetAndDestroy()
    await vi.waitFor(async () => expect(await server.openConnections()).toBe(0), patient)
    written.resolve()
    await vi.waitFor(() => expect(server.events).toHaveLength(1), patient)
    expect((await post(server.port, goodBody)).status).toBe(200)
    expect(server.lines.filter(({ level }) => level === 50)).toEqual([])
  })

  test.each([
    ['one post', 'close', [goodBody], [200]],
    ['one post on a connection to be kept', 'keep-alive', [goodBody], [200]],
    ['a refused post', 'close', [withToken(wrongToken)], [403]],
    ['several posts', 'keep-alive', [goodBody, withToken(wrongToken), goodBody], [200, 403, 200]],
  ] as const)('a client that says nothing more after %s is answered, and holds no connection', async (...given) => {
    const [, connected, bodies, statuses] = given
    const ended = Promise.withResolvers<void>()
    await using server = await startServer({ beforeAppend: () => ended.promise })
    using connection = open(server.port)
    connection.socket.end(Buffer.concat(bodies.map((body) => request(body, { connection: connected }))))
    // Its end has come before the journal has anything: a later connection was taken and answered.
    await once(connection.socket, 'finish')
    expect((await post(server.port, '', { method: 'GET' })).status).toBe(405)
    ended.resolve()
    const answers: (number | undefined)[] = []
    for (const _ of bodies) answers.push((await connection.answer())?.status)
    expect(answers).toEqual(statuses)
    await connection.closed
    await vi.waitFor(async () => expect(await server.openConnections()).toBe(0), patient)
    expect(server.events).toHaveLength(statuses.filter((status) => status === 200).length)
  })

  test('a client that says nothing more after a kept connection was answered holds it no longer', async () => {
    await using server = await startServer()
    using connection = open(server.port)
    connection.write(request(goodBody, { connection: 'keep-alive' }))
    expect((await connection.answer())?.status).toBe(200)
    connection.socket.end()
    await connection.closed
    await vi.waitFor(async () => expect(await server.openConnections()).toBe(0), patient)
  })

  test.each([
    ['nothing', ''],
    ['half a head', 'POST /bitrix24 HTTP/1.1\r\n'],
    ['half a body', request(goodBody).subarray(0, -1)],
    ['garbage', 'garbage\r\n\r\n'],
  ])('a client that sent %s and never hangs up holds no connection', async (_, bytes) => {
    await using server = await startServer(impatient())
    using connection = open(server.port)
    connection.write(bytes)
    await connection.answer()
    await connection.closed
    await vi.waitFor(async () => expect(await server.openConnections()).toBe(0), patient)
  })

  test('a body that trickles in is refused, however busy it looks', async () => {
    await using server = await startServer(impatient())
    using connection = open(server.port)
    connection.write(head('Content-Length: 60000'))
    const trickle = setInterval(() => connection.write('a'), 5)
    const answer = await connection.answer()
    clearInterval(trickle)
    expect(answer?.body).toBe('{"status":"error","error":"request_timeout"}')
  })
})

describe('the sender is', () => {
  const remoteOf = async (trustProxy: readonly string[], ...addresses: string[]) => {
    await using server = await startServer({ trustProxy })
    await post(server.port, goodBody, from(...addresses))
    return server.events[0]?.remote
  }

  test('the other end of the connection where no proxy is trusted, whatever it says', async () => {
    expect(await remoteOf([], '203.0.113.7')).toBe('127.0.0.1')
    expect(await remoteOf(['10.0.0.0/8'], '203.0.113.7')).toBe('127.0.0.1')
  })

  test('the one that a trusted proxy names', async () => {
    expect(await remoteOf(['127.0.0.1'], '203.0.113.7')).toBe('203.0.113.7')
    expect(await remoteOf(['127.0.0.0/8'], '2001:db8::7')).toBe('2001:db8::7')
  })

  test('the last that is no trusted proxy: what a client wrote before it is not believed', async () => {
    expect(await remoteOf(['127.0.0.1'], '198.51.100.1', '203.0.113.7')).toBe('203.0.113.7')
    expect(await remoteOf(['127.0.0.1', '10.0.0.0/8'], '198.51.100.1', '203.0.113.7', '10.1.2.3')).toBe('203.0.113.7')
  })
})

describe('where only some addresses are allowed', () => {
  const refused = { status: 403, body: '{"status":"error","error":"source_not_allowed"}' }
  const allowedIps = ['203.0.113.0/24', '2001:db8::/32']

  test('a post is taken from them, and from no other address', async () => {
    await using server = await startServer({ allowedIps: ['127.0.0.0/8'] })
    await using other = await startServer({ allowedIps })
    expect(await post(server.port, goodBody)).toMatchObject({ status: 200, body: accepted })
    expect(await post(other.port, goodBody)).toMatchObject(refused)
    expect([server.events.length, other.events.length]).toEqual([1, 0])
  })

  test('it is the address that a trusted proxy names', async () => {
    await using server = await startServer({ allowedIps, trustProxy: ['127.0.0.1'] })
    for (const address of ['203.0.113.7', '::ffff:203.0.113.7', '2001:db8::7'])
      expect(await post(server.port, goodBody, from(address))).toMatchObject({ status: 200 })
    for (const address of ['198.51.100.1', '2001:db9::7', '127.0.0.1', '203.0.113.7:443', ''])
      expect(await post(server.port, goodBody, from(address))).toMatchObject(refused)
    expect(server.events).toHaveLength(3)
  })

  test('it is not the address that a stranger names', async () => {
    await using open = await startServer({ allowedIps })
    await using elsewhere = await startServer({ allowedIps, trustProxy: ['10.0.0.0/8'] })
    await using proxied = await startServer({ allowedIps, trustProxy: ['127.0.0.1'] })
    expect(await post(open.port, goodBody, from('203.0.113.7'))).toMatchObject(refused)
    expect(await post(elsewhere.port, goodBody, from('203.0.113.7'))).toMatchObject(refused)
    expect(await post(proxied.port, goodBody, from('203.0.113.7', '198.51.100.1'))).toMatchObject(refused)
  })

  test.each(['/bitrix24/', '/bitrix24?a=b', 'http://hooks.example.com/bitrix24', '/bitrix2%34'])(
    'the handler URL may be written %s',
    async (target) => {
      await using server = await startServer({ allowedIps })
      expect(await post(server.port, goodBody, { target })).toMatchObject(refused)
    },
  )

  test('the body is not waited for', async () => {
    await using server = await startServer({ allowedIps })
    expect(await raw(head('Content-Length: 60000'))(server)).toMatchObject(refused)
  })

  test('the next post on the connection is taken as any', async () => {
    await using server = await startServer(onlyLocal())
    using connection = open(server.port)
    const kept = { connection: 'keep-alive' } as const
    connection.write(request(goodBody, { ...kept, ...from('203.0.113.7') }))
    expect(await connection.answer()).toMatchObject(refused)
    connection.write(request(goodBody, kept))
    expect(await connection.answer()).toMatchObject({ status: 200, body: accepted })
  })

  test('everything but a post is answered to anyone', async () => {
    await using server = await startServer({ allowedIps })
    const get = async (target: string) => (await post(server.port, '', { method: 'GET', target })).status
    expect([await get('/healthz'), await get('/bitrix24'), await get('/other')]).toEqual([200, 405, 404])
  })

  test('the log says who was refused, once in a minute, and nothing of the post', async () => {
    await using server = await startServer({ allowedIps, trustProxy: ['127.0.0.1'] })
    for (const address of ['198.51.100.1', '198.51.100.2', '198.51.100.1'])
      await post(server.port, goodBody, from(address))
    const refusal = { level: 40, code: 'source_not_allowed', msg: 'refused' }
    expect(server.lines).toEqual([
      expect.objectContaining({ ...refusal, remote: '198.51.100.1' }),
      expect.objectContaining({ ...refusal, remote: '198.51.100.2' }),
    ])
    expect(server.logged()).not.toMatch(/hint|ONCRMDEAL|tokenoftheintaketests/)
  })

  test('the log asks whether a proxy was forgotten', async () => {
    await using server = await startServer({ allowedIps })
    await using other = await startServer({ allowedIps, trustProxy: ['10.0.0.0/8'] })
    await using direct = await startServer({ allowedIps })
    await post(server.port, goodBody, from('203.0.113.7'))
    await post(other.port, goodBody, from('203.0.113.7'))
    await post(direct.port, goodBody)
    const hint = expect.stringContaining('set TRUST_PROXY')
    expect(server.lines).toEqual([expect.objectContaining({ remote: '127.0.0.1', hint })])
    expect(other.lines).toEqual([expect.objectContaining({ remote: '127.0.0.1', hint })])
    expect(direct.lines).toEqual([expect.not.objectContaining({ hint })])
  })
})

describe('/healthz', () => {
  test('is 200 while the process serves, whatever the journal does', async () => {
    await using server = await startServer({ beforeAppend: async () => Promise.reject(fullDisk()) })
    expect((await post(server.port, goodBody)).status).toBe(503)
    const answer = await post(server.port, '', { method: 'GET', target: '/healthz' })
    expect(answer).toMatchObject({ status: 200, body: '{"status":"ok"}' })
  })
})

describe('the log', () => {
  test('names the path of a post to another path, shortened and without its query', async () => {
    await using server = await startServer()
    await post(server.port, goodBody, { target: '/bitrix?secret=geheim' })
    await post(server.port, goodBody, { target: `/${'x'.repeat(1000)}?secret=geheim` })
    const refused = { level: 40, code: 'not_found', method: 'POST', remote: '127.0.0.1' }
    expect(server.lines).toEqual([
      expect.objectContaining({ ...refused, path: '/bitrix' }),
      expect.objectContaining({ ...refused, path: `/${'x'.repeat(79)}…` }),
    ])
    expect(server.logged()).not.toContain('geheim')
  })

  test('has one line per domain about wrong tokens, with what an operator needs', async () => {
    await using server = await startServer()
    const from = (domain: string) => withToken('wrong').replace('example.bitrix24.com', domain)
    for (const domain of ['a.bitrix24.com', 'a.bitrix24.com', 'b.bitrix24.com', 'a.bitrix24.com'])
      await post(server.port, from(domain))
    await post(server.port, 'event=E')
    await post(server.port, 'event=E')
    const refused = { level: 40, code: 'invalid_application_token', event: 'ONCRMDEALUPDATE', compared_with: ['sales'] }
    expect(server.lines).toEqual([
      expect.objectContaining({ ...refused, domain: 'a.bitrix24.com', token: '5 bytes', remote: '127.0.0.1' }),
      expect.objectContaining({ ...refused, domain: 'b.bitrix24.com', token: '5 bytes' }),
      expect.objectContaining({ ...refused, event: 'E', token: 'none' }),
    ])
  })

  test('cannot be filled by strangers', async () => {
    await using server = await startServer()
    for (let index = 0; index < 30; index++) {
      await post(server.port, goodBody, { target: `/path-${index}` })
      await post(server.port, withToken('wrong').replace('example', `example-${index}`))
      await raw('garbage\r\n\r\n')(server)
    }
    expect(server.lines).toHaveLength(30)
  })

  test('has size and reason of a malformed form, and nothing of it', async () => {
    await using server = await startServer()
    const body = `${goodBody}&data[FIELDS][ID][private]=comment`
    await post(server.port, body)
    expect(server.lines).toEqual([
      expect.objectContaining({ level: 40, code: 'malformed_form', size: body.length, reason: 'contradictory keys' }),
    ])
    expect(server.logged()).not.toMatch(/private|comment|FIELDS/)
  })

  test('has the stack of an unhandled error, which the sender does not get', async () => {
    await using server = await startServer(failOnce(() => new Error('a mistake')))
    const { body } = await post(server.port, goodBody)
    expect(body).toBe('{"status":"error","error":"internal"}')
    expect(server.lines).toEqual([
      expect.objectContaining({
        level: 50,
        err: expect.objectContaining({ stack: expect.stringContaining('a mistake') }),
      }),
    ])
  })

  test('has one line for one refusal', async () => {
    await using server = await startServer()
    await raw(request(goodBody).subarray(0, -10), true)(server)
    await vi.waitFor(async () => expect(await server.openConnections()).toBe(0), patient)
    expect(server.lines).toHaveLength(1)
  })
})

test.each([
  ['head', 30],
  ['body', request(goodBody).length - 10],
])('a post whose %s arrives while the server stops is an event like any other', async (_, half) => {
  await using server = await startServer()
  using connection = open(server.port)
  connection.write(request(goodBody).subarray(0, half))
  await vi.waitFor(async () => expect(await server.openConnections()).toBe(1), patient)
  // A connection from which nothing was read yet counts as idle, and stopping closes it.
  expect((await post(server.port, '', { method: 'GET', target: '/healthz' })).status).toBe(200)
  const stopped = server.stop()
  await vi.waitFor(() => expect(server.isListening()).toBe(false), patient)
  connection.write(request(goodBody).subarray(half))
  expect((await connection.answer())?.body).toBe(accepted)
  await stopped
  expect(server.events).toHaveLength(1)
})

function statusOf(code: string): number | undefined {
  return Object.entries(refusals).find(([known]) => known === code)?.[1].status
}

function asObject(value: unknown): Record<string, unknown> {
  if (!isObject(value)) throw new Error('no object')
  return value
}
