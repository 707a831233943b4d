import { spawn } from 'node:child_process'
import { chmodSync, cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { findHolder } from '../../../src/journal/lock.ts'
import { openSqliteDeliveries } from '../../../src/queue/sqlite/deliveries.ts'
import { queuePath } from '../../../src/queue/sqlite/queue.ts'
import { envOf, jsonLines, runCli } from '../../support/cli.ts'
import { deals, linesOf, scripted } from '../../support/dispatcher.ts'
import {
  dealBody,
  freePort,
  type Receiver,
  type ReceiverOptions,
  spawnReceiver,
  startReceiver,
  TOKEN,
  temporaryFolder,
  until,
} from '../../support/receiver.ts'

/** A time, for programs. */
const utc = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

const isRoot = process.getuid?.() === 0

/** A receiver whose handler marks what it runs, and throws for good while the file `refuse` is there. */
async function start(options: ReceiverOptions = {}) {
  const folder = temporaryFolder('marks')
  const handler = scripted(
    folder,
    `if (has('hold')) await marked('go')
     mark('ran', event.object + ' ' + event.id)
     if (has('refuse')) throw Object.assign(new Error('the CRM said no'), { [Symbol.for('bitrix24-webhook-receiver.final')]: true })`,
  )
  const receiver = await startReceiver({ ...options, handlers: { [deals]: handler, ...options.handlers } })
  const env = envOf(receiver)
  return {
    folder,
    receiver,
    env,
    cli: (...args: string[]) => runCli({ env }, ...args),
    ran: () => linesOf(folder, 'ran'),
    put: (name: string) => writeFileSync(join(folder, name), ''),
    take: (name: string) => rmSync(join(folder, name)),
  }
}

async function post(receiver: Receiver, ...ids: number[]) {
  for (const id of ids) expect((await receiver.post(dealBody(id))).status).toBe(200)
}

const idsOf = async (receiver: Receiver) => (await receiver.journal()).map(({ id }) => String(id))

describe('replay', () => {
  test('delivers an event again to a running receiver, within seconds and without a restart', async () => {
    const { receiver, cli, ran } = await start()
    await post(receiver, 1, 2)
    await until('both ran', () => ran().length === 2)
    const [first = ''] = await idsOf(receiver)
    const { code, stdout, stderr } = await cli('replay', first)
    expect([code, stdout]).toEqual([0, '1 delivery was added\n'])
    expect(stderr).toBe('1 event, 1 delivery to ONCRMDEALUPDATE\n')
    await until('it ran again', () => ran().length === 3)
    expect(ran().at(-1)).toBe(`deal:1 ${first}`)
  })

  test('says how many, and does nothing with --dry-run or without a confirmation', async () => {
    const { receiver, cli, ran } = await start()
    await post(receiver, 1, 2, 1)
    await until('all ran', () => ran().length === 3)
    const dry = await cli('replay', '--object', 'deal:1', '--dry-run', '--json')
    expect(jsonLines(dry.stdout)).toEqual([{ events: 2, deliveries: 2, handlers: ['ONCRMDEALUPDATE'], added: 0 }])
    const unasked = await cli('replay', '--object', 'deal:1')
    expect(unasked).toMatchObject({ code: 64, stdout: '' })
    expect(unasked.stderr).toContain('2 events, 2 deliveries to ONCRMDEALUPDATE')
    expect(unasked.stderr).toContain('not a terminal: pass --yes')
    const said = await cli('replay', '--object', 'deal:1', '--yes', '--json')
    expect(jsonLines(said.stdout)).toMatchObject([{ added: 2 }])
    await until('two more ran', () => ran().length === 5)
    expect(ran().filter((line) => line.startsWith('deal:1 '))).toHaveLength(4)
  })

  test('goes behind what waits for its object', async () => {
    const { receiver, cli, ran, put } = await start()
    await post(receiver, 7)
    await until('it ran', () => ran().length === 1)
    put('hold')
    await post(receiver, 7, 7)
    const queue = openSqliteDeliveries({ path: queuePath(receiver.dataDir), mode: 'read' })
    // Answered is not yet followed.
    await until('one waits behind the other', async () => (await queue.state()).blocked === 1)
    await queue.close()
    const [first = '', second = '', third = ''] = await idsOf(receiver)
    await cli('replay', first)
    put('go')
    await until('all ran', () => ran().length === 4)
    expect(ran()).toEqual([first, second, third, first].map((id) => `deal:7 ${id}`))
  })

  test('for one handler of several leaves the others alone, and names those that there are', async () => {
    const { receiver, cli, ran, folder } = await start({
      handlers: {
        'audit.mjs': `import { defineHandler } from 'bitrix24-webhook-receiver'
          export default defineHandler('*', () => {})`,
      },
    })
    await post(receiver, 1)
    await until('it ran', () => ran().length === 1)
    const [first = ''] = await idsOf(receiver)
    const { stdout } = await cli('replay', first, '--handler', 'audit', '--json')
    expect(jsonLines(stdout)).toEqual([{ events: 1, deliveries: 1, handlers: ['audit'], added: 1 }])
    await until('audit ran twice', () => receiver.logged('handled').filter((line) => line['handler'] === 'audit')[1])
    expect(linesOf(folder, 'ran')).toHaveLength(1)
    const wrong = await cli('replay', first, '--handler', 'nobody')
    expect(wrong).toMatchObject({ code: 1, stdout: '' })
    expect(wrong.stderr).toContain('there are ONCRMDEALUPDATE, audit')
  })

  test('names only the handlers that get something', async () => {
    const { receiver, cli, ran } = await start({
      handlers: { 'ONCRMLEADADD.mjs': 'export default () => {}' },
    })
    await post(receiver, 1)
    await until('it ran', () => ran().length === 1)
    const [first = ''] = await idsOf(receiver)
    expect((await cli('replay', first, '--dry-run')).stdout).toBe('1 event, 1 delivery to ONCRMDEALUPDATE\n')
    expect((await cli('replay', first, '--handler', 'ONCRMLEADADD')).stdout).toBe(
      '1 event, 0 deliveries: no handler is for them\n',
    )
  })

  test('on a stopped receiver waits for its start', async () => {
    const { receiver, cli, ran, env } = await start()
    await post(receiver, 1)
    await until('it ran', () => ran().length === 1)
    const [first = ''] = await idsOf(receiver)
    await receiver.stop()
    expect(await cli('replay', first)).toMatchObject({ code: 0, stdout: '1 delivery was added\n' })
    const [text] = jsonLines((await cli('status', '--json')).stdout)
    expect(text).toMatchObject({ receiver: null, readyz: null, deliveries: { ready: 1 } })
    cpSync(join(receiver.handlersDir, deals), join(temporaryFolder('copy'), deals))
    const again = await startReceiver({
      dataDir: receiver.dataDir,
      env: { HANDLERS_DIR: env['HANDLERS_DIR'] ?? '' },
    })
    await until('it ran again', () => ran().length === 2)
    await again.stop()
  })

  test('of an id that the journal has not does nothing at all', async () => {
    const { receiver, cli } = await start()
    await post(receiver, 1)
    await until('it was handled', () => receiver.logged('handled').length === 1)
    const [first = ''] = await idsOf(receiver)
    const other = '019aaf6e-1c2b-7a10-8f5e-3b6c1d2e4f50'
    const { code, stderr } = await cli('replay', first, other)
    expect([code, stderr]).toEqual([
      1,
      `b24-receiver replay: the journal has no event ${other}: nothing is delivered again\n`,
    ])
    expect(jsonLines((await cli('status', '--json')).stdout)).toMatchObject([
      { deliveries: { ready: 0, running: 0, blocked: 0, waiting: 0 } },
    ])
  })

  test.each([
    ['nothing chosen', [], 'choose events'],
    ['ids and options', ['019aaf6e-1c2b-7a10-8f5e-3b6c1d2e4f50', '--object', 'deal:1'], 'not by both'],
    ['no id', ['deal:1'], '"deal:1" is no id of an event'],
    ['a time that is none', ['--since', 'yesterday'], '--since takes how long ago'],
    ['a time before all times', ['--since', '999999999d'], '--since takes how long ago'],
    ['a name that is none', ['--event', 'a b'], '--event a b is no name'],
  ])('with %s is refused as a wrong use', async (_, args, message) => {
    const { receiver, cli, ran } = await start()
    await post(receiver, 1)
    await until('it ran', () => ran().length === 1)
    const { code, stdout, stderr } = await cli('replay', ...args)
    expect([code, stdout]).toEqual([64, ''])
    expect(stderr).toContain(message)
  })
})

describe('dead', () => {
  async function startWithDead(...ids: number[]) {
    const started = await start()
    started.put('refuse')
    await post(started.receiver, ...ids)
    await until(
      'all are dead',
      () => started.receiver.logged('failed for good: this delivery is dead').length === ids.length,
    )
    started.take('refuse')
    return started
  }

  test('lists what was given up: when, which, and why', async () => {
    const { receiver, cli } = await startWithDead(1, 2)
    const [first] = await idsOf(receiver)
    const { code, stdout } = await cli('dead')
    expect(code).toBe(0)
    const [head = '', one = '', two = ''] = stdout.split('\n')
    expect(head).toMatch(/^died +id +event +object +handler +attempts +error$/)
    expect(one).toMatch(
      new RegExp(`^\\d{4}-\\d\\d-\\d\\d .*${first} +ONCRMDEALUPDATE +deal:1 .* 1 +Error: the CRM said no$`),
    )
    expect(two).toContain('deal:2')
    expect(jsonLines((await cli('dead', '--object', 'deal:2', '--json')).stdout)).toMatchObject([
      {
        object: 'deal:2',
        handler: 'ONCRMDEALUPDATE',
        attempts: 1,
        error: 'Error: the CRM said no',
        createdAt: expect.stringMatching(utc),
        endedAt: expect.stringMatching(utc),
      },
    ])
  })

  test('retry runs them again, and they are dead no more', async () => {
    const { receiver, cli, ran } = await startWithDead(1, 2, 3)
    const [first = ''] = await idsOf(receiver)
    expect(await cli('dead', 'retry', first)).toMatchObject({ code: 0, stdout: '1 tried again\n' })
    await until('it ran again', () => ran().length === 4)
    expect((await cli('dead', 'retry', '--all', '--yes', '--json')).stdout).toBe('{"retried":2}\n')
    await until('the others did', () => ran().length === 6)
    expect(await cli('dead')).toMatchObject({ code: 0, stdout: '', stderr: 'no delivery is dead\n' })
  })

  test('drop forgets them, and their events stay in the journal', async () => {
    const { receiver, cli, ran } = await startWithDead(1, 2)
    const [first = ''] = await idsOf(receiver)
    expect(await cli('dead', 'drop', first)).toMatchObject({ code: 0, stdout: '1 dropped\n' })
    expect(jsonLines((await cli('dead', '--json')).stdout)).toMatchObject([{ object: 'deal:2' }])
    expect(await idsOf(receiver)).toHaveLength(2)
    expect(ran()).toHaveLength(2)
  })

  test.each([
    ['retry without a choice', ['retry'], 64, 'takes ids of events, --handler or --object; or --all'],
    ['an unknown deed', ['bury'], 64, 'it is dead, dead retry or dead drop'],
    ['an event that is not dead', ['drop', 'abc'], 1, 'no dead delivery is of the event abc: nothing was done'],
    ['another handler', ['drop', '--handler', 'other', '--yes'], 1, 'no such delivery is dead'],
  ])('with %s does nothing', async (_, args, exit, message) => {
    const { cli } = await startWithDead(1)
    const { code, stderr } = await cli('dead', ...args)
    expect([code, stderr.includes(message)]).toEqual([exit, true])
    expect(jsonLines((await cli('dead', '--json')).stdout)).toHaveLength(1)
  })
})

describe('handlers', () => {
  test('says of a name that Bitrix24 does not document which one it may mean', async () => {
    const { cli, receiver } = await start({
      handlers: {
        'ONCRMDEALUPDAET.mjs': 'export default () => {}',
        'own.mjs': `import { defineHandler } from 'bitrix24-webhook-receiver'
          export default defineHandler(['ONCRMLEADADD', 'ONOURAPPCOUNTED'], () => {})`,
      },
    })
    // That a handler is logged as loaded comes before the queue knows it.
    await until('it follows', async () => JSON.stringify(await receiver.readyz()).includes('"ready"'))
    const { stdout } = await cli('handlers')
    expect(stdout).toMatch(/^ONCRMDEALUPDAET +loaded .*ONCRMDEALUPDAET \(not documented: is it ONCRMDEALUPDATE\?\)$/m)
    expect(stdout).toMatch(/^own +loaded .*ONCRMLEADADD ONOURAPPCOUNTED \(not documented\)$/m)
    expect(jsonLines((await cli('handlers', '--json')).stdout)).toMatchObject([
      { name: 'ONCRMDEALUPDAET', unknown: [{ event: 'ONCRMDEALUPDAET', nearest: 'ONCRMDEALUPDATE' }] },
      { name: 'ONCRMDEALUPDATE', unknown: [] },
      { name: 'own', unknown: [{ event: 'ONOURAPPCOUNTED' }] },
    ])
  })

  test('are loaded, broken, new or gone; a reload says what it made of them', async () => {
    const { receiver, cli, ran } = await start({ handlers: { 'old.mjs': 'export default () => {}' } })
    await post(receiver, 1)
    await until('it ran', () => ran().length === 1)
    const states = async () =>
      Object.fromEntries(jsonLines((await cli('handlers', '--json')).stdout).map(({ name, state }) => [name, state]))
    expect(await states()).toEqual({ ONCRMDEALUPDATE: 'loaded', old: 'loaded' })

    const put = (name: string, source: string) => writeFileSync(join(receiver.handlersDir, name), source)
    rmSync(join(receiver.handlersDir, 'old.mjs'))
    put('fresh.mjs', 'export default () => {}')
    expect(await states()).toEqual({ ONCRMDEALUPDATE: 'loaded', old: 'gone', fresh: 'new' })
    expect(await cli('reload')).toMatchObject({ code: 0, stdout: 'loaded: ONCRMDEALUPDATE, fresh\n' })
    expect(await states()).toEqual({ ONCRMDEALUPDATE: 'loaded', old: 'gone', fresh: 'loaded' })

    put('fresh.mjs', '\n\nexport default (')
    expect((await cli('reload')).stdout).toMatch(/fresh\.mjs:3: SyntaxError: /)
    put('fresh.mjs', 'export default 3')
    const broken = await cli('reload')
    expect(broken.code).toBe(1)
    expect(broken.stdout).toMatch(/fresh\.mjs: TypeError: its default export must be a function/)
    expect(await states()).toEqual({ ONCRMDEALUPDATE: 'loaded', old: 'gone', fresh: 'broken' })
    expect((await cli('handlers')).stdout).toMatch(/^fresh +broken .*its default export must be a function/m)

    put('fresh.mjs', 'export default () => {}')
    expect(await cli('reload')).toMatchObject({ code: 0, stdout: 'loaded: ONCRMDEALUPDATE, fresh\n' })
    expect(await states()).toEqual({ ONCRMDEALUPDATE: 'loaded', old: 'gone', fresh: 'loaded' })

    for (const file of readdirSync(receiver.handlersDir)) rmSync(join(receiver.handlersDir, file))
    const empty = await cli('reload')
    expect([empty.code, empty.stdout]).toEqual([1, ''])
    expect(empty.stderr).toMatch(/is empty, but ONCRMDEALUPDATE, fresh, old ran before: is a mount missing\?/)
  })

  test('a reload with a wrong setting says why, exits with 1, and changes nothing', async () => {
    const file = join(temporaryFolder('secrets'), 'token')
    const other = 'other0token0other0token0other0to'
    writeFileSync(file, `sales=${TOKEN}`)
    const { receiver, cli } = await start({
      handlers: {},
      env: { B24_APPLICATION_TOKEN: '', B24_APPLICATION_TOKEN_FILE: file },
    })
    writeFileSync(join(receiver.handlersDir, 'fresh.mjs'), 'export default () => {}')
    for (const [text, reason] of [
      ['', /^B24_APPLICATION_TOKEN_FILE .* is empty\n$/],
      [`sales=https://example.com/${other}`, /^B24_APPLICATION_TOKEN "sales" is a URL/],
      [undefined, /^B24_APPLICATION_TOKEN_FILE cannot be read: ENOENT/],
    ] as const) {
      if (text === undefined) rmSync(file)
      else writeFileSync(file, text)
      const { code, stdout, stderr } = await cli('reload')
      expect([code, stderr]).toEqual([1, expect.stringContaining('nothing was reloaded')])
      expect(stdout).toMatch(reason)
      expect(stdout).not.toContain(other)
    }
    await post(receiver, 1)

    writeFileSync(file, `sales=${TOKEN},sales=${other}`)
    expect(await cli('reload')).toMatchObject({ code: 0, stdout: 'loaded: ONCRMDEALUPDATE, fresh\n', stderr: '' })
    await post(receiver, 2)
    writeFileSync(file, `bot=777,support=${TOKEN}`)
    const { code, stderr } = await cli('reload')
    expect([code, stderr]).toEqual([
      0,
      expect.stringMatching(/no token named "sales" any more: posts with it are refused\n.*"bot" has 3 characters/),
    ])
  })

  test('a reload waits for a dispatcher of its own, and reports only then how the files loaded', async () => {
    const folder = temporaryFolder('gate')
    const { receiver, cli } = await start({
      handlers: {
        'slow.mjs': `import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
while (!existsSync(${JSON.stringify(join(folder, 'open'))})) await sleep(20)
export default () => {}`,
      },
    })
    writeFileSync(join(receiver.handlersDir, 'late.mjs'), 'export default 3')
    const reloading = cli('reload')
    await until('it is told', () => receiver.logged('reloading').length === 1)
    writeFileSync(join(folder, 'open'), '')
    const { code, stdout } = await reloading
    expect([code, stdout]).toEqual([1, expect.stringContaining('late.mjs: TypeError: its default export')])
  })

  test('forget drops what a handler is pending whose file was removed, and only then', async () => {
    const { receiver, cli, put, ran } = await start()
    put('refuse')
    await post(receiver, 1)
    await until('it is dead', () => receiver.logged('failed for good: this delivery is dead').length === 1)
    const kept = await cli('handlers', 'forget', 'ONCRMDEALUPDATE', '--yes')
    expect(kept).toMatchObject({ code: 1, stdout: '' })
    expect(kept.stderr).toContain('is still there: remove it from HANDLERS_DIR first')
    await receiver.stop()
    rmSync(join(receiver.handlersDir, deals))
    const { code, stdout, stderr } = await cli('handlers', 'forget', 'ONCRMDEALUPDATE', '--yes')
    expect([code, stdout]).toEqual([0, 'forgotten; 1 dropped\n'])
    expect(stderr).toContain('"ONCRMDEALUPDATE" is to be forgotten, and 1 delivery dropped')
    // An empty folder is no accident any more.
    const again = await startReceiver({ dataDir: receiver.dataDir })
    await until('it is ready', async () => JSON.stringify(await again.readyz()).includes('"ready"'))
    expect(ran()).toHaveLength(1)
  })

  test('forget leaves a handler alone that the dispatcher at work still has, until a reload', async () => {
    const { receiver, cli, ran } = await start({ handlers: { 'old.mjs': 'export default () => {}' } })
    await post(receiver, 1)
    await until('it ran', () => ran().length === 1)
    rmSync(join(receiver.handlersDir, 'old.mjs'))
    const early = await cli('handlers', 'forget', 'old', '--yes')
    expect(early).toMatchObject({ code: 1, stdout: '' })
    expect(early.stderr).toContain('the dispatcher at work still has "old": reload first')
    expect(await cli('reload')).toMatchObject({ code: 0 })
    expect(await cli('handlers', 'forget', 'old', '--yes')).toMatchObject({ code: 0 })
    expect((await cli('handlers')).stdout).not.toContain('old')
  })

  test('forget of the last one lets a receiver go on that waits for it', async () => {
    const { receiver, cli, ran } = await start()
    await post(receiver, 1)
    await until('it ran', () => ran().length === 1)
    await receiver.stop()
    rmSync(join(receiver.handlersDir, deals))
    const again = await startReceiver({ dataDir: receiver.dataDir })
    await until('it waits', () => again.output().includes('b24-receiver handlers forget'))
    expect(await cli('handlers', 'forget', 'ONCRMDEALUPDATE', '--yes')).toMatchObject({ code: 0 })
    await until('it goes on', async () => JSON.stringify(await again.readyz()).includes('"ready"'))
  })
})

describe('reload', () => {
  test('of what does not run says so', async () => {
    const { receiver, cli } = await start()
    await receiver.stop()
    const { code, stderr } = await cli('reload')
    expect([code, stderr]).toEqual([1, `b24-receiver reload: no receiver runs on ${receiver.dataDir}\n`])
  })

  test.each(['SIGUSR2', 'SIGHUP'] as const)('by %s does not end a receiver that is just starting', async (signal) => {
    const receiver = await spawnReceiver({ handlers: { [deals]: 'export default () => {}' } })
    await until('it holds its folder', () =>
      existsSync(join(receiver.dataDir, 'receiver.lock')) ? findHolder(receiver.dataDir, 'receiver') : undefined,
    )
    receiver.child.kill(signal)
    await until('it is ready, or ended', () => receiver.output().includes('ready for') || receiver.child.signalCode)
    expect(receiver.child.signalCode).toBeNull()
    await until('it reloaded', () => receiver.logged('reloading').length === 1)
  })

  test('never signals a process that only has the number of one that was killed', async () => {
    const { receiver, cli } = await start()
    receiver.killGroup('SIGKILL')
    await receiver.exited
    expect(await cli('reload')).toMatchObject({ code: 1 })
    expect((await cli('status')).stdout).toMatch(/^receiver +does not run$/m)
  })
})

describe('status', () => {
  test('of a running receiver says that it is ready, and exits with 0', async () => {
    const { receiver, cli, ran } = await start()
    await post(receiver, 1, 2)
    await until('both ran', () => ran().length === 2)
    const ready = await until('all is done', async () => {
      const { code, stdout } = await cli('status')
      return code === 0 && / 0 running, 0 ready/.test(stdout) ? stdout : undefined
    })
    expect(ready).toMatch(new RegExp(`^receiver +runs as pid ${receiver.child.pid} on `, 'm'))
    expect(ready).toMatch(/^readyz +ready/m)
    expect(ready).toMatch(/^last event +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ONCRMDEALUPDATE deal:2$/m)
    expect(ready).toMatch(/^dispatcher +has followed all of it$/m)
    expect(ready).toMatch(/^handlers +ONCRMDEALUPDATE \(loaded\)$/m)
  })

  test('reports a broken handler as /readyz does, and exits with 1', async () => {
    const { receiver, cli } = await start({ handlers: { 'bad.mjs': 'export default 3' } })
    await until('it waits', async () => JSON.stringify(await receiver.readyz()).includes('bad.mjs'))
    const { code, stdout } = await cli('status')
    expect(code).toBe(1)
    expect(stdout).toMatch(/^readyz +degraded; dispatcher: .*bad\.mjs/m)
    expect(stdout).toMatch(/^handlers +none|^handlers +.*bad \(/m)
  })

  test('says when the private listener is not where the settings say', async () => {
    const { env } = await start()
    const { code, stdout } = await runCli({ env: { ...env, ADMIN_PORT: String(await freePort()) } }, 'status')
    expect(code).toBe(1)
    expect(stdout).toMatch(/^readyz +unknown; reason: http:\/\/127\.0\.0\.1:\d+ does not answer \(ECONNREFUSED\)/m)
  })

  test('where there is no journal says so', async () => {
    const { code, stderr } = await runCli({ env: { DATA_DIR: '/nowhere' } }, 'status')
    expect([code, stderr]).toEqual([
      1,
      "b24-receiver status: there is no journal in /nowhere: set DATA_DIR to the receiver's\n",
    ])
  })
})

describe.skipIf(!isRoot)('a user who may only read', () => {
  const nobody = 65534

  const readable = (dataDir: string) => {
    for (const name of readdirSync(dataDir, { recursive: true, encoding: 'utf8' }))
      chmodSync(join(dataDir, name), name === 'journal' ? 0o755 : 0o644)
    chmodSync(dataDir, 0o755)
  }

  test.each([true, false])('sees status, dead and handlers; running: %s', async (isRunning) => {
    const { receiver, env, put } = await start()
    put('refuse')
    await post(receiver, 1)
    await until('it is dead', () => receiver.logged('failed for good: this delivery is dead').length === 1)
    if (!isRunning) await receiver.stop()
    readable(receiver.dataDir)
    expect(existsSync(join(receiver.dataDir, 'dispatch.db-wal'))).toBe(isRunning)
    const cli = (...args: string[]) => runCli({ env, uid: nobody }, ...args)
    expect(await cli('dead', '--json')).toMatchObject({ code: 0, stdout: expect.stringContaining('"deal:1"') })
    expect(await cli('handlers')).toMatchObject({ code: 0, stdout: expect.stringContaining('loaded') })
    const status = await cli('status')
    expect(status.stdout).toMatch(isRunning ? /^receiver +runs as pid/m : /^receiver +does not run/m)
    expect(status.stdout).toMatch(/; 1 dead$/m)
    const refused = await cli('dead', 'retry', '--all', '--yes')
    expect(refused).toMatchObject({ code: 1, stdout: '' })
    expect(refused.stderr).toMatch(
      /^b24-receiver dead: this user may not write to .*dispatch\.db: run it as the receiver's\n$/,
    )
  })
})

describe('import', () => {
  /** Lines as the journal would write them, the way they went to stderr. */
  async function refused(...deals: number[]) {
    const { receiver } = await start()
    await post(receiver, ...deals)
    await receiver.stop()
    const lines = readFileSync(join(receiver.dataDir, 'events.ndjson'), 'utf8').trimEnd().split('\n')
    const file = join(temporaryFolder('stderr'), 'stderr.log')
    const noise = ['not JSON', '{"level":30,"time":"x","part":"receiver","id":"1","event":"E","msg":"accepted"}']
    writeFileSync(file, [...noise, ...lines.map((line) => `receiver-1  | ${line}`), ...noise, ''].join('\n'))
    return { file, lines: lines.map((line): Record<string, unknown> => JSON.parse(line)) }
  }

  test('through a running receiver brings each back once, as it was, and handlers get it', async () => {
    const { file, lines } = await refused(1, 2, 3)
    const { receiver, cli, ran } = await start()
    await post(receiver, 9)
    expect((await cli('import', file, '--dry-run')).stdout).toBe(
      '3 events found, 0 of them in the journal, 3 to import\n',
    )
    expect(await idsOf(receiver)).toHaveLength(1)
    const { code, stdout } = await cli('import', file)
    expect([code, stdout]).toEqual([0, '3 events found, 0 of them in the journal, 3 imported\n'])
    const journal = await receiver.journal()
    const bare = (line: object) => ({ ...line, time: '' })
    expect(journal.slice(1).map(bare)).toEqual(lines.map(bare))
    await until('handlers got them', () => ran().length === 4)
    expect((await cli('import', file, '--json')).stdout).toBe('{"found":3,"known":3,"imported":0}\n')
    expect(await idsOf(receiver)).toHaveLength(4)
  })

  test('in the place of a stopped receiver does the same, and the next start handles them', async () => {
    const { file } = await refused(1, 2)
    const { receiver, cli, ran, env } = await start()
    await receiver.stop()
    expect(await cli('import', file)).toMatchObject({ code: 0 })
    expect((await cli('status')).stdout).toMatch(/^receiver +does not run$/m)
    const again = await startReceiver({ dataDir: receiver.dataDir, env: { HANDLERS_DIR: env['HANDLERS_DIR'] ?? '' } })
    await until('handlers got them', () => ran().length === 2)
    await again.stop()
  })

  test('into a folder where no receiver ever was is refused: DATA_DIR is probably another', async () => {
    const { file } = await refused(1)
    const { env } = await start()
    const dataDir = join(temporaryFolder('fresh'), 'data')
    const { code, stderr } = await runCli({ env: { ...env, DATA_DIR: dataDir } }, 'import', file)
    expect([code, stderr.trimEnd()]).toEqual([
      1,
      `b24-receiver import: there is no journal in ${dataDir}: set DATA_DIR to the receiver's`,
    ])
    expect(existsSync(dataDir)).toBe(false)
  })

  test('of lines that were made by hand brings no secret into the journal', async () => {
    const { lines } = await refused(1)
    const auth = { domain: 'x', access_token: 'access0access0access0', application_token: TOKEN }
    const made = { ...lines[0], data: { FIELDS: { ID: '1' }, NOTE: TOKEN, KEY: 'access0access0access0' }, auth }
    for (const isRunning of [true, false]) {
      const { env, receiver } = await start()
      if (!isRunning) await receiver.stop()
      expect(await runCli({ env, input: JSON.stringify(made) }, 'import', '-')).toMatchObject({ code: 0 })
      expect(await receiver.journal()).toMatchObject([{ data: { FIELDS: { ID: '1' } }, auth: { domain: 'x' } }])
      const written = readFileSync(join(receiver.dataDir, 'events.ndjson'), 'utf8')
      expect([written.includes(TOKEN), written.includes('access0')]).toEqual([false, false])
    }
  })

  test('brings back a text with U+2028, as an older version wrote it, and skips what cannot be an event', async () => {
    const { lines } = await refused(1)
    const note = 'one\u2028two\u2029three'
    const made = JSON.stringify({ ...lines[0], data: { FIELDS: { ID: '1' }, NOTE: note } })
    const { env, receiver } = await start()
    const input = `${'x'.repeat(5 * 1024 ** 2)}\n${made}`
    const { code, stderr } = await runCli({ env, input }, 'import', '-')
    expect([code, stderr]).toEqual([0, expect.stringMatching(/^a line of more than \d+ bytes .*passed over\n$/)])
    expect(await receiver.journal()).toMatchObject([{ data: { NOTE: note } }])
  })

  test('from stdin', async () => {
    const { file } = await refused(1)
    const { env, receiver } = await start()
    const { code } = await runCli({ env, input: readFileSync(file, 'utf8') }, 'import', '-')
    expect(code).toBe(0)
    expect(await idsOf(receiver)).toHaveLength(1)
  })

  test("with a token that is not the receiver's is refused", async () => {
    const { file } = await refused(1)
    const { env, receiver } = await start()
    const other = { ...env, B24_APPLICATION_TOKEN: 'another0token0another0token' }
    const { code, stderr } = await runCli({ env: other }, 'import', file)
    expect(code).toBe(1)
    expect(stderr).toContain('403')
    expect(stderr).not.toContain('another0token')
    expect(await idsOf(receiver)).toEqual([])
  })
})

describe('in a shell', () => {
  const cliScript = fileURLToPath(new URL('../../../src/bin/cli.ts', import.meta.url))

  async function shell(env: Record<string, string>, command: string) {
    const cli = `'${process.execPath}' --disable-warning=ExperimentalWarning '${cliScript}'`
    const child = spawn('bash', ['-c', command.replaceAll('CLI', cli)], {
      cwd: temporaryFolder('shell'),
      env: { PATH: process.env['PATH'], ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const [out, err] = await Promise.all([text(child.stdout), text(child.stderr)])
    return `${out}${err}`
  }

  test('a stdout whose reader is gone is no error, but a full disk is', async () => {
    const { receiver, env } = await start()
    for (let id = 1; id <= 3; id++) await post(receiver, id)
    expect(await shell(env, 'set -o pipefail; CLI tail | true; echo $?')).toBe('0\n')
    expect(await shell(env, 'CLI tail > /dev/full; echo $?')).toMatch(/^1\nb24-receiver: .*ENOSPC/)
  })

  test('a .env that cannot be read is reported in one line', async () => {
    const told = await shell({}, 'mkdir .env; CLI dead; echo $?')
    expect(told).toMatch(/^1\nb24-receiver dead: .+\n$/)
  })

  test('a stderr whose reader is gone does not keep a command from its work', async () => {
    const { receiver, env, ran } = await start()
    await post(receiver, 1)
    await until('it ran', () => ran().length === 1)
    const [first = ''] = await idsOf(receiver)
    // The reader is gone before the first word.
    const told = await shell(env, `{ sleep 0.2; CLI replay ${first}; echo $? >&3; } 3>&1 2> >(exec true)`)
    expect(told).toBe('1 delivery was added\n0\n')
  })
})
