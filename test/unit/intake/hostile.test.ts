import { afterAll, beforeAll, expect, test } from 'vitest'
import { refusals } from '../../../src/intake/refusal.ts'
import {
  type Answer,
  goodBody,
  heldToken,
  isObject,
  open,
  post,
  request,
  samples,
  startServer,
  type TestServer,
} from '../../support/intake.ts'
import { fc } from '../../support/random.ts'

let server: TestServer
beforeAll(async () => {
  server = await startServer({ bodyLimit: 4096, trustProxy: ['127.0.0.1'] })
})
afterAll(async () => server[Symbol.asyncDispose]())

/** Accepted, or a code of the table with its status, and never a mistake of ours. */
function isOfTheTable({ status, body }: Answer): boolean {
  const said: unknown = JSON.parse(body)
  if (!isObject(said)) return false
  if (status === 200) return said['status'] === 'ok'
  const refusal = Object.entries(refusals).find(([code]) => code === said['error'])?.[1]
  return said['status'] === 'error' && refusal?.status === status && status < 500
}

const token = fc.constantFrom(heldToken, heldToken, 'tokenoftheintaketests99999999999', '')
const proof = token.map((value) => `auth[application_token]=${value}`)
const piece = fc.constantFrom(
  ...['event', 'data', 'ts', 'event_handler_id', 'auth', 'FIELDS', 'ID', '[ID]', '[FIELDS]', '[application_token]'],
  ...[
    '[]',
    '[0]',
    '[',
    ']',
    '=',
    '=',
    '=',
    '&',
    '&',
    '&',
    ']=',
    '%5B',
    '%5D',
    '%',
    '%zz',
    '%00',
    '%FF',
    '+',
    '.',
    '\r\n',
  ],
  ...['__proto__', '[__proto__]', '[constructor]', 'ONCRMDEALUPDATE', 'ONAPPMETHODCONFIRM', heldToken, 'П', '\u2028'],
)
const pieces = fc.array(piece, { maxLength: 30 }).map((parts) => parts.join(''))
const bytes = fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array))

/** Something that would be fine, but for a few bytes. */
function spoiled(whole: fc.Arbitrary<Buffer>): fc.Arbitrary<Buffer> {
  const wound = fc.tuple(fc.nat(), fc.nat({ max: 3 }), fc.uint8Array({ maxLength: 4 }))
  return fc.tuple(whole, fc.array(wound, { maxLength: 3 })).map(([buffer, wounds]) =>
    wounds.reduce((text, [place, lost, added]) => {
      const at = place % (text.length + 1)
      return Buffer.concat([text.subarray(0, at), added, text.subarray(at + lost)])
    }, buffer),
  )
}

const sample = fc.constantFrom(...samples).map(({ body }) =>
  // With our token, so that it goes all the way.
  Buffer.from(body.toString().replace(/(?<=auth%5Bapplication_token%5D=)\w+/, heldToken)),
)
const body = fc.oneof(
  bytes,
  fc.tuple(pieces, proof, pieces).map(([before, middle, after]) => Buffer.from(`${before}&${middle}&${after}`)),
  spoiled(fc.constant(Buffer.from(goodBody))),
  spoiled(sample),
  fc.tuple(fc.nat({ max: 5000 }), proof).map(([length, end]) => Buffer.from(`a=${'x'.repeat(length)}&${end}`)),
)

test('whatever the bytes of a body, it is accepted or refused with a code of the table', async () => {
  let accepted = 0
  await fc.assert(
    fc.asyncProperty(body, async (body) => {
      const before = server.events.length
      const answer = await post(server.port, body)
      expect(answer).toSatisfy(isOfTheTable)
      expect(server.events.length - before).toBe(answer.status === 200 ? 1 : 0)
      if (answer.status === 200) accepted++
    }),
    { numRuns: 500 },
  )
  // Otherwise it would say nothing about what comes after the token.
  expect(accepted).toBeGreaterThan(25)
  expect(textsOf(server.events)).not.toContain(heldToken)
  expect((await post(server.port, goodBody)).status).toBe(200)
})

const method = fc.constantFrom(
  'POST',
  'POST',
  'POST',
  'GET',
  'HEAD',
  'PUT',
  'OPTIONS',
  'TRACE',
  'CONNECT',
  'QUERY',
  'post',
  '',
)
const target = fc.oneof(
  fc.constantFrom(
    '/bitrix24',
    '/bitrix24/',
    '/healthz',
    '/',
    '*',
    '//',
    '/%',
    '/bitrix24%',
    '/%2e%2e/',
    'http://a/bitrix24',
    '',
  ),
  fc.constantFrom(
    `/bitrix24?token=${heldToken}`,
    `/bitrix24?a${'[b]'.repeat(70)}=1`,
    '/bitrix24?a=1&a[b]=2',
    '/a?#b;c',
  ),
  fc.string({ maxLength: 20 }).map((text) => `/bitrix24?${text}`),
  fc.string({ maxLength: 20 }).map((text) => `/${text}`),
)
const version = fc.constantFrom('HTTP/1.1', 'HTTP/1.1', 'HTTP/1.1', 'HTTP/1.0', 'HTTP/2.0', 'HTTP/9', 'http/1.1', '')
const header = fc.oneof(
  fc.constantFrom(
    ...[
      'Host: a',
      'Content-Type: application/x-www-form-urlencoded',
      'Content-Type: application/json',
      'Content-Type: ;',
    ],
    ...['Content-Length: 5', 'Content-Length: -1', 'Content-Length: 99999', 'Transfer-Encoding: chunked', 'Expect: x'],
    ...['Expect: 100-continue', 'Upgrade: websocket', 'Connection: upgrade', 'Connection: keep-alive', 'Trailer: x'],
    ...[
      'Content-Encoding: gzip',
      'X-Forwarded-For: ,,;"',
      'X-Forwarded-For: 1.2.3.4, ::1',
      'Host: b',
      'X',
      ': y',
      ' z',
    ],
  ),
  fc.tuple(fc.string({ maxLength: 10 }), fc.string({ maxLength: 20 })).map(([name, value]) => `${name}: ${value}`),
)
const head = fc
  .tuple(method, target, version, fc.array(header, { maxLength: 6 }), fc.constantFrom('\r\n', '\r\n', '\n'))
  .map(([method, target, version, headers, eol]) => [`${method} ${target} ${version}`, ...headers, '', ''].join(eol))
const requestBytes = fc.oneof(
  bytes,
  fc.tuple(head, body).map(([head, body]) => Buffer.concat([Buffer.from(head, 'latin1'), body])),
  spoiled(fc.constant(request(goodBody))),
  spoiled(body.map((body) => request(body, { connection: 'keep-alive' }))),
  fc
    .tuple(body, body)
    .map((bodies) => Buffer.concat(bodies.map((body) => request(body, { connection: 'keep-alive' })))),
)

test('whatever the bytes of a request, every answer is accepted or a code of the table', async () => {
  let answered = 0
  await fc.assert(
    fc.asyncProperty(requestBytes, async (bytes) => {
      const answers = await allAnswers(bytes)
      for (const answer of answers) expect(answer).toSatisfy(isOfTheTable)
      const isNothing = /^[\r\n]*$/.test(bytes.toString('latin1'))
      expect(answers.length > 0 || isNothing).toBe(true)
      answered += answers.length
    }),
    { numRuns: 300 },
  )
  expect(answered).toBeGreaterThan(250)
  expect(textsOf(server.events)).not.toContain(heldToken)
  expect((await post(server.port, goodBody)).status).toBe(200)
})

/** Sends the bytes and hangs up behind them, so that nothing is waited for. */
async function allAnswers(bytes: Buffer): Promise<Answer[]> {
  using connection = open(server.port)
  connection.write(bytes)
  // When a later connection was served, these bytes were read: hanging up now cuts no answer.
  await post(server.port, '', { method: 'GET', target: '/healthz' })
  connection.socket.end()
  const answers: Answer[] = []
  const head = bytes.subarray(0, 5).toString() === 'HEAD '
  const first = await connection.answer({ head })
  // It has a status and no code.
  if (first?.body === '' && head) answers.push({ ...first, body: bodyOf(first.status) })
  else if (first !== undefined) answers.push(first)
  for (let answer = await connection.answer(); answer !== undefined; answer = await connection.answer())
    answers.push(answer)
  return answers
}

function bodyOf(status: number): string {
  const error = Object.entries(refusals).find(([, refusal]) => refusal.status === status)?.[0]
  return JSON.stringify(status === 200 ? { status: 'ok' } : { status: 'error', error })
}

/** Every key and every leaf. */
function textsOf(value: unknown): string[] {
  if (typeof value === 'string') return [value]
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, item]) => [key, ...textsOf(item)])
}
