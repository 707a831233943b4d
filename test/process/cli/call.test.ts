import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, onTestFinished, test } from 'vitest'
import { RestError } from '../../support/portal/rest-error.ts'
import { type Portal, startPortal } from '../../support/portal.ts'
import { temporaryFolder } from '../../support/receiver.ts'

const DEAL = 2
const script = fileURLToPath(new URL('../../../src/bin/cli.ts', import.meta.url))
const secrets = ['c0dec0dec0dec0de']

/** `b24-receiver call …`, with nothing but this in its environment; whatever it does, it must not print the secret. */
async function run(env: Record<string, string>, ...args: string[]) {
  const child = spawn(process.execPath, [script, 'call', ...args], { env: { PATH: process.env['PATH'], ...env } })
  onTestFinished(() => void child.kill('SIGKILL'))
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  await once(child, 'close')
  if (secrets.some((secret) => (stdout + stderr).includes(secret))) throw new Error('it printed the secret')
  return { code: child.exitCode, stdout, stderr }
}

async function start() {
  const portal = await startPortal()
  secrets.push(portal.code())
  return { portal, call: (...args: string[]) => run({ ...portal.env, B24_HOOK: portal.incomingWebhook() }, ...args) }
}

const never = { B24_HOOK: 'https://127.0.0.1:9/rest/1/c0dec0dec0dec0de/' }

const addDeals = ({ records }: Portal, count: number) => {
  for (let id = 1; id <= count; id++) records.add(DEAL, { title: `Boat ${id}` }, 7, id)
}

test.for(['--help', '-h'])('%s behind the command explains it, and calls no portal', async (word) => {
  const { code, stdout, stderr } = await run({}, 'profile', word)
  expect([code, stderr]).toEqual([0, ''])
  expect(stdout).toContain('b24-receiver call METHOD')
})

describe('a call', () => {
  test('prints the result, readable for people and as one line for programs', async () => {
    const { portal, call } = await start()
    addDeals(portal, 1)
    const readable = await call('crm.deal.get', 'ID=1')
    expect(readable).toMatchObject({ code: 0, stderr: '' })
    expect(readable.stdout).toContain('\n  "TITLE": "Boat 1",\n')
    const raw = await call('crm.deal.get', 'ID=1', '--json')
    expect(raw.stdout.trimEnd().split('\n')).toHaveLength(1)
    expect(JSON.parse(raw.stdout)).toEqual(JSON.parse(readable.stdout))
  })

  test('sends what was nested and what was JSON', async () => {
    const { portal, call } = await start()
    addDeals(portal, 1)
    await call('crm.item.update', 'entityTypeId=2', 'id=1', 'fields[title]=Ship', 'fields.opportunity:=12.5')
    expect(portal.requests.map(({ params }) => params['fields'])).toEqual([{ title: 'Ship', opportunity: 12.5 }])
    expect(portal.records.get(DEAL, 1)?.fields).toMatchObject({ title: 'Ship', opportunity: 12.5 })
  })

  test('of all rows says on stderr, with both numbers, when the portal gave fewer than it counted', async () => {
    const { portal, call } = await start()
    addDeals(portal, 120)
    portal.behaviour.change = ({ result, total }, { params }) => ({
      ...{ result: result ?? [], total: total ?? 0 },
      ...(Number(params['start']) >= 100 && { result: [] }),
    })
    const all = await call('crm.deal.list', '--all', '--json')
    expect(all.stdout.trimEnd().split('\n')).toHaveLength(100)
    expect(all).toMatchObject({
      code: 1,
      stderr: 'b24-receiver call: crm.deal.list gave 100 of 120 rows: the list is not whole\n',
    })
  })

  test('gives one page of a list, and all of it with --all', async () => {
    const { portal, call } = await start()
    addDeals(portal, 120)
    const list = ['crm.deal.list', 'order[ID]=ASC', '--json']
    const page = await call(...list)
    expect(JSON.parse(page.stdout)).toHaveLength(50)
    const all = await call(...list, '--all')
    const rows = all.stdout.trimEnd().split('\n')
    expect(rows.map((row): unknown => JSON.parse(row).ID)).toEqual(Array.from({ length: 120 }, (_, at) => `${at + 1}`))
  })

  test('takes the incoming webhook from a file', async () => {
    const { portal } = await start()
    const file = join(temporaryFolder('incoming_webhook'), 'incoming_webhook')
    writeFileSync(file, `${portal.incomingWebhook()}\n`)
    expect(await run({ ...portal.env, B24_HOOK_FILE: file }, 'profile')).toMatchObject({ code: 0, stderr: '' })
  })

  test('takes the one of several that --hook names', async () => {
    const { portal } = await start()
    const env = { ...portal.env, B24_HOOK: `sales=${never.B24_HOOK},support=${portal.incomingWebhook()}` }
    expect(await run(env, 'profile', '--hook', 'support')).toMatchObject({ code: 0, stderr: '' })
  })
})

describe('a call that fails says why on one line, with the code, and exits with 1', () => {
  test('of the portal', async () => {
    const { portal, call } = await start()
    portal.behaviour.failing.set('profile', [new RestError('ERROR_CORE', `one\ntwo ${portal.incomingWebhook()}`)])
    expect(await call('profile')).toEqual({
      code: 1,
      stdout: '',
      stderr: `b24-receiver call: profile: ERROR_CORE (one two https://${portal.host}/rest/1/…/)\n`,
    })
  })

  test('of an incoming webhook that is dead', async () => {
    const { portal, call } = await start()
    portal.behaviour.dead = 'expired_token'
    const { code, stderr } = await call('crm.deal.list', '--all')
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(/^b24-receiver call: the incoming webhook of .* is dead: expired_token .*\n$/),
    ])
  })

  test('of a portal that is not there', async () => {
    const { code, stderr } = await run(never, 'profile')
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(/^b24-receiver call: .* is unreachable: ECONNREFUSED .*\n$/),
    ])
  })

  test.each([
    ['no incoming webhook', {}, 'B24_HOOK is not set'],
    [
      'a wrong one',
      { B24_HOOK: 'https://127.0.0.1/rest/c0dec0dec0dec0de' },
      'Configuration: 1 problem B24_HOOK entry 1 must be',
    ],
    ['a file that is not there', { B24_HOOK_FILE: '/nowhere' }, 'B24_HOOK_FILE cannot be read: ENOENT'],
    ['two at once', { ...never, B24_HOOK_FILE: '/nowhere' }, 'B24_HOOK is set, and so is B24_HOOK_FILE'],
  ])('of %s', async (_, env, message) => {
    const { code, stderr } = await run(env, 'profile')
    expect(code).toBe(78)
    expect(stderr).toContain(message)
    expect(stderr.trimEnd()).not.toContain('\n')
  })
})

describe('wrong arguments exit with 64', () => {
  const two = { B24_HOOK: `a=${never.B24_HOOK},b=${never.B24_HOOK}` }
  test.each<[string, Record<string, string>, string[], string]>([
    ['no method', never, [], 'name a method first, such as crm.contact.get'],
    ['the URL for a method', never, [never.B24_HOOK], 'name a method first'],
    ['a parameter without a value', never, ['profile', 'ID'], 'parameter 1 is not of the form'],
    ['an option that there is not', never, ['profile', '--everything'], "Unknown option '--everything'"],
    ['several incoming webhooks and none chosen', two, ['profile'], 'choose with --hook one of a, b'],
    [
      'an incoming webhook that there is not',
      two,
      ['profile', '--hook', 'c'],
      'B24_HOOK has none of that name; it has a, b',
    ],
  ])('%s', async (_, env, args, message) => {
    const { code, stdout, stderr } = await run(env, ...args)
    expect([code, stdout]).toEqual([64, ''])
    expect(stderr).toContain(message)
    expect(stderr.trimEnd()).not.toContain('\n')
  })

  test('all pages of what is no list', async () => {
    const { call } = await start()
    const { code, stderr } = await call('server.time', '--all')
    expect([code, stderr]).toEqual([64, 'b24-receiver call: server.time gives no list: leave --all out\n'])
  })
})

test('the examples of --help are such that are called', async () => {
  const child = spawn(process.execPath, [script, 'call', '--help'])
  const [help] = (await child.stdout.setEncoding('utf8').toArray()) as string[]
  const examples = [...(help ?? '').matchAll(/^ {2}b24-receiver (call .*)$/gm)].map(([, line = '']) => line)
  const { portal } = await start()
  portal.records.add(3, { name: 'Ann' }, 7, 42)
  portal.records.add(DEAL, { title: 'Boat' }, 7, 662)
  const shown = examples.filter((line) => !line.includes('METHOD'))
  expect(shown).toHaveLength(3)
  for (const line of shown) {
    const args = [...line.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain ?? '')
    const { code, stderr } = await run({ ...portal.env, B24_HOOK: portal.incomingWebhook() }, ...args.slice(1))
    expect([line, code, stderr]).toEqual([line, 0, ''])
  }
})
