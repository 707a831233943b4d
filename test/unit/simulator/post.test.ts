import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { gzipSync } from 'node:zlib'
import { expect, onTestFinished, test } from 'vitest'
import { post } from '../../../src/simulator/post.ts'
import { simulate } from '../../../src/simulator/simulate.ts'

async function listen(answer: (request: IncomingMessage, response: ServerResponse) => void): Promise<string> {
  const server = createServer((request, response) => {
    request.resume().on('end', () => answer(request, response))
  }).listen(0, '127.0.0.1')
  onTestFinished(() => void server.close())
  await once(server, 'listening')
  const address = server.address()
  return typeof address === 'object' && address !== null ? `http://127.0.0.1:${address.port}/bitrix24` : ''
}

test('a post has the headers that Bitrix24 sends, and a connection of its own', async () => {
  const seen: IncomingMessage[] = []
  const url = await listen((request, response) => {
    seen.push(request)
    response.end('taken')
  })
  expect(await post(url, 'a=1')).toEqual({ status: 200, body: 'taken' })
  expect(await post(url, 'v=%D0%9F', { 'x-forwarded-for': '203.0.113.7' })).toEqual({ status: 200, body: 'taken' })
  const [first, second] = seen
  expect([first?.method, first?.httpVersion, first?.url]).toEqual(['POST', '1.1', '/bitrix24'])
  expect(first?.headers).toEqual({
    host: new URL(url).host,
    'user-agent': 'Bitrix24 Webhook Engine',
    'content-type': 'application/x-www-form-urlencoded',
    'content-length': '3',
    'accept-encoding': 'gzip',
    connection: 'close',
  })
  expect(second?.headers['x-forwarded-for']).toBe('203.0.113.7')
  expect(second?.socket).not.toBe(first?.socket)
})

test('an answer may be zipped, and one that is not what it says is an error', async () => {
  const url = await listen((request, response) => {
    response.setHeader('content-encoding', 'gzip')
    response.end(request.headers['x-wrong'] === undefined ? gzipSync('taken') : 'taken')
  })
  expect(await post(url, '')).toEqual({ status: 200, body: 'taken' })
  await expect(post(url, '', { 'x-wrong': '1' })).rejects.toThrow('incorrect header check')
})

test('a redirect is an answer, not followed', async () => {
  const url = await listen((_request, response) => {
    response.writeHead(302, { location: '/elsewhere' }).end()
  })
  expect(await post(url, '')).toEqual({ status: 302, body: '' })
})

test('a post without an answer is reported with its error, and the others go on', async () => {
  let posts = 0
  const url = await listen((request, response) => {
    if (++posts === 2) request.socket.destroy()
    else response.end()
  })
  const portal = { domain: 'example.bitrix24.com', memberId: 'm', token: 'made0up0token' }
  const outcomes = await simulate(url, { event: 'ONCRMDEALUPDATE', portal, mode: 'burst', count: 4, atOnce: 1 })
  expect(outcomes).toMatchObject([
    { status: 200 },
    { status: 0, error: { code: 'ECONNRESET' } },
    { status: 200 },
    { status: 200 },
  ])
})
