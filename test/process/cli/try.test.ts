import { chmodSync, copyFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { envOf, jsonLines, runCli, spawnCli } from '../../support/cli.ts'
import { RestError } from '../../support/portal/rest-error.ts'
import { startPortal } from '../../support/portal.ts'
import { dealBody, startReceiver, temporaryFolder, until } from '../../support/receiver.ts'

const isRoot = process.getuid?.() === 0
const DEAL = 2
const CONTACT = 3

/** A receiver without handlers, of events of a portal, and a handler's file elsewhere. */
async function start(body: string, { name = 'ONCRMDEALUPDATE.mjs', env = {} as Record<string, string> } = {}) {
  const portal = await startPortal()
  portal.records.add(DEAL, { title: 'Boat', contactId: 42 }, 7, 662)
  portal.records.add(CONTACT, { name: 'Ann' }, 7, 42)
  const receiver = await startReceiver()
  const post = async (id: number) =>
    expect((await receiver.post(dealBody(id, { domain: portal.host }))).status).toBe(200)
  await post(662)
  const file = join(temporaryFolder('trial'), name)
  writeFileSync(
    file,
    `import { defineHandler, FinalError, RetryAfter } from 'bitrix24-webhook-receiver'
     ${body.includes('export') ? body : `export default async (event, { log, bitrix24, record, signal, ...rest }) => { ${body} }`}`,
  )
  const all = { ...envOf(receiver), ...portal.env, B24_HOOK: portal.incomingWebhook(), ...env }
  const attempt = async (...args: string[]) => {
    const ended = await runCli({ env: all }, 'try', file, ...args)
    if (`${ended.stdout}${ended.stderr}`.includes(portal.code())) throw new Error('it printed the incoming webhook')
    return ended
  }
  return { portal, receiver, post, file, env: all, attempt }
}

const typesOf = (stdout: string) => jsonLines(stdout).map(({ type }) => type)

describe('try', () => {
  test('runs a handler on the newest event that it handles, and shows its log and what became of it', async () => {
    const { post, attempt, receiver } = await start(`
      console.log('printed')
      log.info({ rest }, 'at work on ' + event.object)
      return { done: true }`)
    await post(663)
    await receiver.post(dealBody(1).replace('ONCRMDEALUPDATE', 'ONCRMLEADUPDATE'))
    const { code, stdout, stderr } = await attempt()
    expect(code).toBe(0)
    expect(stdout).toMatch(
      /^\[[\d:.]+\] INFO: at work on deal:663 \{"rest":\{"attempt":1,"coalesced":1\}\}\nreturned \{"done":true\}, .*\nhandled in \d+ ms\n$/,
    )
    expect(stderr).toMatch(/^ONCRMDEALUPDATE, on ONCRMDEALUPDATE deal:663 of [\d: -]+ \([\da-f-]+\)\nprinted\n$/)
  })

  test('leaves no delivery behind, and no handler that was ever loaded', async () => {
    const { attempt, env } = await start(`throw new Error('no')`)
    const before = (await runCli({ env }, 'status', '--json')).stdout
    expect(await attempt()).toMatchObject({ code: 1 })
    const { deliveries, handlers }: Record<string, unknown> = JSON.parse(
      (await runCli({ env }, 'status', '--json')).stdout,
    )
    expect({ deliveries, handlers }).toEqual({ deliveries: JSON.parse(before).deliveries, handlers: [] })
    expect(deliveries).toMatchObject({ ready: 0, waiting: 0, dead: 0 })
  })

  test('with --json gives a line for each thing', async () => {
    const { attempt, portal } = await start(`
      log.info('hello')
      await bitrix24.call('crm.deal.get', { id: 662 })
      return 7`)
    const { code, stdout } = await attempt('--json')
    expect(code).toBe(0)
    expect(typesOf(stdout)).toEqual(['start', 'log', 'request', 'ended'])
    expect(jsonLines(stdout)).toMatchObject([
      { handler: 'ONCRMDEALUPDATE', event: { event: 'ONCRMDEALUPDATE', object: 'deal:662' } },
      { level: 30, msg: 'hello', handler: 'ONCRMDEALUPDATE' },
      { call: { method: 'crm.deal.get', params: { id: 662 }, sent: true, result: { ID: '662', TITLE: 'Boat' } } },
      { outcome: 'handled', returned: 7 },
    ])
    expect(portal.called()).toEqual(['crm.deal.get'])
  })

  test('takes the event of an id, also one that the handler does not handle, and says so', async () => {
    const { post, attempt, receiver } = await start(`export default defineHandler('ONTASKADD', () => {})`)
    await post(1)
    const [first] = await receiver.journal()
    const { code, stdout, stderr } = await attempt('--event', first?.id ?? '', '--json')
    expect([code, jsonLines(stdout)[0]]).toMatchObject([0, { event: { id: first?.id, object: 'deal:662' } }])
    expect(stderr).toContain('ONCRMDEALUPDATE does not handle ONCRMDEALUPDATE: it is run all the same')
  })

  test('takes an event by how its id begins, and one that only a dead delivery has kept', async () => {
    const { portal, attempt, receiver, env } = await start('return event.id')
    const [first] = await receiver.journal()
    const id = first?.id ?? ''
    expect(jsonLines((await attempt('--event', id.slice(0, 20), '--json')).stdout).at(-1)).toMatchObject({
      returned: id,
    })
    await receiver.stop()
    const failing = await startReceiver({
      dataDir: receiver.dataDir,
      handlers: {
        'ONCRMDEALUPDATE.mjs': `import { FinalError } from 'bitrix24-webhook-receiver'
          export default () => { throw new FinalError('no') }`,
      },
    })
    await failing.post(dealBody(7, { domain: portal.host }))
    // The first may not have been followed before: it dies, too.
    await until('it is dead', () =>
      failing.logged('failed for good: this delivery is dead').some(({ object }) => object === 'deal:7'),
    )
    const dead = (await failing.journal()).at(-1)?.id ?? ''
    await failing.stop()
    for (const name of readdirSync(join(receiver.dataDir, 'journal'))) rmSync(join(receiver.dataDir, 'journal', name))
    expect((await runCli({ env }, 'tail', '--json')).stdout).toBe('')
    expect(jsonLines((await attempt('--event', dead, '--json')).stdout).at(-1)).toMatchObject({ returned: dead })
  })

  test('finds the newest event in an older segment', async () => {
    const { attempt, receiver, env, file } = await start('return event.id')
    await receiver.stop()
    const again = await startReceiver({ dataDir: receiver.dataDir })
    await again.post(dealBody(1).replace('ONCRMDEALUPDATE', 'ONCRMLEADUPDATE'))
    expect(readdirSync(join(receiver.dataDir, 'journal'))).toHaveLength(2)
    const [first] = await receiver.journal()
    expect(jsonLines((await attempt('--json')).stdout).at(-1)).toMatchObject({ returned: first?.id })
    expect(await runCli({ env }, 'try', file, '--event', 'last')).toMatchObject({ code: 0 })
  })
})

test('with onChange a handler runs as for an object that is new to it', async () => {
  const { attempt } = await start(`
    export default defineHandler('ONCRMDEALUPDATE', (event, { previous }) => ({ previous: String(previous) }), {
      onChange: ['title'],
      ignoreOwnChanges: true,
    })`)
  for (const _ of [1, 2]) expect((await attempt()).stdout).toMatch(/^returned \{"previous":"undefined"\}/m)
})

describe('what a handler asks of Bitrix24', () => {
  test('is shown with its parameters, its time and its result: calls, batches, records and errors', async () => {
    const { attempt } = await start(`
      await record()
      await bitrix24.batchSettled({
        deal: ['crm.deal.get', { id: 662 }],
        contact: ['crm.contact.get', { id: '$result[deal][CONTACT_ID]' }],
        none: ['crm.item.get', { entityTypeId: 2, id: 1 }],
      })
      await bitrix24.call('crm.deal.get', { id: 1 }).catch(() => {})
      await bitrix24.call('crm.contact.list', { select: Array(200).fill('NAME') })`)
    const { code, stdout } = await attempt()
    expect(code).toBe(0)
    expect(stdout).toMatch(
      /^REST batch of 1 \(\d+ ms\)\n {5}record0: crm\.item\.get \{"entityTypeId":"2","id":"662","useOriginalUfNames":"Y"\} → \{"item":/m,
    )
    expect(stdout).toMatch(/^REST batch of 3 \(\d+ ms\)\n {5}deal: crm\.deal\.get \{"id":"662"\} → \{"ID":"662"/m)
    expect(stdout).toMatch(/^ {5}contact: crm\.contact\.get \{"id":"\$result\[deal\]\[CONTACT_ID\]"\} → \{"ID":"42"/m)
    expect(stdout).toMatch(/^ {5}none: crm\.item\.get .* → NOT_FOUND \(.*\)$/m)
    expect(stdout).toMatch(/^REST crm\.deal\.get \{"id":1\} \(?.*→ NO_CODE \(.*\) \(\d+ ms\)$/m)
    expect(stdout).toMatch(/^REST crm\.contact\.list \{"select":\["NAME",.*… \(\d+ characters\) → \[\{"ID":"42"/m)
    expect(stdout).toMatch(/^handled in/m)
  })

  test('is not sent with --dry-run where it may write, and the handler goes on with what might have come', async () => {
    const { attempt, portal } = await start(`
      const deal = await record()
      const { item } = await bitrix24.call('crm.item.update', { entityTypeId: 2, id: deal.id, fields: { title: 'Ship' } })
      const both = await bitrix24.batch({ a: ['crm.deal.get', { id: 662 }], b: ['im.message.add', { MESSAGE: 'hi' }] })
      return { title: item.title, read: both.a.TITLE, sent: both.b }`)
    const { code, stdout } = await attempt('--dry-run')
    expect(code).toBe(0)
    expect(stdout).toContain(
      'REST crm.item.update {"entityTypeId":2,"id":662,"fields":{"title":"Ship"}} is not sent, and answered with {"item":{"title":"Ship","id":662}}',
    )
    expect(stdout).toMatch(/^ {5}b: im\.message\.add \{"MESSAGE":"hi"\} is not sent, and answered with 999999999$/m)
    expect(stdout).toMatch(/^returned \{"title":"Ship","read":"Boat","sent":999999999\}/m)
    expect(portal.called()).toEqual(['batch', 'crm.item.get', 'batch', 'crm.deal.get'])
    expect(portal.records.get(DEAL, 662)?.fields).toMatchObject({ title: 'Boat' })
    expect(portal.messages).toEqual([])
  })

  test('without it is sent', async () => {
    const { attempt, portal } = await start(
      `await bitrix24.call('crm.deal.update', { id: 662, fields: { TITLE: 'Ship' } })`,
    )
    expect((await attempt()).stdout).toMatch(/^REST crm\.deal\.update .* → true \(\d+ ms\)$/m)
    expect(portal.records.get(DEAL, 662)?.fields).toMatchObject({ title: 'Ship' })
  })
})

describe('a run that fails exits with 1, and says what the receiver would have done', () => {
  test('of what is thrown, with the frames of the handler alone and the causes', async () => {
    const { attempt, file } = await start(`
      const read = () => JSON.parse('{')
      try { read() } catch (cause) { throw Object.assign(new Error('the CRM said no', { cause }), { code: 'NO' }) }`)
    const { code, stdout } = await attempt()
    expect(code).toBe(1)
    const frames = stdout.match(/^\s+at .*$/gm) ?? []
    expect(frames.length).toBeGreaterThanOrEqual(2)
    expect(frames.filter((line) => !line.includes(file) && !line.includes('<anonymous>'))).toEqual([])
    expect(stdout).toMatch(/^Error: the CRM said no\n(.*\n)+ {4}\{ code: 'NO' \}\nbecause of SyntaxError: .*\n/m)
    expect(stdout).toMatch(/^failed after \d+ ms: the receiver would run it again in about [12] s, .* for 72 h$/m)
  })

  test.each([
    ['a FinalError', `throw new FinalError('no such deal')`, 'dead', 'FinalError: no such deal'],
    ['what is no error', `throw 'a text'`, 'retried', "'a text'"],
    [
      'a record that is gone',
      `if ((await record()) === null) throw new FinalError('gone')`,
      'gone',
      'FinalError: gone',
    ],
  ])('of %s', async (_, body, outcome, error) => {
    const { attempt, portal } = await start(body)
    portal.records.remove(DEAL, 662)
    const { code, stdout } = await attempt('--json')
    const ended = jsonLines(stdout).at(-1)
    expect([code, ended]).toMatchObject([1, { type: 'ended', outcome, error: expect.stringContaining(error) }])
  })

  test('of a RetryAfter, with its delay', async () => {
    const { attempt } = await start(`throw new RetryAfter('5m')`)
    expect((await attempt()).stdout).toMatch(/would run it again in about (300|299) s,/)
  })

  test('of an incoming webhook that does not work', async () => {
    const { attempt, portal } = await start(`await bitrix24.call('crm.deal.get', { id: 662 })`)
    portal.behaviour.dead = 'expired_token'
    const { code, stdout } = await attempt()
    expect(code).toBe(1)
    expect(stdout).toMatch(/^REST crm\.deal\.get \{"id":662\} → expired_token \(.*\)/m)
    expect(stdout).toMatch(/because the incoming webhook does not work: the receiver would run it again when it does$/m)
  })

  test('of the portal, without the incoming webhook', async () => {
    const { attempt, portal } = await start(`await bitrix24.call('crm.deal.get', { id: 662 })`)
    portal.behaviour.failing.set('crm.deal.get', [new RestError('ERROR_CORE', `see ${portal.incomingWebhook()}`)])
    expect((await attempt()).stdout).toMatch(/^Bitrix24Error: crm\.deal\.get: ERROR_CORE \(see https:.*…\/\)$/m)
  })

  test('of one that never ends, after twice HANDLER_TIMEOUT', async () => {
    const { attempt } = await start('await new Promise(() => {})', { env: { HANDLER_TIMEOUT: '300ms' } })
    const { code, stdout } = await attempt()
    expect(code).toBe(1)
    expect(stdout).toMatch(/^HandlerStuck: ONCRMDEALUPDATE did not end 600 ms after its start\nfailed after \d+ ms: /)
  })

  test('of one that heeds its signal', async () => {
    const { attempt } = await start(
      `await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))`,
      { env: { HANDLER_TIMEOUT: '300ms' } },
    )
    expect(await attempt()).toMatchObject({ code: 1, stdout: expect.stringMatching(/^TimeoutError: .*\nfailed after/) })
  })

  test('of one that blocks its process', async () => {
    const { attempt } = await start('for (;;);', { env: { HANDLER_STALL: '1s' } })
    const { code, stdout, stderr } = await attempt()
    expect([code, stdout]).toEqual([1, ''])
    expect(stderr).toMatch(/it blocks its process for longer than HANDLER_STALL \(1000 ms\)/)
  })

  test('of one that writes to the channel of its process', async () => {
    const { attempt } = await start(`(await import('node:fs')).writeSync(3, 'null\\n'); await new Promise(() => {})`)
    const { code, stdout, stderr } = await attempt()
    expect([code, stdout]).toEqual([1, ''])
    expect(stderr).toContain('it writes to descriptor 3, the channel of its process')
  })

  test.each([
    ['ends its process', 'process.exit(0)', /^ExitInHandler: process\.exit\(0\) in a handler: .*; throw instead\n/],
    [
      'leaves a rejection to nobody',
      `Promise.reject(new Error('lost')); await new Promise(() => {})`,
      /^Error: lost\n/,
    ],
  ])('of one that %s', async (_, body, message) => {
    const { attempt } = await start(body)
    const { code, stdout } = await attempt()
    expect([code, stdout]).toEqual([1, expect.stringMatching(message)])
    expect(stdout).toMatch(/^failed after \d+ ms: the receiver would run it again in about \d+ s,/m)
  })

  test('of a file that cannot be loaded, with the place', async () => {
    const { attempt, file } = await start('export default 3')
    expect(await attempt()).toMatchObject({
      code: 1,
      stdout: expect.stringMatching(
        new RegExp(`^TypeError: its default export must be a function .*\\nit cannot be loaded: ${file}$`, 'm'),
      ),
    })
    writeFileSync(file, 'export default () => {\n  const a = = 1\n}\n')
    const { code, stdout } = await attempt()
    expect([code, stdout]).toEqual([1, expect.stringContaining(`it cannot be loaded: ${file}:2`)])
  })
})

test('what a handler leaves behind does not keep it from ending, and dispose() is called', async () => {
  const { attempt } = await start(`
    setInterval(() => {}, 1000)
    export default () => {}
    export const dispose = () => console.log('closed')`)
  expect(await attempt()).toMatchObject({ code: 0, stderr: expect.stringMatching(/\nclosed\n$/) })
})

describe('Ctrl-C', () => {
  test('aborts the signal of the handler', async () => {
    const { env, file } = await start(`
      log.info('waiting')
      await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))`)
    const { child, said, result } = spawnCli({ env }, 'try', file)
    await until('it waits', () => said.stdout.includes('waiting'))
    child.kill('SIGINT')
    const { code } = await result
    expect([code, said.stdout]).toEqual([1, expect.stringMatching(/\nAbortError: interrupted\nfailed after/)])
  })

  test('twice ends one that does not heed it', async () => {
    const { env, file } = await start(`
      signal.addEventListener('abort', () => log.info('told'))
      log.info('waiting')
      await new Promise(() => {})`)
    const { child, said, result } = spawnCli({ env }, 'try', file)
    await until('it waits', () => said.stdout.includes('waiting'))
    child.kill('SIGINT')
    await until('it was told', () => said.stdout.includes('told'))
    child.kill('SIGINT')
    expect(await result).toMatchObject({ code: 1 })
    expect(said.stderr).toContain('it was interrupted, and ignored its signal')
  })
})

describe('a stopped receiver, and a user who may only read', () => {
  test.skipIf(!isRoot).each([true, false])('run as ever, and nothing is written; running: %s', async (isRunning) => {
    const { portal, receiver, file, env } = await start(`
      log.info('hello')
      await bitrix24.call('crm.deal.get', { id: 662 })`)
    if (!isRunning) await receiver.stop()
    for (const name of readdirSync(receiver.dataDir, { recursive: true, encoding: 'utf8' }))
      chmodSync(join(receiver.dataDir, name), name === 'journal' ? 0o755 : 0o644)
    for (const folder of [receiver.dataDir, join(file, '..')]) chmodSync(folder, 0o755)
    const files = () =>
      readdirSync(receiver.dataDir, { recursive: true, encoding: 'utf8' }).map((name) => {
        const { size, mtimeMs } = statSync(join(receiver.dataDir, name))
        return [name, size, mtimeMs]
      })
    const before = files()
    // The test's authority is in a folder that is not his.
    const ca = join(file, '../ca.pem')
    copyFileSync(portal.caFile, ca)
    const { code, stdout } = await runCli({ env: { ...env, NODE_EXTRA_CA_CERTS: ca }, uid: 65534 }, 'try', file)
    expect([code, stdout]).toEqual([0, expect.stringMatching(/INFO: hello\nREST crm\.deal\.get .*\nhandled in/)])
    expect(isRunning || files()).toEqual(isRunning || before)
  })
})

describe('wrong arguments', () => {
  test.each([
    ['no file', [], 64, 'name the file of a handler'],
    ['a file that there is not', ['nowhere.ts'], 64, 'there is no file nowhere.ts, here or in '],
    ['an id that is none', ['--event', 'deal:662'], 64, '--event takes last, or the id of an event'],
    [
      'an id that the journal has not',
      ['--event', '019aaf6e-1c2b-7a10-8f5e-3b6c1d2e4f50'],
      1,
      'the journal has no event',
    ],
  ])('%s', async (_, args, exit, message) => {
    const { env, file } = await start('')
    const { code, stdout, stderr } = await runCli({ env }, 'try', ...(args[0]?.startsWith('--') ? [file] : []), ...args)
    expect([code, stdout]).toEqual([exit, ''])
    expect(stderr).toContain(message)
  })

  test('a file that the receiver passes over is no handler', async () => {
    const { env, file } = await start('', { name: '_shared.mjs' })
    const { code, stderr } = await runCli({ env }, 'try', file)
    expect([code, stderr]).toEqual([64, expect.stringContaining('_shared.mjs is no handler to the receiver')])
  })

  test('no event that it handles', async () => {
    const { attempt } = await start('', { name: 'ONTASKADD.mjs' })
    const { code, stderr } = await attempt()
    expect([code, stderr]).toEqual([
      1,
      expect.stringContaining('the journal has no event that ONTASKADD handles (ONTASKADD)'),
    ])
  })

  test('a name that is not documented is reported, with the nearest', async () => {
    const { attempt, receiver } = await start(
      `export default defineHandler(['ONCRMDEALUPDAT', 'ONCRMDEALUPDATE'], () => {})`,
    )
    expect(await receiver.journal()).toHaveLength(1)
    expect(await attempt()).toMatchObject({
      code: 0,
      stderr: expect.stringContaining('the documentation does not know ONCRMDEALUPDAT: is it ONCRMDEALUPDATE?'),
    })
  })
})

test('a name alone is looked for in HANDLERS_DIR, too', async () => {
  const { env, file } = await start(`return 'found'`)
  const ended = await runCli({ env: { ...env, HANDLERS_DIR: join(file, '..') } }, 'try', 'ONCRMDEALUPDATE.mjs')
  expect(ended).toMatchObject({ code: 0, stdout: expect.stringContaining('returned "found"') })
})
