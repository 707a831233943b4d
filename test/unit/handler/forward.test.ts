import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { inspect } from 'node:util'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import type { Event, JournalledEvent } from '../../../src/events/event.ts'
import { type ForwardOptions, forward } from '../../../src/handler/forward.ts'
import { type Context, chosenDelay, defineHandler, isFinal } from '../../../src/handler/handler.ts'
import { loadHandlers } from '../../../src/handler/loader.ts'
import { unknownEvents } from '../../../src/handler/unknown-events.ts'
import { toEvent } from '../../../src/intake/event.ts'
import { decodeForm } from '../../../src/intake/form.ts'
import { toRobotEvent } from '../../../src/intake/robot.ts'
import { matcherOf } from '../../../src/lib/pattern.ts'
import { robotBody } from '../../../src/simulator/robot-body.ts'
import { samples } from '../../support/intake.ts'
import { freePort, temporaryFolder } from '../../support/receiver.ts'

const secret = 'geheimgeheimgeheimgeheimgeheim01'
const token = 'token0of0the0target0token0of0the'

/** As it stands in the journal. */
function eventOf(body: string, query?: string): JournalledEvent {
  const form = decodeForm(body)
  const event = toEvent(form, {
    webhook: undefined,
    query: query === undefined ? undefined : decodeForm(query),
    remote: '203.0.113.7',
    secrets: [],
  })
  return journalled(event)
}

function journalled(event: Event): JournalledEvent {
  return JSON.parse(JSON.stringify({ ...event, level: 30, time: '2026-11-23T08:11:20.123Z', msg: '' }))
}

const update = eventOf('event=ONCRMDEALUPDATE&data[FIELDS][ID]=662&ts=1&auth[domain]=example.bitrix24.com')

interface Got {
  readonly method: string | undefined
  readonly target: string | undefined
  readonly headers: IncomingMessage['headers']
  readonly body: string
}

/** A target that answers as it is told. */
async function startTarget(answer: (response: ServerResponse) => unknown = (response) => response.end('ok')) {
  const got: Got[] = []
  const server = createServer((request, response) => {
    void text(request).then((body) => {
      got.push({ method: request.method, target: request.url, headers: request.headers, body })
      answer(response)
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const address = server.address()
  const host = `127.0.0.1:${typeof address === 'object' ? address?.port : ''}`
  return { got, host, url: `http://${host}/hook.php` }
}

async function run(url: string, event: JournalledEvent, options: ForwardOptions = {}, signal?: AbortSignal) {
  // It asks nothing else of its context.
  const context = { signal: signal ?? new AbortController().signal } as Context
  await forward(url, options).handle(event, context)
}

async function failureOf(url: string, options?: ForwardOptions, signal?: AbortSignal): Promise<Error> {
  try {
    await run(url, update, options, signal)
  } catch (error) {
    if (error instanceof Error) return error
  }
  throw new Error('it did not fail')
}

const answering = (status: number, headers: Record<string, string> = {}) =>
  startTarget((response) => response.writeHead(status, headers).end('the answer'))

const ofWebhooks = samples.filter(({ name }) => name.startsWith('webhook/') || name.endsWith('-outgoing-webhook'))

describe('what is posted on', () => {
  test('of a robot of your own is byte for byte what was sent, and an unknown field goes along', async () => {
    const { got, url } = await startTarget()
    const body = robotBody({
      document: ['crm', 'CCrmDocumentDeal', 'DEAL_662'],
      portal: { domain: 'example.bitrix24.com', memberId: 'm' },
      own: {
        code: 'mine',
        properties: { amount: 333, list: ['a', 'b'] },
        eventToken: 'w|a|s',
        ts: 1_736_405_807,
        token,
      },
    })
    const origin = { query: undefined, remote: '203.0.113.7', secrets: [token] }
    await run(url, journalled(toRobotEvent(decodeForm(body), origin)), { token })
    await run(url, journalled(toRobotEvent(decodeForm(`document_id[]=crm&new[a]=1`), origin)), { token })
    await run(url, eventOf('event=E&new[a]=1&ts=1&auth[domain]=a.example'), { token })
    expect(got.map(({ body }) => body)).toEqual([
      body,
      'document_id%5B0%5D=crm&new%5Ba%5D=1',
      `event=E&ts=1&new%5Ba%5D=1&auth%5Bdomain%5D=a.example&auth%5Bapplication_token%5D=${token}`,
    ])
  })

  test('is byte for byte what Bitrix24 has sent, with the token that the target knows', async () => {
    const { got, url } = await startTarget()
    expect(ofWebhooks.length).toBeGreaterThan(70)
    const bodies = ofWebhooks.map(({ body }) => body.toString())
    for (const body of bodies) await run(url, eventOf(body), { token })
    expect(got.map(({ body }) => body)).toEqual(
      bodies.map((body) => body.replace(/(%5Bapplication_token%5D=)\w+/, `$1${token}`)),
    )
  })

  test('of an application event is what is left without its credentials', async () => {
    const { got, url } = await startTarget()
    const body =
      'event=ONCRMDEALADD&data%5BFIELDS%5D%5BID%5D=1&ts=1&auth%5Baccess_token%5D=a&auth%5Bexpires%5D=2' +
      '&auth%5Brefresh_token%5D=r&auth%5Bmember_id%5D=m&auth%5Bapplication_token%5D=t'
    await run(url, eventOf(body), { token })
    expect(got[0]?.body).toBe(
      `event=ONCRMDEALADD&data%5BFIELDS%5D%5BID%5D=1&ts=1&auth%5Bexpires%5D=2&auth%5Bmember_id%5D=m&auth%5Bapplication_token%5D=${token}`,
    )
  })

  test('has no application_token where none is given', async () => {
    const { got, url } = await startTarget()
    await run(url, update)
    expect(got[0]?.body).toBe(
      'event=ONCRMDEALUPDATE&data%5BFIELDS%5D%5BID%5D=662&ts=1&auth%5Bdomain%5D=example.bitrix24.com',
    )
  })

  test("as JSON is what PHP's json_encode makes of the post", async () => {
    const { got, url } = await startTarget()
    for (const { body } of ofWebhooks) await run(url, eventOf(body.toString()), { token, format: 'json' })
    expect(got.map(({ body }) => body)).toEqual(
      ofWebhooks.map(({ json }) => json.replace(/("application_token":)"\w+"/, `$1"${token}"`)),
    )
    expect(got[0]?.headers['content-type']).toBe('application/json')
  })

  test("is a post, marked as ours, with the event's id as the key under which the target knows it again", async () => {
    const { got, url } = await startTarget()
    await run(url, update)
    expect(got).toMatchObject([
      {
        method: 'POST',
        target: '/hook.php',
        headers: {
          'content-type': 'application/x-www-form-urlencoded',
          'user-agent': 'bitrix24-webhook-receiver',
          'idempotency-key': update.id,
        },
      },
    ])
  })

  test("has the query that the post had, before the target's own", async () => {
    const { got, url } = await startTarget()
    const event = eventOf('event=ONIMBOTMESSAGEADD&auth[domain]=d', 'CLIENT_ID=custom%201&list[]=a')
    await run(`${url}?from=receiver`, event)
    await run(url, event)
    expect(got.map(({ target }) => target)).toEqual([
      '/hook.php?CLIENT_ID=custom+1&list%5B0%5D=a&from=receiver',
      '/hook.php?CLIENT_ID=custom+1&list%5B0%5D=a',
    ])
  })

  test("of a robot is its document, with its parameters in the URL and no token, as a robot's is", async () => {
    const { got, url } = await startTarget()
    const body = robotBody({
      document: ['crm', 'Bitrix\\Crm\\Integration\\BizProc\\Document\\Dynamic', 'DYNAMIC_147_5'],
      portal: { domain: 'example.bitrix24.com', memberId: 'm' },
    })
    const query = decodeForm('stage=C2%3AWON&list[]=a')
    const event = journalled(toRobotEvent(decodeForm(body), { query, remote: '203.0.113.7', secrets: [] }))
    await run(`${url}?from=receiver`, event, { token })
    await run(url, event, { token, format: 'json' })
    expect(got.map(({ target }) => target)).toEqual([
      '/hook.php?stage=C2%3AWON&list%5B0%5D=a&from=receiver',
      '/hook.php?stage=C2%3AWON&list%5B0%5D=a',
    ])
    expect(got.map((post) => post.body)).toEqual([body, JSON.stringify(decodeForm(body))])
  })

  test('has the name and password of the URL where HTTP has them', async () => {
    const { got, host } = await startTarget()
    await run(`http://user:p%40ss@${host}/hook.php`, update)
    expect(got[0]?.headers.authorization).toBe(`Basic ${Buffer.from('user:p@ss').toString('base64')}`)
  })
})

describe('the answer', () => {
  test.each([200, 201, 202, 204])('%i: done', async (status) => {
    const { url } = await answering(status)
    await expect(run(url, update)).resolves.toBeUndefined()
  })

  // A script that is being deployed answers 403, 404 or 405, a login page 302: what was set wrong is set right in the end.
  test.each([401, 402, 403, 404, 405, 408, 409, 415, 423, 429, 451, 500, 502, 503, 504, 599])(
    '%i: again',
    async (status) => {
      const { url, host } = await answering(status)
      const error = await failureOf(url)
      expect(error.message).toBe(`${host} answered ${status}`)
      expect([isFinal(error), chosenDelay(error)]).toEqual([false, undefined])
    },
  )

  test.each([400, 410, 413, 422])('%i: never again', async (status) => {
    const { url, host } = await answering(status, { 'retry-after': '30' })
    const error = await failureOf(url)
    expect(error.message).toBe(`${host} answered ${status}`)
    expect(isFinal(error)).toBe(true)
  })

  test.each([
    [{ finalStatuses: [403, 404] }, 404, true],
    [{ finalStatuses: [403, 404] }, 410, false],
    [{ finalStatuses: [503] }, 503, true],
    [{ finalStatuses: [301] }, 301, true],
    [{ finalStatuses: [] }, 400, false],
  ] as const)('with %o: %i is final: %o', async (options, status, final) => {
    const { url } = await answering(status)
    expect(isFinal(await failureOf(url, options))).toBe(final)
  })

  test.each([301, 302, 303, 307, 308])('%i: again, and not followed', async (status) => {
    const elsewhere = await startTarget()
    const { url, host } = await answering(status, { location: elsewhere.url })
    const error = await failureOf(url)
    expect(isFinal(error)).toBe(false)
    expect(error.message).toMatch(`${host} answered ${status}, and no redirect is followed`)
    expect(elsewhere.got).toEqual([])
  })

  test.each([404, 429, 503])('%i with Retry-After in seconds: not before', async (status) => {
    const { url, host } = await answering(status, { 'retry-after': '90' })
    const error = await failureOf(url)
    expect(chosenDelay(error)).toBe(90_000)
    expect(error.message).toBe(`${host} answered ${status}, and asks for 90 s`)
  })

  test('with Retry-After as a date: not before', async () => {
    vi.useFakeTimers({ toFake: ['Date'], now: new Date('2026-11-23T08:00:00.400Z') })
    onTestFinished(() => void vi.useRealTimers())
    const { url } = await answering(503, { 'retry-after': 'Mon, 23 Nov 2026 08:01:30 GMT' })
    expect(chosenDelay(await failureOf(url))).toBe(90_000)
  })

  test('with Retry-After and spaces around it: not before', async () => {
    const { url } = await answering(503, { 'retry-after': ' 90 ' })
    expect(chosenDelay(await failureOf(url))).toBe(90_000)
  })

  test.each([
    ['no time', 'soon'],
    ['now', '0'],
    ['the past', 'Mon, 23 Nov 2015 08:01:30 GMT'],
  ])('with Retry-After that says %s: again, as late as any', async (_, value) => {
    const { url } = await answering(503, { 'retry-after': value })
    const error = await failureOf(url)
    expect([isFinal(error), chosenDelay(error)]).toEqual([false, undefined])
  })

  test.each(['99999999999999999999', 'Fri, 23 Nov 2226 08:01:30 GMT'])(
    'with Retry-After %s, in which the delivery would die: again in a day',
    async (value) => {
      const { url } = await answering(503, { 'retry-after': value })
      expect(chosenDelay(await failureOf(url))).toBe(86_400_000)
    },
  )

  test('that breaks off behind its 200 was given', async () => {
    const { url } = await startTarget((response) => {
      response.writeHead(200, { 'content-length': '100' })
      response.write('half', () => response.destroy())
    })
    await expect(run(url, update)).resolves.toBeUndefined()
  })

  test('that never comes because nothing listens: again', async () => {
    const port = await freePort()
    const error = await failureOf(`http://127.0.0.1:${port}/hook.php`)
    expect(error.message).toBe(`127.0.0.1:${port} did not answer: ECONNREFUSED`)
    expect([isFinal(error), chosenDelay(error)]).toEqual([false, undefined])
  })

  test('that never comes because the connection breaks: again', async () => {
    const { url, host } = await startTarget((response) => response.destroy())
    const error = await failureOf(url)
    expect(error.message).toMatch(`${host} did not answer: `)
    expect(isFinal(error)).toBe(false)
  })

  test('is not waited for when the run is over', async () => {
    const over = new AbortController()
    const { url } = await startTarget(() => over.abort(new Error('its time is up')))
    expect((await failureOf(url, {}, over.signal)).message).toBe('its time is up')
  })
})

test('connections are used again', async () => {
  const ports = new Set<number | undefined>()
  const { url } = await startTarget((response) => {
    ports.add(response.socket?.remotePort)
    response.end('ok'.repeat(1000))
  })
  for (let count = 0; count < 20; count++) await run(url, update)
  expect(ports.size).toBeLessThan(10)
})

describe('a definition', () => {
  const url = 'https://example.com/hook.php'

  test('is for every event, or for those that are named', () => {
    expect(forward(url).events).toEqual(['*'])
    expect(forward(url, { events: 'ONCRMDEAL*' }).events).toEqual(['ONCRMDEAL*'])
    expect(forward(url, { events: ['ONCRMDEAL*', 'ONTASKADD'] }).events).toEqual(['ONCRMDEAL*', 'ONTASKADD'])
  })

  test('is for none of those that are left out', async () => {
    const source = new URL('../../../src/index.ts', import.meta.url).href
    const load = async (options: string) => {
      const folder = temporaryFolder('handlers')
      const code = `import { forward } from '${source}'\nexport default forward('${url}', ${options})`
      writeFileSync(join(folder, 'old.mjs'), code)
      const {
        handlers: [handler],
      } = await loadHandlers(folder, { timeout: 30_000 })
      if (handler === undefined) throw new Error('it is not loaded')
      return handler
    }
    const handler = await load(`{ except: ['ontask*', 'ONCRMDEALUPDATE'] }`)
    const names = ['ONCRMDEALADD', 'ONCRMDEALUPDATE', 'ONTASKADD', 'ONTASK', 'ROBOT']
    expect(names.filter((name) => handler.matches(name))).toEqual(['ONCRMDEALADD', 'ROBOT'])
    // What is kept of it decides a replay.
    expect(names.filter(matcherOf(handler.events))).toEqual(['ONCRMDEALADD', 'ROBOT'])
    const deals = await load(`{ events: 'ONCRMDEAL*', except: 'ONCRMDEALUPDATE' }`)
    expect(names.filter((name) => deals.matches(name))).toEqual(['ONCRMDEALADD'])
    // A name that is misspelt leaves nothing out: it is told as any.
    expect(unknownEvents(await load(`{ except: 'ONCRMDEELUPDATE' }`))).toEqual([
      { event: 'ONCRMDEELUPDATE', nearest: 'ONCRMDEALUPDATE' },
    ])
  })

  test.each(['', 'ON TASK', '!ONTASK', 7, [undefined]])('that leaves out %o is refused', (except) => {
    expect(() => forward(url, { except: except as string })).toThrow('forward: except: ')
  })

  test.each([[200], [99], [404.5], ['404'], 404])('with the final statuses %o is refused', (finalStatuses) => {
    expect(() => forward(url, { finalStatuses: finalStatuses as number[] })).toThrow(
      'forward: finalStatuses must be a list of statuses from 300 to 599',
    )
  })

  test('is run as the options of any handler say', () => {
    const options = { coalesce: true, debounce: '10s', timeout: '5s', retryFor: '7d', concurrency: 2 } as const
    expect(forward(url, { token, format: 'json', ...options }).options).toEqual(
      defineHandler('*', () => undefined, options).options,
    )
    expect(() => forward(url, { coalesce: 'sometimes' as 'object' })).toThrow('coalesce must be')
  })

  test.each([undefined, ''])('without a URL (%o) is refused, and why is guessed', (none) => {
    expect(() => forward(none)).toThrow(
      new TypeError('forward: there is no URL: the environment variable it comes from is probably not set'),
    )
  })

  test.each([undefined, ''])('whose token is given, but is %o, is refused', (none) => {
    expect(() => forward(url, { token: none })).toThrow(
      new TypeError('forward: there is no token: the environment variable it comes from is probably not set'),
    )
  })

  test.each([
    ['no URL', secret],
    ['a path', `/hooks/${secret}`],
    ['a host alone', `example.com/${secret}`],
    ['another protocol', `ftp://example.com/${secret}`],
    ['a port that is none', `https://example.com:99999/${secret}`],
    ['a name that cannot be read', `https://${secret}%zz@example.com/`],
  ])('with %s is refused, without a word of it', (_, wrong) => {
    let thrown: unknown
    try {
      forward(wrong)
    } catch (error) {
      thrown = error
    }
    expect(thrown).toBeInstanceOf(Error)
    expect(inspect(thrown)).not.toContain(secret)
  })

  test('with a password whose % is none of an escape is refused, and what to write is said', () => {
    expect(() => forward(`https://user:${secret}100%@example.com/`)).toThrow(
      new TypeError('forward: in the name and password of the URL write %25 for a %'),
    )
  })

  test('with another format is refused', () => {
    for (const format of ['xml', 'constructor'])
      expect(() => forward(url, { format: format as 'json' })).toThrow("format must be 'form' or 'json'")
  })
})

test('of the URL nothing but the host is in an error', async () => {
  const port = await freePort()
  const { host } = await answering(404)
  const { host: final } = await answering(410)
  const { host: moved } = await answering(302, { location: `/${secret}` })
  const { host: busy } = await answering(503, { 'retry-after': '5' })
  for (const at of [`127.0.0.1:${port}`, host, final, moved, busy]) {
    const error = await failureOf(`http://user:${secret}@${at}/${secret}?key=${secret}`, { token: secret })
    expect(inspect(error, { depth: 20, showHidden: true })).not.toContain(secret)
  }
})
