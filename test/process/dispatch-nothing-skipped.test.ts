import { readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { describe, expect, test } from 'vitest'
import { listSegments } from '../../src/journal/segments.ts'
import { openSqliteDeliveries } from '../../src/queue/sqlite/deliveries.ts'
import { openSqliteQueue, queuePath } from '../../src/queue/sqlite/queue.ts'
import { dispatcherOf } from '../support/dispatcher.ts'
import {
  dealBody,
  makeFolder,
  type Receiver,
  readJournal,
  readRecorded,
  recorder,
  startReceiver,
  TOKEN,
  temporaryFolder,
  until,
} from '../support/receiver.ts'

const broken = '// A comment, so that the mistake stands in the third line.\n\nexport default (event) => { event.? }\n'

/** Files where handlers write down what they saw. */
function ledger() {
  const folder = temporaryFolder('seen')
  const path = (name: string) => join(folder, name)
  return {
    /** A handler file that writes into the ledger of this name. */
    handler: (name: string) => recorder(path(name)),
    /** The deals it saw, each as often as it saw it. */
    seenBy: (name: string) =>
      readRecorded(path(name))
        .map((event) => Number(event.object?.slice('deal:'.length)))
        .sort((a, b) => a - b),
  }
}

async function postDeals(receiver: Receiver, from: number, to: number) {
  for (let id = from; id <= to; id++) expect((await receiver.post(dealBody(id))).status).toBe(200)
}

const deals = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index)

const put = (receiver: Receiver, files: Record<string, string>) => {
  for (const [name, source] of Object.entries(files)) writeFileSync(join(receiver.handlersDir, name), source)
}

const reload = (receiver: Receiver) => receiver.child.kill('SIGHUP')

/** Resolves with what `/readyz` says is wrong with the dispatcher, once it matches. */
function troubleOf(receiver: Receiver, pattern: RegExp): Promise<string> {
  return until(
    () => `trouble ${pattern}\n${receiver.output()}`,
    async () => {
      const { status, dispatcher } = (await receiver.readyz()) as { status: string; dispatcher?: string }
      return status === 'degraded' && pattern.test(dispatcher ?? '') ? dispatcher : undefined
    },
  )
}

const isReady = (receiver: Receiver) =>
  until(
    () => `ready\n${receiver.output()}`,
    async () => ((await receiver.readyz()) as { status: string }).status === 'ready',
  )

describe('a broken handler file', () => {
  test('at start: nothing is followed, file and line are named, and once fixed each handler gets all, once', async () => {
    const { handler, seenBy } = ledger()
    const receiver = await startReceiver({ handlers: { 'good.mjs': handler('good'), 'bad.mjs': broken } })
    const file = join(receiver.handlersDir, 'bad.mjs')
    expect(await troubleOf(receiver, /bad\.mjs/)).toContain(`${file}:3`)
    const line = await until('it is logged', () => receiver.logged('a handler cannot be loaded')[0])
    expect(line).toMatchObject({ file })
    expect(JSON.stringify(line)).toContain('bad.mjs:3')
    await postDeals(receiver, 1, 10)
    expect(seenBy('good')).toEqual([])

    put(receiver, { 'bad.mjs': handler('fixed') })
    await until('both handled all', () => seenBy('good').length === 10 && seenBy('fixed').length === 10)
    await isReady(receiver)
    await receiver.stop()
    expect(seenBy('good')).toEqual(deals(1, 10))
    expect(seenBy('fixed')).toEqual(deals(1, 10))
  })

  test('at reload: the old handlers go on, file and line are named, and once fixed the new ones take over', async () => {
    const { handler, seenBy } = ledger()
    const receiver = await startReceiver({ handlers: { 'one.mjs': handler('old') } })
    await isReady(receiver)
    await postDeals(receiver, 1, 3)
    put(receiver, { 'one.mjs': broken })
    reload(receiver)
    const went = 'the handlers could not be loaded; a dispatcher that runs goes on with those it has'
    await until('it went on', () => receiver.logged(went).length === 1)
    // Two processes write to one stdout: their lines may change places.
    await until('it was named', () => receiver.logged('a handler cannot be loaded').length === 1)
    expect(JSON.stringify(receiver.logged('a handler cannot be loaded'))).toContain('one.mjs:3')
    await postDeals(receiver, 4, 6)
    await until('the old one handled all', () => seenBy('old').length === 6)
    expect(await receiver.readyz()).toMatchObject({ status: 'ready' })

    put(receiver, { 'one.mjs': handler('new') })
    reload(receiver)
    await until('the new one took over', () => receiver.logged('handlers were loaded again').length === 1)
    await postDeals(receiver, 7, 9)
    await until('the new one handles', () => seenBy('new').length === 3)
    expect(seenBy('old')).toEqual(deals(1, 6))
    expect(seenBy('new')).toEqual(deals(7, 9))
  })

  test('is reported with its line, where there is one, and so are all the others', async () => {
    const receiver = await startReceiver({
      handlers: {
        'a.mjs': broken,
        'b.ts': '\nexport default (event: unknown) => { event.? }\n',
        'c.ts': '\n\nenum A { B }\nexport default () => {}\n',
        'd.mjs': '\nthrow new Error("at load")\n',
        'e.mjs': 'import { nothing } from "./_lib.mjs"\nexport default () => nothing\n',
        'f.mjs': 'import { deep } from "./_lib.mjs"\n\ndeep()\n',
        '_lib.mjs': '\n\n\nexport const deep = () => { throw new Error("deep") }\n',
        'g.mjs': 'export default 7\n',
        'h.mjs': 'import "./nothing.mjs"\n',
      },
    })
    const trouble = await troubleOf(receiver, /a\.mjs/)
    // The channel may be faster than stdout.
    await until('all are told', () => receiver.logged('a handler cannot be loaded').length >= 8)
    const places = receiver.logged('a handler cannot be loaded').map(({ at }) => String(at))
    for (const place of places) expect(trouble).toContain(`${place}: `)
    expect(places.slice(0, 8).map((place) => place.slice(receiver.handlersDir.length + 1))).toEqual([
      'a.mjs:3',
      'b.ts:2',
      'c.ts:3',
      'd.mjs:2',
      'e.mjs:1',
      '_lib.mjs:4',
      'g.mjs',
      'h.mjs',
    ])
  })
})

describe('the handlers folder', () => {
  test('is missing at start, a mount for one, and appears later: every event is handled', async () => {
    const { handler, seenBy } = ledger()
    const dir = join(temporaryFolder('mount'), 'handlers')
    const receiver = await startReceiver({ env: { HANDLERS_DIR: dir } })
    expect(await troubleOf(receiver, /ENOENT/)).toContain(dir)
    await postDeals(receiver, 1, 5)
    makeFolder(`${dir}.fresh`)
    writeFileSync(join(`${dir}.fresh`, 'deals.mjs'), handler('deals'))
    renameSync(`${dir}.fresh`, dir)
    await until('all are handled', () => seenBy('deals').length === 5)
    await isReady(receiver)
  })

  test('is empty although handlers ran before: nothing is followed until they are back', async () => {
    const { handler, seenBy } = ledger()
    const first = await startReceiver({ handlers: { 'one.mjs': handler('one') } })
    await postDeals(first, 1, 2)
    await until('handled', () => seenBy('one').length === 2)
    await first.stop()
    const second = await startReceiver({ dataDir: first.dataDir })
    await troubleOf(second, /is empty, but one ran before: is a mount missing\?/)
    await postDeals(second, 3, 5)
    put(second, { 'one.mjs': handler('one') })
    await until('all are handled', () => seenBy('one').length === 5)
    expect(seenBy('one')).toEqual(deals(1, 5))
  })

  test('is empty at a reload: the old handlers go on', async () => {
    const { handler, seenBy } = ledger()
    const receiver = await startReceiver({ handlers: { 'one.mjs': handler('one') } })
    await isReady(receiver)
    rmSync(join(receiver.handlersDir, 'one.mjs'))
    reload(receiver)
    await until('it went on', () => receiver.output().includes('goes on with those it has'))
    await postDeals(receiver, 1, 3)
    await until('handled', () => seenBy('one').length === 3)
    expect(await receiver.readyz()).toMatchObject({ status: 'ready' })
  })

  test('is empty from the beginning: that is no accident, and the first handler starts with new events', async () => {
    const { handler, seenBy } = ledger()
    const receiver = await startReceiver()
    await isReady(receiver)
    await postDeals(receiver, 1, 3)
    await isFollowed(receiver)
    put(receiver, { 'one.mjs': handler('one') })
    reload(receiver)
    await until('loaded', () => receiver.logged('handlers were loaded again').length === 1)
    await postDeals(receiver, 4, 6)
    await until('handled', () => seenBy('one').length === 3)
    expect(seenBy('one')).toEqual(deals(4, 6))
  })

  test('has a new handler: that one starts with new events, the others miss none', async () => {
    const { handler, seenBy } = ledger()
    const receiver = await startReceiver({ handlers: { 'one.mjs': handler('one') } })
    await postDeals(receiver, 1, 3)
    await until('handled', () => seenBy('one').length === 3)
    put(receiver, { 'two.mjs': handler('two') })
    reload(receiver)
    await until('loaded', () => receiver.logged('handlers were loaded again').length === 1)
    await postDeals(receiver, 4, 6)
    await until('both handled', () => seenBy('one').length === 6 && seenBy('two').length === 3)
    expect(seenBy('two')).toEqual(deals(4, 6))
  })

  test('lacks a handler: its deliveries stay, are reported, and are handled when the file is back', async () => {
    const { handler, seenBy } = ledger()
    const refusing = 'export default () => { throw new Error("not yet") }'
    const first = await startReceiver({
      handlers: { 'one.mjs': handler('one'), 'ONCRMDEALUPDATE.mjs': refusing },
    })
    await postDeals(first, 1, 3)
    await until('one handled', () => seenBy('one').length === 3)
    await until('the other refused', () => first.logged('failed, will be tried again').length >= 3)
    rmSync(join(first.handlersDir, 'ONCRMDEALUPDATE.mjs'))
    reload(first)
    const gone = 'a handler is not loaded; its events are kept for it'
    await until('reported', () => first.logged(gone).length === 1)
    expect(first.logged(gone)).toMatchObject([{ handler: 'ONCRMDEALUPDATE', pending: 3 }])
    await until('it is named', async () =>
      JSON.stringify(await first.readyz()).includes('handlers forget ONCRMDEALUPDATE'),
    )
    await postDeals(first, 4, 5)
    await until('one goes on', () => seenBy('one').length === 5)

    put(first, { 'ONCRMDEALUPDATE.mjs': handler('two') })
    reload(first)
    await until('what was pending is handled', () => seenBy('two').length === 5)
    expect(seenBy('two')).toEqual(deals(1, 5))
    await isReady(first)
  })
})

describe('a deleted dispatch.db', () => {
  /** Deals 1 to 3 handled, 4 to 6 pending, then the database is gone. */
  async function lose() {
    const { handler, seenBy } = ledger()
    const first = await startReceiver({ handlers: { 'one.mjs': handler('one') } })
    await postDeals(first, 1, 3)
    await until('handled', () => seenBy('one').length === 3)
    put(first, { 'one.mjs': 'export default (' })
    process.kill(await dispatcherOf(first), 'SIGKILL')
    await postDeals(first, 4, 6)
    await first.stop()
    const { dataDir } = first
    for (const name of readdirSync(dataDir)) if (name.startsWith('dispatch.db')) rmSync(join(dataDir, name))
    return { dataDir, handlers: { 'one.mjs': handler('again') }, seenBy }
  }

  test('is not guessed over: the dispatcher waits and names the ways out, and posts are answered', async () => {
    const { dataDir, handlers, seenBy } = await lose()
    const receiver = await startReceiver({ dataDir, handlers })
    const trouble = await troubleOf(receiver, /dispatch\.db/)
    for (const way of ['DISPATCH_FROM=oldest', 'DISPATCH_FROM=now', 'DISPATCH_FROM=20']) expect(trouble).toContain(way)
    await postDeals(receiver, 7, 8)
    const pauses = () => receiver.logged('starting the dispatcher again').map((line) => line['in_ms'])
    await until('it is tried again', () => pauses().length > 1)
    expect(pauses().slice(0, 2)).toEqual([500, 1_000])
    expect(seenBy('again')).toEqual([])
    await receiver.stop()

    const oldest = await startReceiver({ dataDir, handlers, env: { DISPATCH_FROM: 'oldest' } })
    await until('all are handled', () => seenBy('again').length === 8)
    expect(seenBy('again')).toEqual(deals(1, 8))
    await oldest.stop()
    // It was for that once: another start with it goes on where the last one was.
    const again = await startReceiver({ dataDir, handlers, env: { DISPATCH_FROM: 'oldest' } })
    await postDeals(again, 9, 9)
    await until('handled', () => seenBy('again').length === 9)
    expect(seenBy('again')).toEqual(deals(1, 9))
  })

  test('with DISPATCH_FROM=now: what was pending is dropped', async () => {
    const { dataDir, handlers, seenBy } = await lose()
    const receiver = await startReceiver({ dataDir, handlers, env: { DISPATCH_FROM: 'now' } })
    await isReady(receiver)
    await postDeals(receiver, 7, 8)
    await until('handled', () => seenBy('again').length === 2)
    expect(seenBy('again')).toEqual(deals(7, 8))
  })

  test('with a time: events from then on are handled', async () => {
    const { dataDir, handlers, seenBy } = await lose()
    const fourth = (await readJournal(dataDir)).find((event) => event.object === 'deal:4') as
      | { time?: string }
      | undefined
    const receiver = await startReceiver({ dataDir, handlers, env: { DISPATCH_FROM: String(fourth?.time) } })
    await until('handled', () => seenBy('again').length === 3)
    await postDeals(receiver, 7, 7)
    await until('handled', () => seenBy('again').length === 4)
    expect(seenBy('again')).toEqual(deals(4, 7))
  })

  test('is not what a first start finds, also when that was killed right after its first acknowledged post', async () => {
    const { handler, seenBy } = ledger()
    const handlers = { 'one.mjs': handler('one') }
    const first = await startReceiver({ env: { DISPATCHER: 'off' } })
    await postDeals(first, 1, 1)
    first.killGroup('SIGKILL')
    await first.exited
    const second = await startReceiver({ dataDir: first.dataDir, handlers })
    await until('handled', () => seenBy('one').length === 1)
    expect(second.output()).not.toContain('DISPATCH_FROM')
  })

  test('is not what a first start finds that was killed while it chose where to begin', async () => {
    const { handler, seenBy } = ledger()
    const dataDir = temporaryFolder('data')
    await openSqliteQueue({ path: queuePath(dataDir) }).close()
    const first = await startReceiver({ dataDir, env: { DISPATCHER: 'off' } })
    await postDeals(first, 1, 1)
    await first.stop()
    const second = await startReceiver({ dataDir, handlers: { 'one.mjs': handler('one') } })
    await until('handled', () => seenBy('one').length === 1)
    expect(second.output()).not.toContain('DISPATCH_FROM')
  })
})

describe('a journal that is gone while dispatch.db stayed', () => {
  async function lose() {
    const { handler, seenBy } = ledger()
    const handlers = { 'one.mjs': handler('one') }
    const first = await startReceiver({ handlers })
    await postDeals(first, 1, 5)
    await until('handled', () => seenBy('one').length === 5)
    await first.stop()
    rmSync(join(first.dataDir, 'journal'), { recursive: true })
    return { dataDir: first.dataDir, handlers, seenBy }
  }

  test('is begun again: the position in the old one means nothing in the new one', async () => {
    const { dataDir, handlers, seenBy } = await lose()
    const off = await startReceiver({ dataDir, env: { DISPATCHER: 'off' } })
    await postDeals(off, 6, 7)
    await off.stop()
    const receiver = await startReceiver({ dataDir, handlers })
    await postDeals(receiver, 8, 8)
    await until('handled', () => seenBy('one').length === 8)
    expect(seenBy('one')).toEqual(deals(1, 8))
  })

  test('and was put back as it was before: where to follow on is not guessed', async () => {
    const { dataDir, handlers, seenBy } = await lose()
    const queue = openSqliteQueue({ path: queuePath(dataDir) })
    await queue.add([], { segment: 7, offset: 0 })
    await queue.close()
    makeFolder(dataDir, 'journal')
    const line = { level: 30, time: '2026-11-23T08:00:00.000Z', id: 'x', event: 'ONCRMDEALUPDATE', object: 'deal:9' }
    writeFileSync(join(dataDir, 'journal', '000000000003-2026-11-23.ndjson'), `${JSON.stringify(line)}\n`)
    const receiver = await startReceiver({ dataDir, handlers })
    await troubleOf(receiver, /DISPATCH_FROM/)
    expect(seenBy('one')).toHaveLength(5)
  })
})

describe('a reload', () => {
  test('reads B24_APPLICATION_TOKEN_FILE again on open connections; a bad file keeps the old tokens', async () => {
    const file = join(temporaryFolder('secrets'), 'token')
    writeFileSync(file, `sales=${TOKEN}\n`)
    const receiver = await startReceiver({ env: { B24_APPLICATION_TOKEN: '', B24_APPLICATION_TOKEN_FILE: file } })
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
    const sockets = new Set<unknown>()
    const statusOf = (token: string) =>
      new Promise<number | undefined>((resolve, reject) => {
        const headers = { 'content-type': 'application/x-www-form-urlencoded' }
        const request = http.request(receiver.url, { method: 'POST', agent, headers }, (response) => {
          sockets.add(response.socket)
          response.resume().on('end', () => resolve(response.statusCode))
        })
        request.on('error', reject).end(dealBody(1, { token }))
      })
    const added = 'added0token0added0token0added0to'
    expect(await statusOf(TOKEN)).toBe(200)
    expect(await statusOf(added)).toBe(403)

    writeFileSync(file, `sales=${TOKEN},sales=${added}\n`)
    reload(receiver)
    await until('it is read again', async () => (await statusOf(added)) === 200)
    expect(await statusOf(TOKEN)).toBe(200)

    const bad = 'settings are wrong: nothing is reloaded, tokens and handlers stay as they were'
    const other = 'other0token0other0token0other0to'
    for (const [index, text] of ['', `sales=${other},sales=`, `"${other}"`].entries()) {
      writeFileSync(file, text)
      reload(receiver)
      await until('refused', () => receiver.logged(`the ${bad}`).length === index + 1)
      for (const token of [TOKEN, added]) expect(await statusOf(token)).toBe(200)
      expect(await statusOf(other)).toBe(403)
    }
    rmSync(file)
    reload(receiver)
    await until('refused', () => receiver.logged(`the ${bad}`).length === 4)
    expect(await statusOf(added)).toBe(200)
    const reasons = receiver.logged(`the ${bad}`).map((line) => (line['err'] as { message: string }).message)
    for (const [index, reason] of ['is empty', 'entry 2 is empty', 'begins or ends with a quote', 'ENOENT'].entries())
      expect(reasons[index]).toContain(reason)
    expect(sockets.size).toBe(1)
    for (const secret of [TOKEN, added, other]) expect(receiver.output()).not.toContain(secret)

    writeFileSync(file, `sales=${added}`)
    reload(receiver)
    await until('the old one is gone', async () => (await statusOf(TOKEN)) === 403)
    expect(await statusOf(added)).toBe(200)
    agent.destroy()
  })
})

/** Resolves when the dispatcher has read all that is in the journal. */
async function isFollowed({ dataDir }: Receiver): Promise<void> {
  const { number, path } = (await listSegments(dataDir)).at(-1) ?? { number: 0, path: '' }
  const end = { segment: number, offset: statSync(path).size, first: undefined }
  const queue = openSqliteDeliveries({ path: queuePath(dataDir), mode: 'read' })
  await until('all of it is followed', async () =>
    isDeepStrictEqual({ ...(await queue.position()), first: undefined }, end),
  )
  await queue.close()
}
