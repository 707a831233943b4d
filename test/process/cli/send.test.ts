import { createServer } from 'node:http'
import { describe, expect, onTestFinished, test } from 'vitest'
import { envOf, jsonLines, runCli, spawnCli } from '../../support/cli.ts'
import { freePort, type ReceiverOptions, startReceiver, TOKEN, until } from '../../support/receiver.ts'

async function start(options: ReceiverOptions = {}) {
  const receiver = await startReceiver(options)
  const env = envOf(receiver)
  return { receiver, env, cli: (...args: string[]) => runCli({ env }, 'send', ...args) }
}

/** Somebody else's server: answers as told, and never when told nothing. */
async function startOther(status?: number, body = '') {
  const server = createServer((request, response) => {
    request.resume()
    if (status !== undefined) response.writeHead(status, { location: '/elsewhere' }).end(body)
  })
  const port = await freePort()
  server.listen(port, '127.0.0.1')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return `http://127.0.0.1:${port}/bitrix24`
}

describe('send', () => {
  test('posts an event as documented to the receiver of the settings, and shows its answer', async () => {
    const { receiver, cli } = await start({ env: { WEBHOOK_PATH: '/hook' } })
    const { code, stdout, stderr } = await runCli(
      { env: { ...envOf(receiver), HOST: '0.0.0.0', WEBHOOK_PATH: '/hook' } },
      'send',
      'onCrmDealUpdate',
      '--id',
      '662',
    )
    expect([code, stderr]).toEqual([0, ''])
    expect(stdout).toMatch(/^200 \{"status":"ok","message":"event accepted"\} \([\d.]+ ms\)\n$/)
    expect(await receiver.journal()).toMatchObject([
      { event: 'ONCRMDEALUPDATE', object: 'deal:662', auth: { domain: 'example.bitrix24.com' } },
    ])
    expect((await receiver.journal())[0]?.shape).toBeUndefined()
    expect(await cli('ONCRMDEALUPDATE')).toMatchObject({ code: 1, stdout: expect.stringMatching(/^404 /) })
  })

  test('posts as a robot does, to ROBOT_PATH, with --field as the parameters of its URL', async () => {
    const env = { ROBOT_PATH: '/robot/0123456789abcdef0123' }
    const receiver = await startReceiver({ env })
    const cli = (...args: string[]) => runCli({ env: { ...envOf(receiver), ...env } }, 'send', 'ROBOT', ...args)
    const fields = ['--field', 'stage=NEW & old', '--field', 'a.b=1']
    expect(await cli('--id', 'DEAL_662', ...fields)).toMatchObject({ code: 0, stdout: expect.stringMatching(/^200 /) })
    expect(await cli('--id', 'DYNAMIC_147_5', '--count', '2')).toMatchObject({ code: 0 })
    expect(await cli('--count', '2')).toMatchObject({ code: 0 })
    expect(await receiver.journal()).toMatchObject([
      { event: 'ROBOT', object: 'deal:662', data: { stage: 'NEW & old', a: { b: '1' } } },
      { event: 'ROBOT', object: 'item:147:5' },
      { event: 'ROBOT', object: 'item:147:5' },
      { event: 'ROBOT', object: 'deal:1' },
      { event: 'ROBOT', object: 'deal:2' },
    ])
    const wrong = await cli('--wrong-token')
    expect([wrong.code, wrong.stderr]).toEqual([64, expect.stringContaining('a robot sends no token')])
    const without = await runCli({ env: envOf(receiver) }, 'send', 'ROBOT')
    expect([without.code, without.stderr]).toEqual([78, expect.stringContaining('ROBOT_PATH is not set')])
  })

  test('sets what --field says, nested', async () => {
    const { receiver, cli } = await start()
    const fields = ['--field', 'FIELDS[ENTITY_TYPE_ID]=1032', '--field', 'FIELDS.NOTE=a b']
    expect(await cli('ONCRMDYNAMICITEMADD', '--id', '21', ...fields)).toMatchObject({ code: 0 })
    expect(await receiver.journal()).toMatchObject([
      { object: 'item:1032:21', data: { FIELDS: { ENTITY_TYPE_ID: '1032', ID: '21', NOTE: 'a b' } } },
    ])
  })

  test('posts several, about objects of their own or all about one, and sums up the answers', async () => {
    const { receiver, cli } = await start()
    const { code, stdout } = await cli('ONCRMDEALUPDATE', '--count', '50', '--json')
    expect(code).toBe(0)
    expect(jsonLines(stdout)).toEqual([
      {
        posts: 50,
        answers: [{ status: 200, count: 50 }],
        seconds: expect.any(Number),
        p50: expect.any(Number),
        p99: expect.any(Number),
        expected: 200,
      },
    ])
    const objects = async () => (await receiver.journal()).map(({ object }) => object)
    expect(new Set(await objects()).size).toBe(50)
    await cli('ONCRMDEALUPDATE', '--id', '7', '--count', '3', '--rate', '100')
    expect((await objects()).slice(50)).toEqual(['deal:7', 'deal:7', 'deal:7'])
  })

  test('posts each twice with --duplicate', async () => {
    const { receiver, cli } = await start()
    const { code, stdout } = await cli('ONCRMDEALUPDATE', '--count', '2', '--duplicate')
    expect([code, stdout]).toEqual([0, expect.stringMatching(/^4 × 200\n4 posts in [\d.]+ s; p50 [\d.]+ ms, p99 /)])
    const objects = (await receiver.journal()).map(({ object }) => object)
    expect([objects.length, new Set(objects)]).toEqual([4, new Set(['deal:1', 'deal:2'])])
  })

  test('expects to be refused with --wrong-token, for which it needs none', async () => {
    const { receiver, env } = await start()
    const { B24_APPLICATION_TOKEN: _, ...without } = env
    const { code, stdout } = await runCli({ env: without }, 'send', 'ONCRMDEALUPDATE', '--wrong-token')
    expect([code, stdout]).toEqual([0, expect.stringMatching(/^403 .*"invalid_application_token"/)])
    const open = await startOther(200, '{}')
    expect(await runCli({ env: without }, 'send', 'ONCRMDEALUPDATE', '--wrong-token', '--url', open)).toMatchObject({
      code: 1,
    })
    expect(await receiver.journal()).toEqual([])
  })

  test('takes the first token, the one of a name, or the one of --token', async () => {
    const tokens = `sales=${TOKEN},support=other0token0other0token`
    const { receiver, env } = await start({ env: { B24_APPLICATION_TOKEN: tokens } })
    const cli = (...args: string[]) =>
      runCli({ env: { ...env, B24_APPLICATION_TOKEN: tokens } }, 'send', 'ONCRMDEALUPDATE', ...args)
    expect(await cli()).toMatchObject({ code: 0 })
    expect(await cli('--webhook', 'support')).toMatchObject({ code: 0 })
    expect(await cli('--token', 'other0token0other0token')).toMatchObject({ code: 0 })
    expect((await receiver.journal()).map(({ webhook }) => webhook)).toEqual(['sales', 'support', 'support'])
    const { code, stderr } = await cli('--webhook', 'nobody')
    expect([code, stderr]).toEqual([78, expect.stringContaining('has none of that name; it has sales, support')])
    expect(stderr).not.toContain('other0token')
  })

  test('says that the events are of the portal of B24_HOOK, so that handlers may call back, or of --portal', async () => {
    const { receiver, env } = await start()
    const hooked = { ...env, B24_HOOK: 'https://ours.bitrix24.com/rest/1/c0dec0dec0dec0de/' }
    await runCli({ env: hooked }, 'send', 'ONCRMDEALUPDATE')
    await runCli({ env: hooked }, 'send', 'ONCRMDEALUPDATE', '--portal', 'theirs.bitrix24.com')
    expect((await receiver.journal()).map(({ auth }) => auth?.['domain'])).toEqual([
      'ours.bitrix24.com',
      'theirs.bitrix24.com',
    ])
  })

  test('posts an event of your own with --force', async () => {
    const { receiver, cli } = await start()
    expect(await cli('ONMYAPPCOUNTED', '--force', '--field', 'TOTAL=7')).toMatchObject({ code: 0 })
    expect(await receiver.journal()).toMatchObject([{ event: 'ONMYAPPCOUNTED', data: { TOTAL: '7' } }])
  })

  test('stops at Ctrl-C, and sums up what was posted', async () => {
    const { receiver, env } = await start()
    const { child, said, result } = spawnCli({ env }, 'send', 'ONCRMDEALUPDATE', '--count', '1000', '--rate', '1')
    // The first is answered by then.
    await until('the second is there', async () => (await receiver.journal()).length > 1)
    child.kill('SIGINT')
    expect([(await result).code, said.stdout]).toEqual([1, expect.stringMatching(/^(200|\d+ × 200)/)])
    expect((await receiver.journal()).length).toBeLessThan(20)
  })
})

describe('an answer that is not the expected one makes it exit with 1', () => {
  test.each([
    ['a stopped receiver', undefined, /^1 × no answer ECONNREFUSED\n1 posts in/],
    ['a server that is no receiver', 404, /^404 not here/],
    ['a redirect, which is not followed', 301, /^301 not here/],
  ])('%s', async (_, status, shown) => {
    const url = status === undefined ? `http://127.0.0.1:${await freePort()}/` : await startOther(status, 'not here')
    const { code, stdout } = await runCli({}, 'send', 'ONCRMDEALUPDATE', '--url', url, '--token', 'abc')
    expect([code, stdout]).toEqual([1, expect.stringMatching(shown)])
  })

  test('and what it says moves no cursor', async () => {
    for (const body of ['\u001b[2Jno', '{"error":"\\u001b[2Jno"}']) {
      const url = await startOther(500, body)
      for (const count of ['1', '2']) {
        const { stdout } = await runCli(
          {},
          'send',
          'ONLEAD',
          '--force',
          '--count',
          count,
          '--url',
          url,
          '--token',
          'abc',
        )
        expect(stdout).toMatch(/^(\P{Cc}|\n)*$/u)
      }
    }
  })

  test('one that never comes is waited for until Ctrl-C, twice', async () => {
    const url = await startOther()
    const { child, result } = spawnCli({}, 'send', 'ONCRMDEALUPDATE', '--url', url, '--token', 'abc')
    await until('it ends', () => !child.kill('SIGINT'))
    expect(await result).toMatchObject({ stdout: '' })
    expect(child.signalCode).toBe('SIGINT')
  })
})

describe('wrong arguments', () => {
  const B24_APPLICATION_TOKEN = TOKEN
  test.each<[string, Record<string, string>, string[], number, string]>([
    ['no event', {}, [], 64, 'name an event, such as ONCRMDEALUPDATE'],
    ['a name that is none', {}, ['deal:662'], 64, '"deal:662" is no name of an event'],
    [
      'a misspelt name',
      {},
      ['ONCRMDEALUPDAT'],
      64,
      'ONCRMDEALUPDAT is not documented: is it ONCRMDEALUPDATE? With --force',
    ],
    ['no number', {}, ['ONCRMDEALADD', '--count', 'many'], 64, '--count takes a number from 1 to 100000'],
    ['no rate', {}, ['ONCRMDEALADD', '--rate', '0'], 64, '--rate takes a number from 1 to 100000'],
    ['no URL', {}, ['ONCRMDEALADD', '--url', 'localhost:8080'], 64, '--url takes a URL such as https://'],
    ['a field of a text', {}, ['ONCRMDEALADD', '--field', 'FIELDS.ID.X=1'], 64, '--field: data.FIELDS.ID is a text'],
    [
      'a token that is a URL',
      {},
      ['ONCRMDEALADD', '--token', 'https://example.bitrix24.com/1'],
      64,
      '--token is no application token: entry 1 is a URL',
    ],
    ['no token', { B24_APPLICATION_TOKEN: '' }, ['ONCRMDEALADD'], 78, 'B24_APPLICATION_TOKEN is not set'],
    [
      'a file that is not there',
      { B24_APPLICATION_TOKEN: '', B24_APPLICATION_TOKEN_FILE: '/nowhere' },
      ['ONCRMDEALADD'],
      78,
      'cannot be read',
    ],
  ])('%s', async (_, env, args, exit, message) => {
    const { code, stdout, stderr } = await runCli({ env: { B24_APPLICATION_TOKEN, ...env } }, 'send', ...args)
    expect([code, stdout]).toEqual([exit, ''])
    expect(stderr).toContain(message)
    expect(stderr.trimEnd()).not.toContain('\n')
  })
})
