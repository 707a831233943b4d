import { isIP } from 'node:net'
import { gzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { parsePublishedList, readPublishedList } from '../../../src/intake/published-list.ts'
import { type ListAnswer, nodes, startPublisher, world } from '../../support/published.ts'
import { fc } from '../../support/random.ts'
import { freePort } from '../../support/receiver.ts'

const never = new AbortController().signal

async function read(answer: ListAnswer | undefined, { timeoutMs = 5000, stop = never } = {}) {
  const publisher = await startPublisher(answer === undefined ? {} : { [world]: answer })
  return readPublishedList(publisher.urlOf(world), timeoutMs, stop)
}

describe('a list is taken', () => {
  test.each([
    ["in the world's form", '{\n    "nodes": ["3.217.33.54", "52.29.163.104"]\n}', ['3.217.33.54', '52.29.163.104']],
    ["in Russia's form", '["195.208.184.200", "89.208.230.2"]', ['195.208.184.200', '89.208.230.2']],
    ['with more than its addresses', '{"version":2,"nodes":["3.217.33.54"]}', ['3.217.33.54']],
    ['with IPv6', '["2001:db8::1","3.217.33.54"]', ['2001:db8::1', '3.217.33.54']],
    ['after a byte order mark', '\uFEFF["3.217.33.54"]', ['3.217.33.54']],
  ])('%s', async (_, text, addresses) => {
    expect(await read(text)).toEqual(addresses)
  })

  test('whatever its media type, and packed', async () => {
    const answer: ListAnswer = (_request, response) =>
      response
        .writeHead(200, { 'content-type': 'text/plain', 'content-encoding': 'gzip' })
        .end(gzipSync(nodes('3.217.33.54')))
    expect(await read(answer)).toEqual(['3.217.33.54'])
  })

  test('of a thousand addresses', async () => {
    const addresses = Array.from({ length: 1000 }, (_, index) => `255.255.${index >> 8}.${index & 255}`)
    expect(await read(nodes(...addresses))).toEqual(addresses)
  })
})

describe('a list is refused as a whole, with the reason,', () => {
  const noList = 'it is no list of IP addresses'
  const status =
    (code: number, headers: Record<string, string> = {}): ListAnswer =>
    (_request, response) =>
      response.writeHead(code, headers).end(nodes('3.217.33.54'))

  test.each<[string, ListAnswer, string]>([
    ['when it is empty', '{"nodes":[]}', 'the list is empty'],
    ['when it is empty, in the other form', '[]', 'the list is empty'],
    ['when it is broken JSON', '{"nodes":["3.217.33.54"', 'it is no JSON'],
    ['when it is HTML', '<!doctype html><title>Sign in</title>', 'it is no JSON'],
    ['when it is nothing', '', 'it is no JSON'],
    ['when it is null', 'null', noList],
    ['when it is a text', '"3.217.33.54"', noList],
    ['when it is another object', '{"addresses":["3.217.33.54"]}', noList],
    ['when its nodes are an object', '{"nodes":{"0":"3.217.33.54"}}', noList],
    ['when one is no text', '["3.217.33.54",1]', noList],
    ['when one is a name', '["3.217.33.54","example.com"]', noList],
    ['when one is a CIDR', '["3.217.33.54","0.0.0.0/0"]', noList],
    ['when one is empty', '["3.217.33.54",""]', noList],
    ['when one is a list', '[["3.217.33.54"]]', noList],
    ['at a status of 500', status(500), 'it answered with status 500'],
    ['at a status of 404', status(404), 'it answered with status 404'],
    ['at a status of 204', (_request, response) => response.writeHead(204).end(), 'it answered with status 204'],
    ['when it redirects', status(302, { location: world }), 'it answered with status 302'],
    [
      'when it moved elsewhere',
      status(301, { location: 'http://127.0.0.1:1/elsewhere' }),
      'it answered with status 301',
    ],
    ['when it is huge', nodes(...Array<string>(5000).fill('255.255.255.255')), 'it is longer than 64 KB'],
    ['when the connection ends in it', (_request, response) => response.socket?.destroy(), 'other side closed'],
  ])('%s', async (_, answer, reason) => {
    await expect(read(answer)).rejects.toThrow(new Error(reason))
  })

  test('when it never ends, without keeping what came', async () => {
    let isOver = false
    const endless: ListAnswer = (_request, response) => {
      const more = () => {
        while (!response.destroyed && response.write(' '.repeat(16_384)));
      }
      response.on('drain', more).on('close', () => {
        isOver = true
      })
      more()
    }
    await expect(read(endless)).rejects.toThrow(new Error('it is longer than 64 KB'))
    await expect.poll(() => isOver).toBe(true)
  })

  test('when it unpacks to what is huge', async () => {
    const bomb: ListAnswer = (_request, response) =>
      response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(' '.repeat(10 * 1024 ** 2)))
    await expect(read(bomb)).rejects.toThrow(new Error('it is longer than 64 KB'))
  })

  test.each<[string, ListAnswer]>([
    ['nothing comes', null],
    ['it stops in the middle', (_request, response) => void response.writeHead(200).write('{"nodes":[')],
  ])('when %s in the time that it has', async (_, answer) => {
    await expect(read(answer, { timeoutMs: 200 })).rejects.toThrow(new Error('no answer in 0.2 s'))
  })

  test('when nobody is there', async () => {
    const port = await freePort()
    const reason = new Error(`connect ECONNREFUSED 127.0.0.1:${port}`)
    await expect(readPublishedList(`http://127.0.0.1:${port}${world}`, 5000, never)).rejects.toThrow(reason)
  })

  test('when we stop', async () => {
    const stop = new AbortController()
    const answer: ListAnswer = () => stop.abort()
    await expect(read(answer, { stop: stop.signal })).rejects.toThrow('This operation was aborted')
  })
})

test('whatever JSON comes, it is taken when it is a list of addresses and nothing else, in either form', () => {
  const reason: unknown = expect.stringMatching(/^(it is no list of IP addresses|the list is empty)$/)
  const address = fc.oneof(fc.ipV4(), fc.ipV6())
  const anything = fc.oneof({ weight: 20, arbitrary: address }, fc.string(), fc.jsonValue())
  fc.assert(
    fc.property(fc.oneof(fc.array(anything), fc.jsonValue()), (value) => {
      const isList =
        Array.isArray(value) && value.length > 0 && value.every((item) => typeof item === 'string' && isIP(item) > 0)
      for (const text of [JSON.stringify(value), JSON.stringify({ nodes: value })])
        expect(parsed(text)).toEqual(isList ? value : reason)
    }),
  )
})

/** The list, or why it is none. */
function parsed(text: string): readonly string[] | string {
  try {
    return parsePublishedList(text)
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}
