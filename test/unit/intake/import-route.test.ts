import type { Socket } from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import type { Event } from '../../../src/events/event.ts'
import { addImportRoute, importPath, importType } from '../../../src/intake/import-route.ts'
import { Refusal } from '../../../src/intake/refusal.ts'
import { createRefusalLog } from '../../../src/intake/refusal-log.ts'
import { createTokens } from '../../../src/intake/token.ts'
import { createAdminServer } from '../../../src/receiver/private-listener.ts'
import { createLines, healthyDeps, heldToken, open } from '../../support/intake.ts'
import { idOf } from '../../support/journal.ts'

interface Options {
  readonly append?: (event: Event) => Promise<void>
  readonly bodyLimit?: number
  readonly allowedHosts?: readonly string[]
}

async function start({ append, bodyLimit = 1024, allowedHosts = [] }: Options = {}) {
  const events: Event[] = []
  const { log, lines } = createLines()
  const tokens = createTokens([{ name: undefined, value: heldToken }])
  const secrets = () => tokens.values()
  const refusals = createRefusalLog({ log, secrets })
  const admin = createAdminServer({
    ...healthyDeps,
    metrics: async () => '',
    allowedHosts,
    refusals,
    lingerMs: 200,
  })
  const journal = {
    append: async (event: Event) => {
      await append?.(event)
      events.push(event)
    },
  }
  addImportRoute(admin, { tokens, secrets, journal, bodyLimit })
  await admin.listen({ port: 0, host: '127.0.0.1' })
  onTestFinished(() => admin.close())
  const address = admin.server.address()
  if (address === null || typeof address === 'string') throw new Error('it listens on no port')
  return { port: address.port, server: admin.server, events, lines }
}

const line = (number: number, more: object = {}) =>
  `${JSON.stringify({ level: 30, id: idOf(number), event: 'ONCRMDEALUPDATE', remote: '203.0.113.7', ...more })}\n`

const headers = { 'content-type': importType, authorization: `Bearer ${heldToken}` }

async function send(port: number, body: string | Buffer, more: Record<string, string> = {}) {
  const answer = await fetch(`http://127.0.0.1:${port}${importPath}`, {
    method: 'POST',
    headers: { ...headers, ...more },
    body: typeof body === 'string' ? body : new Uint8Array(body),
  })
  return { status: answer.status, body: (await answer.json()) as unknown }
}

const numbersOf = (events: readonly Event[]) => events.map(({ id }) => Number(id.slice(-12)))

test('lines are journalled, and how many is said; empty ones count for nothing', async () => {
  const { port, events } = await start()
  expect(await send(port, `${line(1)}\n${line(2)}${line(3).trimEnd()}`)).toEqual({
    status: 200,
    body: { status: 'ok', journalled: 3 },
  })
  expect(numbersOf(events)).toEqual([1, 2, 3])
  expect(await send(port, '')).toMatchObject({ status: 200, body: { journalled: 0 } })
})

test.each([
  ['no token', undefined],
  ['a wrong token', 'Bearer another0token0another0token'],
])('%s is refused before anything of the body has come', async (_, authorization) => {
  const { port, lines } = await start()
  using connection = open(port)
  const head = [`POST ${importPath} HTTP/1.1`, 'Host: 127.0.0.1', `Content-Type: ${importType}`]
  if (authorization !== undefined) head.push(`Authorization: ${authorization}`)
  connection.write([...head, 'Content-Length: 67108864', '', ''].join('\r\n'))
  expect(await connection.answer()).toMatchObject({
    status: 403,
    body: '{"status":"error","error":"invalid_application_token"}',
  })
  // Whoever goes on to send is cut off.
  await connection.closed
  expect(lines).toMatchObject([{ code: 'invalid_application_token', remote: '127.0.0.1', msg: 'refused' }])
})

test('a sender of a whole long body with a wrong token reads the answer all the same', async () => {
  const { port } = await start()
  const body = Buffer.alloc(8 * 1024 ** 2, line(1))
  expect(await send(port, body, { authorization: 'Bearer x' })).toMatchObject({ status: 403 })
})

test('a body of another type is refused', async () => {
  const { port, events } = await start()
  expect(await send(port, line(1), { 'content-type': 'text/plain' })).toEqual({
    status: 415,
    body: { status: 'error', error: 'unsupported_media_type' },
  })
  expect(events).toEqual([])
})

test('more lines than the memory should hold are taken one by one, and few of them are under way at once', async () => {
  const note = { data: { NOTE: 'x'.repeat(3000) } }
  const { length } = line(10_000, note)
  let [underWay, most, ahead, seen] = [0, 0, 0, 0]
  let socket: Socket | undefined
  const { port, events, server } = await start({
    append: async () => {
      most = Math.max(most, ++underWay)
      ahead = Math.max(ahead, (socket?.bytesRead ?? 0) - length * seen++)
      await nextTurn()
      underWay--
    },
  })
  server.on('connection', (one) => {
    socket = one
  })
  const lines = Array.from({ length: 10_000 }, (_, at) => line(at + 1, note)).join('')
  expect(await send(port, lines)).toEqual({ status: 200, body: { status: 'ok', journalled: 10_000 } })
  expect(numbersOf(events)).toEqual(Array.from({ length: 10_000 }, (_, at) => at + 1))
  expect(most).toBeGreaterThan(1)
  expect(most).toBeLessThanOrEqual(200)
  // Of 31 MB.
  expect(ahead).toBeLessThan(4 * 1024 ** 2)
})

test.each([
  ['is no JSON', 'no JSON\n'],
  ['is no event', '{"level":30,"msg":"accepted"}\n'],
  ['is half of one', `${line(4).slice(0, 50)}\n`],
  ['is no UTF-8', Buffer.concat([Buffer.from(line(4, { data: 'x' }).slice(0, -4)), Buffer.from('\xff"}\n', 'latin1')])],
])('a line that %s is named by its number, with what was journalled before it', async (_, broken) => {
  const { port, events, lines } = await start()
  const body = Buffer.concat([Buffer.from(`${line(1)}\n${line(2)}`), Buffer.from(broken), Buffer.from(line(5))])
  expect(await send(port, body)).toEqual({
    status: 400,
    body: {
      ...{ status: 'error', error: 'malformed_event', line: 4, journalled: 2 },
      message:
        'line 4 is no event that the journal refused; of the lines before it 2 are in the journal, nothing after it',
    },
  })
  expect(numbersOf(events)).toEqual([1, 2])
  expect(lines).toMatchObject([{ code: 'malformed_event', line: 4, journalled: 2 }])
})

test('a line that never ends is refused as soon as it is too long for a post of BODY_LIMIT', async () => {
  const { port, events } = await start({ bodyLimit: 1024 })
  using connection = open(port)
  const head = Object.entries(headers).map(([name, value]) => `${name}: ${value}`)
  connection.write(
    [`POST ${importPath} HTTP/1.1`, 'Host: 127.0.0.1', ...head, 'Content-Length: 67108864', '', line(1)].join('\r\n'),
  )
  connection.write('x'.repeat(64 * 1024 + 4 * 1024 + 1))
  const answer = await connection.answer()
  expect([answer?.status, JSON.parse(answer?.body ?? '')]).toEqual([
    413,
    {
      ...{ status: 'error', error: 'body_too_large', line: 2, journalled: 1 },
      message: expect.stringMatching(/^line 2 is longer than 69632 bytes, .*BODY_LIMIT/),
    },
  ])
  expect(numbersOf(events)).toEqual([1])
})

test('a disk that refuses is reported with the line at which it did, and how many are there', async () => {
  const { port } = await start({
    append: (event) => (event.id === idOf(3) ? Promise.reject(new Refusal('journal_unavailable')) : Promise.resolve()),
  })
  expect(await send(port, [1, 2, 3, 4].map((number) => line(number)).join(''))).toEqual({
    status: 503,
    body: {
      ...{ status: 'error', error: 'journal_unavailable', line: 3, journalled: 3 },
      message:
        'line 3 could not be put on disk; 3 events are in the journal: import the same lines again, what is there is passed over',
    },
  })
})

test('a sender that is gone in the middle stops nothing, and what came before is journalled', async () => {
  const { port, events } = await start()
  {
    using connection = open(port)
    const head = Object.entries(headers).map(([name, value]) => `${name}: ${value}`)
    connection.write(
      [`POST ${importPath} HTTP/1.1`, 'Host: 127.0.0.1', ...head, 'Content-Length: 9999', '', line(1)].join('\r\n'),
    )
    await expect.poll(() => numbersOf(events)).toEqual([1])
  }
  expect(await send(port, line(2))).toMatchObject({ status: 200 })
})
