import { describe, expect, test } from 'vitest'
import { decodeForm } from '../../../src/intake/form.ts'
import { toRobotEvent } from '../../../src/intake/robot.ts'
import { robotBody } from '../../../src/simulator/robot-body.ts'
import {
  catchRefusal,
  goodBody,
  heldToken,
  type PostOptions,
  post,
  startServer,
  type TestServer,
} from '../../support/intake.ts'

const secret = '0123456789abcdef0123456789abcdef'
const robotPath = `/robot/${secret}`
const body = robotBody({
  document: ['crm', 'CCrmDocumentDeal', 'DEAL_662'],
  portal: { domain: 'example.bitrix24.com', memberId: 'm' },
})
const accepted = { status: 200, body: '{"status":"ok","message":"event accepted"}' }
const notFound = { status: 404, body: '{"status":"error","error":"not_found"}' }

const robot = ({ port }: TestServer, options: PostOptions = {}, text = body) =>
  post(port, text, { target: robotPath, ...options })

/** Nothing that a stranger could read tells where robots post. */
function expectSecret(server: TestServer): void {
  expect(server.logged() + JSON.stringify(server.events)).not.toMatch(/0123456789|9abcdef/)
}

describe("a robot's post", () => {
  test('becomes an event about its document, with the parameters of its URL as data', async () => {
    await using server = await startServer({ robotPath })
    expect(await robot(server, { target: `${robotPath}?stage=C2%3AWON&title=A+b%20c&list[]=1` })).toMatchObject(
      accepted,
    )
    expect(server.events.map((event) => JSON.parse(JSON.stringify(event)))).toEqual([
      {
        id: expect.stringMatching(/^[0-9a-f-]{36}$/),
        event: 'ROBOT',
        object: 'deal:662',
        document_id: ['crm', 'CCrmDocumentDeal', 'DEAL_662'],
        data: { stage: 'C2:WON', title: 'A b c', list: ['1'] },
        auth: {
          domain: 'example.bitrix24.com',
          client_endpoint: 'https://example.bitrix24.com/rest/',
          server_endpoint: 'https://oauth.bitrix.info/rest/',
          member_id: 'm',
        },
        remote: '127.0.0.1',
      },
    ])
    expect(server.lines).toEqual([expect.objectContaining({ msg: 'accepted', event: 'ROBOT', object: 'deal:662' })])
    expectSecret(server)
  })

  test('may write its document as a list without numbers', async () => {
    await using server = await startServer({ robotPath })
    const text = 'document_id[]=crm&document_id[]=CCrmDocumentDeal&document_id[]=DEAL_662&auth[domain]=a'
    expect(await robot(server, {}, text)).toMatchObject(accepted)
    expect(server.events).toMatchObject([{ object: 'deal:662', document_id: ['crm', 'CCrmDocumentDeal', 'DEAL_662'] }])
  })

  test('about a document that no event is about is an event without an object', async () => {
    await using server = await startServer({ robotPath })
    expect(await robot(server, {}, 'document_id[]=lists&document_id[]=X&document_id[]=7')).toMatchObject(accepted)
    expect(server.events).toMatchObject([{ event: 'ROBOT', document_id: ['lists', 'X', '7'] }])
    expect(server.events[0]?.object).toBeUndefined()
  })

  test.each([`${robotPath}/`, `${robotPath}/?a=1`, `${robotPath}?`])('may be sent to %s', async (target) => {
    await using server = await startServer({ robotPath })
    expect(await robot(server, { target })).toMatchObject(accepted)
  })

  test('may be sent to a path as long as there are', async () => {
    const long = `/robots/${'a/'.repeat(100)}${'b'.repeat(200)}`
    await using server = await startServer({ robotPath: long })
    expect(await robot(server, { target: long })).toMatchObject(accepted)
  })

  test('is not answered before the journal has it', async () => {
    await using server = await startServer({
      robotPath,
      beforeAppend: () => Promise.reject(new Error('no disk')),
    })
    expect(await robot(server)).toMatchObject({ status: 500 })
    expect(server.events).toEqual([])
    expectSecret(server)
  })

  test('has lost its secrets, and ours, wherever they stood', async () => {
    await using server = await startServer({ robotPath })
    const query = `key=k-k-k-k-k&token=t&stage=NEW&a=${secret}&b=${encodeURIComponent(robotPath)}&c=${heldToken}`
    const text = `${body}&auth[access_token]=access-token-00001&auth[x]=${secret}&auth[y]=access-token-00001`
    expect(await robot(server, { target: `${robotPath}?${query}` }, text)).toMatchObject(accepted)
    expect(server.events).toMatchObject([{ data: { stage: 'NEW' } }])
    expect(JSON.stringify(server.events)).not.toMatch(new RegExp(`k-k-k|access-token|${heldToken}`))
    expectSecret(server)
  })

  test('that is an event of a webhook is refused: there is no document in it', async () => {
    await using server = await startServer({ robotPath })
    expect(await robot(server, {}, goodBody)).toMatchObject({ status: 400 })
    expect(server.lines).toEqual([expect.objectContaining({ code: 'malformed_event', field: 'document_id' })])
  })
})

describe('at the path of robots,', () => {
  test.each<[string, number, string, PostOptions, string?]>([
    ['an empty body', 400, 'malformed_event', {}, ''],
    ['nothing at all', 400, 'malformed_event', { contentType: null }, ''],
    ['a document that is a text', 400, 'malformed_event', {}, 'document_id=DEAL_1'],
    ['a document with keys', 400, 'malformed_event', {}, 'document_id[a]=DEAL_1'],
    ['a document in a document', 400, 'malformed_event', {}, 'document_id[0]=crm&document_id[1][a]=x'],
    ['a form that contradicts itself', 400, 'malformed_form', {}, 'document_id=1&document_id[a]=x'],
    ['a query that contradicts itself', 400, 'malformed_form', { target: `${robotPath}?a=1&a[b]=2` }],
    ['JSON', 415, 'unsupported_media_type', { contentType: 'application/json' }, '{}'],
    ['a body without a content type', 415, 'unsupported_media_type', { contentType: null }],
    ['gzip', 415, 'unsupported_media_type', { headers: ['Content-Encoding: gzip'] }],
    ['a body that is too long', 413, 'body_too_large', {}, 'a'.repeat(64 * 1024 + 1)],
  ])('%s is refused with %i %s', async (_, status, error, options, text) => {
    await using server = await startServer({ robotPath })
    expect(await robot(server, options, text)).toMatchObject({
      status,
      body: JSON.stringify({ status: 'error', error }),
    })
    expect(server.lines).toEqual([expect.objectContaining({ code: error })])
    expect(server.events).toEqual([])
    expectSecret(server)
  })

  test.each(['GET', 'PUT', 'DELETE', 'OPTIONS'])('%s is answered that the address works', async (method) => {
    await using server = await startServer({ robotPath })
    for (const target of [robotPath, `${robotPath}/?a=1`])
      expect(await robot(server, { method, target }, '')).toMatchObject({
        status: 405,
        body: '{"status":"error","error":"method_not_allowed","message":"POST only; the address works"}',
      })
    expectSecret(server)
  })
})

describe('at any other path', () => {
  const others = [
    '/robot',
    `/robot/${secret.slice(0, -1)}`,
    `/robot/${secret}0`,
    `/robot/${secret.toUpperCase()}`,
    `/Robot/${secret}`,
    `/robot//${secret}`,
    `/robot/${secret}//`,
    `/bitrix24/robot/${secret}`,
    `/robot/%30${secret.slice(1)}`,
    `/robot/${secret}%`,
    `/robot/${secret};a=1`,
    `/${secret}`,
    `/robot/x?${secret}`,
    '/*',
    '/',
  ]

  test.each(others)('%s is answered as it is without robots, and nothing of the secret is shown', async (target) => {
    await using server = await startServer({ robotPath })
    await using without = await startServer()
    for (const method of ['POST', 'GET'])
      for (const options of [{}, { headers: ['Content-Encoding: gzip'] }, { contentType: 'application/json' }]) {
        const answer = await robot(server, { method, target, ...options })
        expect(answer).toMatchObject(notFound)
        const plain = await robot(without, { method, target, ...options })
        expect([...answer.headers.keys()]).toEqual([...plain.headers.keys()])
      }
    expect(server.events).toEqual([])
    expect(server.lines).toHaveLength(6)
    expectSecret(server)
  })

  test('what is long in a path is not logged: it may be the secret with a slip of the pen', async () => {
    await using server = await startServer({ robotPath })
    await robot(server, { target: `/robot/x${secret}` })
    await robot(server, { target: '/bitrix25' })
    expect(server.lines).toMatchObject([
      { code: 'not_found', path: '/robot/…' },
      { code: 'not_found', path: '/bitrix25' },
    ])
  })

  test.each<[string, string, PostOptions]>([
    ['its event', `event=https://h${robotPath}&auth[application_token]=x`, {}],
    ['its domain', `event=E&auth[domain]=${encodeURIComponent(encodeURIComponent(robotPath))}`, {}],
    ['its content encoding', '', { headers: [`Content-Encoding: ${robotPath}`] }],
    ['a content encoding too long to be told', '', { headers: [`Content-Encoding: ${'x'.repeat(60)}${robotPath}`] }],
    ['the address of its sender', '', { target: '/x', headers: [`X-Forwarded-For: ${robotPath}`] }],
  ])('nothing of the secret is logged where it stands in a refused post as %s', async (_, text, options) => {
    await using server = await startServer({ robotPath, trustProxy: ['127.0.0.1'] })
    expect((await post(server.port, text, options)).status).toBeGreaterThanOrEqual(400)
    expect(server.lines).toHaveLength(1)
    expectSecret(server)
  })

  test('it is no event, and the webhook is what it was', async () => {
    await using server = await startServer({ robotPath })
    expect(await post(server.port, goodBody)).toMatchObject(accepted)
    expect(await post(server.port, body)).toMatchObject({ status: 403 })
    expect(await post(server.port, '', { method: 'GET' })).toMatchObject({ status: 405 })
    expect(server.events).toMatchObject([{ event: 'ONCRMDEALUPDATE' }])
  })
})

test('without a path nothing of a robot is taken', async () => {
  await using server = await startServer()
  for (const target of [robotPath, '/undefined', '/']) expect(await robot(server, { target })).toMatchObject(notFound)
})

test('an event of a robot says which field is missing', () => {
  const origin = { query: undefined, remote: '203.0.113.7', secrets: [] }
  expect(catchRefusal(() => toRobotEvent(decodeForm('a=1'), origin)).details).toEqual({ field: 'document_id' })
})
