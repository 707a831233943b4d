import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { inspect, parseEnv } from 'node:util'
import { pino } from 'pino'
import { afterAll, describe, expect, test } from 'vitest'
import { ConfigError, readConfig, readSettings } from '../../../src/config/config.ts'
import { unknownSettings, withoutSettings } from '../../../src/config/names.ts'
import { type Setting, settings } from '../../../src/config/settings.ts'
import { weakTokens } from '../../../src/config/values.ts'
import { createServer } from '../../../src/intake/server.ts'
import { createTokens } from '../../../src/intake/token.ts'
import { parseDuration } from '../../../src/lib/duration.ts'

const secret = 'geheimgeheimgeheimgeheimgeheim01'
const enough = { B24_APPLICATION_TOKEN: secret }

const rows = Object.values<Setting<unknown>>(settings)

type Env = Parameters<typeof readConfig>[0]

function problemsOf(env: Env): readonly string[] {
  try {
    readConfig(env)
  } catch (error) {
    if (error instanceof ConfigError) return error.problems
    throw error
  }
  return []
}

/** The one problem of an environment that is otherwise fine, without its column of names. */
function problemOf(name: string, value: string): string | undefined {
  const [problem, ...more] = problemsOf({ ...enough, [name]: value })
  expect(more).toEqual([])
  expect(problem?.slice(0, name.length)).toBe(name)
  return problem?.slice(name.length).trimStart()
}

const journal = { append: () => Promise.resolve() }

const dir = mkdtempSync(join(tmpdir(), 'b24-config-'))
afterAll(() => rmSync(dir, { recursive: true }))

function fileOf(name: string, content: string): string {
  const path = join(dir, name)
  writeFileSync(path, content)
  return path
}

test('a token is all that must be set; everything else has a default', () => {
  expect(readConfig(enough)).toEqual({
    tokens: [{ name: undefined, value: secret }],
    incomingWebhooks: [],
    rate: 2,
    burst: 50,
    port: 8080,
    host: '0.0.0.0',
    webhookPath: '/bitrix24',
    robotPath: undefined,
    dataDir: resolve('data'),
    handlersDir: resolve('examples/handlers'),
    bodyLimit: 1024 ** 2,
    trustProxy: [],
    allowedIps: undefined,
    logLevel: 'info',
    concurrency: 8,
    retryFor: 72 * 3_600_000,
    handlerTimeout: 60_000,
    shutdownGrace: 8000,
    dispatcher: true,
    adminPort: 9090,
    adminHost: '127.0.0.1',
    adminAllowedHosts: [],
    segmentSize: 64 * 1024 ** 2,
    retentionDays: 30,
    handlerStall: 30_000,
    handlerLoadTimeout: 30_000,
    dispatchFrom: undefined,
    databaseUrl: undefined,
    runHandlers: true,
    alertUrl: undefined,
    alertAfterSilence: undefined,
  })
})

test('every setting can be set', () => {
  const config = readConfig({
    B24_APPLICATION_TOKEN: 'sales=abc,support=def',
    B24_HOOK: 'sales=https://a.bitrix24.com/rest/1/abc/,support=https://b.bitrix24.com/rest/7/def/',
    B24_RATE: '5',
    B24_BURST: '250',
    PORT: '0',
    HOST: '::1',
    WEBHOOK_PATH: '/hooks/b24/',
    ROBOT_PATH: `/hooks/robot/${secret}/`,
    DATA_DIR: '/var/lib/b24',
    HANDLERS_DIR: 'handlers',
    BODY_LIMIT: '512KB',
    TRUST_PROXY: '10.0.0.5, 172.16.0.0/12,::1',
    B24_ALLOWED_IPS: '203.0.113.7, 198.51.100.0/24,2001:db8::/32',
    LOG_LEVEL: 'debug',
    CONCURRENCY: '1',
    RETRY_FOR: '7d',
    HANDLER_TIMEOUT: '500ms',
    SHUTDOWN_GRACE: '0s',
    DISPATCHER: 'off',
    ADMIN_PORT: '9191',
    ADMIN_HOST: '0.0.0.0',
    ADMIN_ALLOWED_HOSTS: 'Receiver, receiver.example.com',
    SEGMENT_SIZE: '1GB',
    RETENTION_DAYS: '7',
    HANDLER_STALL: '5s',
    HANDLER_LOAD_TIMEOUT: '6s',
    DISPATCH_FROM: 'oldest',
    DATABASE_URL: 'postgresql://b24:secret@db.example:5433/b24?sslmode=require',
    RUN_HANDLERS: 'off',
    ALERT_URL: 'https://example.bitrix24.com/rest/1/abc/im.message.add?DIALOG_ID=chat42',
    ALERT_AFTER_SILENCE: '2h',
  })
  expect(config).toEqual({
    incomingWebhooks: [
      expect.objectContaining({ name: 'sales', host: 'a.bitrix24.com', user: '1' }),
      expect.objectContaining({ name: 'support', host: 'b.bitrix24.com', user: '7' }),
    ],
    rate: 5,
    burst: 250,
    tokens: [
      { name: 'sales', value: 'abc' },
      { name: 'support', value: 'def' },
    ],
    port: 0,
    host: '::1',
    webhookPath: '/hooks/b24',
    robotPath: `/hooks/robot/${secret}`,
    dataDir: '/var/lib/b24',
    handlersDir: resolve('handlers'),
    bodyLimit: 512 * 1024,
    trustProxy: ['10.0.0.5', '172.16.0.0/12', '::1'],
    allowedIps: ['203.0.113.7', '198.51.100.0/24', '2001:db8::/32'],
    logLevel: 'debug',
    concurrency: 1,
    retryFor: 7 * 86_400_000,
    handlerTimeout: 500,
    shutdownGrace: 0,
    dispatcher: false,
    adminPort: 9191,
    adminHost: '0.0.0.0',
    adminAllowedHosts: ['receiver', 'receiver.example.com'],
    segmentSize: 1024 ** 3,
    retentionDays: 7,
    handlerStall: 5000,
    handlerLoadTimeout: 6000,
    dispatchFrom: 'oldest',
    databaseUrl: 'postgresql://b24:secret@db.example:5433/b24?sslmode=require',
    runHandlers: false,
    alertUrl: new URL('https://example.bitrix24.com/rest/1/abc/im.message.add?DIALOG_ID=chat42'),
    alertAfterSilence: 7_200_000,
  })
})

test('an empty variable counts as unset', () => {
  const empty = Object.fromEntries(rows.map(({ name }) => [name, '']))
  expect(readConfig({ ...empty, ...enough, B24_APPLICATION_TOKEN_FILE: '', DATABASE_URL: '' })).toEqual(
    readConfig(enough),
  )
  expect(problemsOf({ B24_APPLICATION_TOKEN: '' })).toEqual(problemsOf({}))
})

test('what belongs to others is not looked at', () => {
  expect(readConfig({ ...enough, PATH: '/bin', port: 'x', HOME: '/root' })).toEqual(readConfig(enough))
})

// As `docker run --env-file` and editors leave it.
describe('a text that is not as it looks', () => {
  test.each([
    ['"./data"', 'begins or ends with a quote'],
    ["./data'", 'begins or ends with a quote'],
    ['"', 'begins or ends with a quote'],
    ['./data # of the receiver', 'holds a comment'],
    [' ', 'is blank'],
  ])('%s is refused as any setting', (value, why) => {
    for (const { name, isSecret = false } of rows) {
      const problem = problemOf(name, value)
      expect(problem).toMatch(new RegExp(`^${why}`))
      expect(problem?.includes(`, got ${JSON.stringify(value)}`), name).toBe(!isSecret)
    }
    expect(() => readSettings({ DATA_DIR: value }, 'dataDir')).toThrow(why)
    expect(() => readSettings({ B24_HOOK: value }, 'incomingWebhooks')).toThrow(why)
    expect(() => readSettings({ B24_APPLICATION_TOKEN: value }, 'tokens')).toThrow(why)
    expect(() => readSettings({ DATABASE_URL: value }, 'databaseUrl')).toThrow(why)
  })

  test('a space around it does not count', () => {
    expect(readConfig({ ...enough, DATA_DIR: ' /data\r', PORT: '80 ' })).toMatchObject({ dataDir: '/data', port: 80 })
  })

  test('a hash within it is no comment', () => {
    expect(readConfig({ ...enough, DATA_DIR: '/data/#1' }).dataDir).toBe('/data/#1')
  })

  test('a byte-order mark hides the first setting of .env: it is named, by every reader', () => {
    const env = parseEnv('\uFEFFDATA_DIR=/data\nPORT=81\n')
    const told = 'DATA_DIR is not read, because .env begins with a byte-order mark'
    expect(problemsOf({ ...enough, ...env })).toEqual([expect.stringContaining(told)])
    expect(() => readSettings(env, 'port')).toThrow(told)
    expect(() => readSettings(env, 'tokens', 'incomingWebhooks', 'databaseUrl')).toThrow(told)
  })
})

test.each([
  ['HANDLER_DIR', 'HANDLERS_DIR'],
  ['B24_HOOKS', 'B24_HOOK'],
  ['B24_APLICATION_TOKEN', 'B24_APPLICATION_TOKEN'],
  ['b24_application_token', 'B24_APPLICATION_TOKEN'],
  ['DATABASE_URI', 'DATABASE_URL'],
  ['RETENTION_DAY', 'RETENTION_DAYS'],
  ['ALERT_URLS', 'ALERT_URL'],
])('%s is not a setting, and the warning names %s', (name, nearest) => {
  expect(unknownSettings({ ...enough, [name]: 'x' })).toEqual([`${name} is not a setting. Did you mean ${nearest}?`])
})

test.each(['B24_WEBHOOK', 'B24_TOKEN', 'B24_X', 'b24_portal'])(
  '%s has the prefix of this program, and the warning says that it is not a setting',
  (name) => {
    expect(unknownSettings({ ...enough, [name]: 'x' })).toEqual([`${name} is not a setting`])
  },
)

test('a variable of another program is not taken for a misspelt setting', () => {
  const others = ['PATH', 'HOME', 'HOSTNAME', 'PORTS', 'POST', 'LOG', 'TERM', 'LOGNAME', 'OLD_PHP_URL', 'LEADS_CHAT']
  const names = [
    ...others,
    'NODE_OPTIONS',
    'npm_config_user_agent',
    'DOMAIN',
    'CADDY_ADMIN',
    'WORKERS',
    ...rows.map(({ name }) => name),
  ]
  expect(unknownSettings(Object.fromEntries(names.map((name) => [name, 'x'])))).toEqual([])
})

describe('what is wrong', () => {
  test('is reported all at once, one line each, with the variable, what is allowed and what came', () => {
    expect(() => readConfig({ PORT: '80a' })).toThrow(
      new ConfigError([
        'B24_APPLICATION_TOKEN  is required: the token shown under Developer resources → Outgoing webhook',
        'PORT                   must be a whole number from 0 to 65535, got "80a"',
      ]),
    )
  })

  test('is a text that can be printed as it is', () => {
    const problems = problemsOf({ PORT: '80a' })
    expect(new ConfigError(problems).message).toBe(`Configuration: 2 problems\n  ${problems.join('\n  ')}`)
    expect(new ConfigError(problems.slice(1)).message).toMatch(/^Configuration: 1 problem\n {2}PORT/)
  })

  test('in every setting is every setting', () => {
    const wrong = rows.map(({ name }) => name)
    const problems = problemsOf(Object.fromEntries(wrong.map((name) => [name, '" "'])))
    expect(problems.map((problem) => problem.split(' ')[0])).toEqual(wrong)
    for (const problem of problems) expect(problem).not.toContain('\n')
  })
})

describe('tokens', () => {
  const tokensOf = (text: string) => readConfig({ B24_APPLICATION_TOKEN: text }).tokens

  test.each([
    ['one', 'abc', [{ name: undefined, value: 'abc' }]],
    ['several, with spaces around', ' abc , def ', [{ value: 'abc' }, { value: 'def' }]],
    ['named', 'sales=abc', [{ name: 'sales', value: 'abc' }]],
    ['named with spaces around', ' sales=abc , my-2nd.one_=d ', [{ name: 'sales' }, { name: 'my-2nd.one_' }]],
    [
      'named and unnamed',
      'sales=abc,def',
      [
        { name: 'sales', value: 'abc' },
        { name: undefined, value: 'def' },
      ],
    ],
    [
      'two of one name, while one is changed',
      'sales=abc,sales=def',
      [
        { name: 'sales', value: 'abc' },
        { name: 'sales', value: 'def' },
      ],
    ],
    ['of a bot', `custom${secret}`, [{ value: `custom${secret}` }]],
    ['with an = in it', 'a=b=c', [{ name: 'a', value: 'b=c' }]],
  ])('may be %s', (_, text, tokens) => {
    expect(tokensOf(text)).toMatchObject(tokens)
  })

  test.each([
    ['an incoming-webhook URL', `https://p.bitrix24.com/rest/1/${secret}/`, /B24_HOOK/],
    ['an incoming-webhook URL with a name', `hook=https://p.bitrix24.com/rest/1/${secret}/`, /"hook".*B24_HOOK/],
    ['an incoming-webhook URL among others', `abc,https://p.bitrix24.com/rest/1/${secret}/`, /entry 2.*B24_HOOK/],
    ['spaces only', '  ', /is blank: remove it, or give it a value/],
    ['nothing between commas', `${secret},`, /entry 2 is empty/],
    ['a name without a token', 'sales=,support=abc', /is empty/],
    ['a space in it', `${secret} x`, /space/],
    ['quotes around it', `"${secret}"`, /quote/],
    ['a line end in it', `${secret}\nx`, /space/],
    ['another URL', `sales=https://p.bitrix24.com/${secret}`, /"sales" is a URL/],
    ['a URL with a query', `x,http://${secret}`, /entry 2 is a URL/],
    ['a character that cannot be seen', `sales=\u200b${secret}`, /"sales" holds a character that cannot be seen/],
    ['bytes that are no UTF-8', `${secret}\uFFFD`, /entry 1 holds a character .* not UTF-8/],
    ['one token twice', `a=${secret},b=${secret}`, /"b" repeats/],
    ['a name with a space', `my sales=${secret}`, /space/],
    ['an = at its end', `${secret}=`, /is empty/],
  ])('may not have %s, and the problem does not print it', (_, text, expected) => {
    const problems = problemsOf({ B24_APPLICATION_TOKEN: text })
    expect(problems).toEqual([expect.stringMatching(expected)])
    expect(problems.join()).not.toContain(secret)
    expect(problems.join()).not.toContain('/rest/1')
  })

  test('that can be guessed are warned of by name, and never with their value', () => {
    expect(weakTokens(tokensOf(`sales=${secret},bot=777,shrt,x=${'y'.repeat(16)}`))).toEqual([
      expect.stringMatching(/^B24_APPLICATION_TOKEN: "bot" has 3 characters, which can be guessed/),
      expect.stringMatching(/^B24_APPLICATION_TOKEN: a token without a name has 4 characters/),
    ])
    expect(weakTokens(tokensOf('bot=777')).join()).not.toContain('777')
  })

  test('may come from a file, as Docker secrets do', () => {
    const B24_APPLICATION_TOKEN_FILE = fileOf('tokens', `sales=${secret},support=abc\n`)
    expect(readConfig({ B24_APPLICATION_TOKEN_FILE }).tokens).toEqual([
      { name: 'sales', value: secret },
      { name: 'support', value: 'abc' },
    ])
  })

  test.each([
    ['that is missing', join(dir, 'missing'), /ENOENT/],
    ['that is a folder', dir, /EISDIR/],
    ['that is empty', fileOf('empty', ' \n'), /is empty/],
  ])('from a file %s are one problem', (_, path, expected) => {
    const problems = problemsOf({ B24_APPLICATION_TOKEN_FILE: path })
    expect(problems).toEqual([expect.stringMatching(/^B24_APPLICATION_TOKEN_FILE /)])
    expect(problems).toEqual([expect.stringMatching(expected)])
  })

  test('from a file are not printed when they are wrong', () => {
    const problems = problemsOf({ B24_APPLICATION_TOKEN_FILE: fileOf('wrong', `${secret} and more`) })
    expect(problems).toEqual([expect.stringMatching(/space/)])
    expect(problems.join()).not.toContain(secret)
  })

  test('may not be set twice', () => {
    const problems = problemsOf({ ...enough, B24_APPLICATION_TOKEN_FILE: fileOf('other', 'abc') })
    expect(problems).toEqual([expect.stringMatching(/B24_APPLICATION_TOKEN_FILE: set one of them/)])
  })

  test('from a file are the only setting that may come so: PORT_FILE is none', () => {
    expect(readConfig({ ...enough, PORT_FILE: '/missing' }).port).toBe(8080)
  })
})

describe('the incoming webhook', () => {
  const url = (host: string) => `https://${host}/rest/1/${secret}/`

  test('is refused with all other problems when it is wrong, also by the receiver, and is not printed', () => {
    const problems = problemsOf({ B24_HOOK: url('a.example').replace('https', 'http'), PORT: 'x' })
    expect(problems).toEqual([
      expect.stringMatching(/^B24_APPLICATION_TOKEN /),
      'B24_HOOK               entry 1 must begin with https://',
      expect.stringMatching(/^PORT /),
    ])
    expect(problems.join()).not.toContain(secret)
  })

  test.each([
    ['an application token', secret, /no URL/],
    ['two without names', `${url('a.example')},${url('b.example')}`, /needs a name/],
    ['a name twice', `a=${url('a.example')},a=${url('b.example')}`, /"a" twice/],
    ['a method behind the code', `${url('a.example')}crm.deal.get`, /end after the code/],
    ['a line end in it', `${url('a.example')}\n${url('b.example')}`, /end after the code/],
  ])('may not be %s, and the problem does not print it', (_, text, expected) => {
    const problems = problemsOf({ ...enough, B24_HOOK: text })
    expect(problems).toEqual([expect.stringMatching(expected)])
    expect(problems.join()).not.toContain(secret)
  })

  test('may come from a file, and is not printed when that is wrong', () => {
    const B24_HOOK_FILE = fileOf('incoming_webhook', `${url('a.example')}\n`)
    expect(readConfig({ ...enough, B24_HOOK_FILE }).incomingWebhooks).toMatchObject([{ host: 'a.example' }])
    const problems = problemsOf({ ...enough, B24_HOOK_FILE: fileOf('no-hook', `x${url('a.example')}`) })
    expect(problems).toEqual([expect.stringMatching(/^B24_HOOK /)])
    expect(problems.join()).not.toContain(secret)
  })

  test('is what a dispatcher reads, which needs no token', () => {
    expect(readConfig({ B24_HOOK: url('a.example') }, 'dispatcher').incomingWebhooks).toMatchObject([
      { host: 'a.example' },
    ])
  })

  test('shows its secret in nothing that prints the settings', () => {
    const config = readConfig({ ...enough, B24_HOOK: url('a.example') })
    const printed =
      inspect(config.incomingWebhooks, { depth: 20, showHidden: true }) + JSON.stringify(config.incomingWebhooks)
    expect(printed).not.toContain(secret)
  })
})

describe('the path of robots', () => {
  const rule = /^ROBOT_PATH +must be a path .* 16 or more .*: \/robot\/ and what openssl rand -hex 16 prints$/

  test.each([
    ['too short at its end', `/${secret}/short0short0sho`],
    ['without a slash', secret],
    ['a URL', `https://hooks.example.com/robot/${secret}`],
    ['with a query', `/robot/${secret}?a=1`],
    ['with a space', `/robot/ ${secret}`],
    ['with two slashes', `/robot//${secret}`],
    ['a parameter of a router', `/robot/:${secret}`],
    ['of other letters', `/robot/ключключключключключ${secret}`],
  ])('may not be %s, and the problem does not print it', (_, text) => {
    const problems = problemsOf({ ...enough, ROBOT_PATH: text })
    expect(problems).toEqual([expect.stringMatching(rule)])
    expect(problems.join()).not.toMatch(/geheim|short0/)
  })

  test('may not be that of webhooks', () => {
    const path = `/robot/${secret}`
    const problems = problemsOf({ ...enough, WEBHOOK_PATH: path, ROBOT_PATH: `${path}/` })
    expect(problems).toEqual(['ROBOT_PATH             must differ from WEBHOOK_PATH, which is no secret'])
  })

  test('may come from a file, which a dispatcher does not read', () => {
    const ROBOT_PATH_FILE = fileOf('robot', `/robot/${secret}\n`)
    expect(readConfig({ ...enough, ROBOT_PATH_FILE }).robotPath).toBe(`/robot/${secret}`)
    expect(readConfig({ ROBOT_PATH_FILE: '/missing' }, 'dispatcher').robotPath).toBeUndefined()
  })
})

describe('where alerts go', () => {
  const url = `https://example.bitrix24.com/rest/1/${secret}/im.message.add?DIALOG_ID=chat42`

  test('may be an http URL, and may come from a file', () => {
    expect(readConfig({ ...enough, ALERT_URL: 'http://alerts.internal:8000/b24' }).alertUrl?.port).toBe('8000')
    const ALERT_URL_FILE = fileOf('alert-url', `${url}\n`)
    expect(readConfig({ ...enough, ALERT_URL_FILE }).alertUrl?.href).toBe(url)
    expect(readConfig({ ALERT_URL: url }, 'dispatcher').alertUrl?.href).toBe(url)
  })

  test.each([
    ['another protocol', url.replace('https', 'ftp'), /https:\/\/ or http:\/\//],
    ['no protocol', url.replace('https://', ''), /https:\/\/ or http:\/\//],
    ['a line end in it', `${url}\n${url}`, /https:\/\/ or http:\/\//],
    ['a user name and a password', url.replace('https://', `https://me:${secret}@`), /user name/],
  ])('may not have %s, and the problem does not print it', (_, text, expected) => {
    const problems = problemsOf({ ...enough, ALERT_URL: text })
    expect(problems).toEqual([expect.stringMatching(expected)])
    expect(problems.join()).not.toContain(secret)
  })

  test('has to be set where silence is an alarm: the alert would go nowhere', () => {
    expect(problemOf('ALERT_AFTER_SILENCE', '2h')).toBe('is set, but alerts have no target: set ALERT_URL too')
    expect(problemsOf({ ...enough, ALERT_AFTER_SILENCE: '2h', ALERT_URL: url })).toEqual([])
  })
})

describe('BACKFILL_ON_START', () => {
  const backfilling = { ...enough, B24_HOOK: 'https://a.example/rest/1/abc/', BACKFILL_ON_START: 'deal,lead' }

  test('needs an incoming webhook, and a dispatcher that the receiver starts', () => {
    expect(problemsOf(backfilling)).toEqual([])
    expect(problemOf('BACKFILL_ON_START', 'deal')).toMatch(/^needs B24_HOOK/)
    const problems = problemsOf({ ...backfilling, DISPATCHER: 'off' })
    expect(problems).toEqual([
      expect.stringMatching(/^BACKFILL_ON_START +is done by the dispatcher.*b24-receiver backfill/),
    ])
  })

  test('is no matter of a dispatcher that runs by itself with the same settings', () => {
    const { backfillOnStart } = readConfig({ ...backfilling, DISPATCHER: 'off' }, 'dispatcher')
    expect(backfillOnStart).toBe('deal,lead')
  })
})

describe('refused, with what is allowed', () => {
  const proxies = /^must be IP addresses or CIDRs such as 10\.0\.0\.5 or 172\.16\.0\.0\/12, separated by commas/
  const allowed =
    /^must be auto, or IP addresses or CIDRs such as 10\.0\.0\.5 or 172\.16\.0\.0\/12, separated by commas/
  const path = /^must be a path such as \/bitrix24/
  const time = /^must be a time such as 500ms, 30s, 5m, 2h or 7d, at most /
  const size = /^must be a size such as 512KB or 1MB, from 1KB to 64MB/
  const port = /^must be a whole number from 0 to 65535/
  const host = /^must be an address of this machine, such as 0\.0\.0\.0, 127\.0\.0\.1 or ::/

  test.each<[string, RegExp, string[]]>([
    ['PORT', port, ['80a', '-1', '65536', '8080.5', '0x50', '1e3', '8 0', 'http']],
    ['B24_RATE', /^must be a whole number from 1 to 1000/, ['0', '1001', '2.5', '5/s']],
    ['B24_BURST', /^must be a whole number from 1 to 10000/, ['0', '10001', '-1']],
    ['CONCURRENCY', /^must be a whole number from 1 to 1000/, ['0', '1001', 'many']],
    ['WEBHOOK_PATH', path, ['/', '//', 'bitrix24', '/a b', '/a?b', '/a#b', '/:id', '/*', '/a//b', '/%41', '/ключ']],
    ['WEBHOOK_PATH', path, ['/healthz', '/healthz/', 'https://example.com/bitrix24']],
    ['BODY_LIMIT', size, ['1', '1 MB', '1mb', '1M', '1.5MB', '1023B', '65MB', '1GB', '-1KB', '0KB', '1MiB']],
    ['RETRY_FOR', time, ['72', '72 h', '1.5h', '72H', '-1h', '91d', '1w', 'h', '99999999999d']],
    ['HANDLER_TIMEOUT', time, ['0s', '0ms', '25h', 'never']],
    ['SHUTDOWN_GRACE', time, ['61m', '2h', '8']],
    ['LOG_LEVEL', /^must be one of trace, debug, info, warn, error, fatal, silent/, ['INFO', 'verbose', '30']],
    ['DISPATCHER', /^must be one of on, off/, ['true', 'false', '0', 'ON', 'no']],
    ['RUN_HANDLERS', /^must be one of on, off/, ['1', '0', 'yes']],
    ['TRUST_PROXY', proxies, ['true', '1', 'loopback', 'caddy', '10.0.0', '10.0.0.256', '10.0.0.5:80', '*', '::g']],
    ['TRUST_PROXY', proxies, ['10.0.0.0/33', '10.0.0.0/-1', '10.0.0.0/', '10.0.0.0/x', '10.0.0.0/8/8', '::/129']],
    ['TRUST_PROXY', proxies, ['10.0.0.5 10.0.0.6', '10.0.0.5;10.0.0.6', '10.0.0.5,x']],
    ['B24_ALLOWED_IPS', allowed, ['on', 'AUTO', 'auto,10.0.0.5', 'example.com', '10.0.0.256', '0.0.0.0/0', ',']],
    ['HOST', host, ['http://127.0.0.1', '127.0.0.1:8080', '[::1]', 'my host', '0.0.0.0/0', '-x', 'a_b']],
    ['ADMIN_HOST', host, ['localhost:9090', '*', '::1%']],
  ])('%s', (name, allowed, values) => {
    for (const value of values) {
      const problem = problemOf(name, value)
      expect(problem, value).toMatch(allowed)
      expect(problem, value).toContain(`, got "${value}"`)
    }
  })

  test.each([
    secret,
    `mysql://b24:${secret}@db/b24`,
    `postgres://b24:${secret}@db`,
    `postgres://b24:${secret}@/b24`,
    `postgres://b24:${secret}@db:port/b24`,
  ])('DATABASE_URL %#, without its value', (value) => {
    expect(problemOf('DATABASE_URL', value)).toMatch(
      /^must be postgres:\/\/user:password@host:port\/database, with % # .* written as %25 %23/,
    )
  })
})

describe('taken', () => {
  test.each<[string, string[]]>([
    ['PORT', ['0', '1', '80', '65535']],
    ['WEBHOOK_PATH', ['/b', '/b/', '/B24/hook', '/a-b_c.d~e', '/healthz/b24', '/0']],
    ['BODY_LIMIT', ['1024B', '1KB', '64MB', '65536KB']],
    ['RETRY_FOR', ['0s', '0ms', '90d', '2160h', '1m']],
    [
      'TRUST_PROXY',
      ['127.0.0.1', '10.0.0.0/8', '10.0.0.1/32', '::1', 'fc00::/7', '::1/128', '10.0.0.1,,10.0.0.2', ','],
    ],
    ['B24_ALLOWED_IPS', ['auto', '203.0.113.7', '203.0.113.0/24', '2001:db8::/32', '::ffff:203.0.113.7,']],
    ['LOG_LEVEL', ['trace', 'silent']],
    ['HOST', ['0.0.0.0', '::', '::1', 'fe80::1%eth0', 'localhost', 'receiver', 'hooks.example.com.', ' 127.0.0.1 ']],
  ])('%s', (name, values) => {
    for (const value of values) expect(problemsOf({ ...enough, [name]: value }), value).toEqual([])
  })
})

test.each([
  '0.0.0.0/0',
  '::/0',
  '10.0.0.0/0x8',
  '10.0.0.0/1e1',
  '10.0.0.0/ 8',
  '10.0.0.0/08',
  '10.0.0.0/8.0',
  'fe80::1%eth0',
])('TRUST_PROXY=%s is refused when it is read, or the server can be made with it', (value) => {
  const env = { ...enough, TRUST_PROXY: value }
  const make = () =>
    createServer({ config: readConfig(env), tokens: createTokens([]), journal, log: pino({ level: 'silent' }) })
  expect(problemsOf(env).length > 0 || make()).toBeTruthy()
})

test('B24_ALLOWED_IPS=auto is the published lists', () => {
  expect(readConfig({ ...enough, B24_ALLOWED_IPS: 'auto' }).allowedIps).toBe('auto')
})

test.each([
  ['500ms', 500],
  ['30s', 30_000],
  ['5m', 300_000],
  ['2h', 7_200_000],
  ['7d', 604_800_000],
  ['0s', 0],
  ['', undefined],
  ['5', undefined],
  ['5 m', undefined],
  ['m', undefined],
  ['5min', undefined],
  ['-5m', undefined],
  ['1e3s', undefined],
])('the time "%s" is %s milliseconds', (text, expected) => {
  expect(parseDuration(text)).toBe(expected)
})

test('the data directory can be read without a token', () => {
  expect(readSettings({}, 'dataDir')).toEqual({ dataDir: resolve('data') })
  expect(readSettings({ DATA_DIR: '' }, 'dataDir')).toEqual({ dataDir: resolve('data') })
  expect(readSettings({ DATA_DIR: '/data', PORT: 'x' }, 'dataDir')).toEqual({ dataDir: '/data' })
})

test('some settings alone are read with every problem of theirs', () => {
  const env = { PORT: 'x', ADMIN_PORT: 'y', HOST: '::' }
  expect(() => readSettings(env, 'port', 'adminPort', 'host')).toThrow(
    /2 problems\n {2}PORT +must .*\n {2}ADMIN_PORT +must /,
  )
})

test('secrets alone are read from files too, and need not be set', () => {
  const env = { B24_APPLICATION_TOKEN_FILE: fileOf('one-token', secret) }
  expect(readSettings(env, 'tokens', 'incomingWebhooks', 'databaseUrl')).toEqual({
    tokens: [{ name: undefined, value: secret }],
    incomingWebhooks: [],
    databaseUrl: undefined,
  })
  expect(readSettings({}, 'tokens')).toEqual({ tokens: [] })
})

test('a receiver that gets settings of its own gets none of those in the environment', () => {
  expect(withoutSettings({ ...enough, B24_HOOK_FILE: 'x', PORT: '1', PATH: '/bin' })).toEqual({ PATH: '/bin' })
})
