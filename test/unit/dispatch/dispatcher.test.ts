import { existsSync, statSync, utimesSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { Writable } from 'node:stream'
import { pino } from 'pino'
import { expect, onTestFinished, test, vi } from 'vitest'
import { createPortals } from '../../../src/bitrix24/portals.ts'
import { type DispatcherDeps, startDispatcher } from '../../../src/dispatch/dispatcher.ts'
import {
  defineHandler,
  FinalError,
  type Handler,
  type HandlerOptions,
  RetryAfter,
} from '../../../src/handler/handler.ts'
import type { LoadedHandler } from '../../../src/handler/loader.ts'
import { openJournal } from '../../../src/journal/journal.ts'
import { oldest } from '../../../src/journal/position.ts'
import { listSegments } from '../../../src/journal/segments.ts'
import { realClock } from '../../../src/lib/clock.ts'
import type { Queue } from '../../../src/queue/queue.ts'
import { openSqliteDeliveries } from '../../../src/queue/sqlite/deliveries.ts'
import { openSqliteOwnChanges } from '../../../src/queue/sqlite/own-changes.ts'
import { openSqliteQueue, queuePath } from '../../../src/queue/sqlite/queue.ts'
import { temporaryFolder, until } from '../../support/receiver.ts'
import { eventOf, want } from '../queue/queue-contract.ts'

const day = 86_400_000

function handlerOf(
  handle: Handler,
  { name = 'h', events = '*', ...options }: HandlerOptions & { name?: string; events?: string } = {},
): LoadedHandler {
  const definition = defineHandler(events, handle, options)
  return {
    name,
    file: `/handlers/${name}.ts`,
    events: definition.events,
    matches: (event) => events === '*' || event === events,
    handle,
    options: definition.options,
  }
}

/** A journal with these objects' events, ids from 1, and a dispatcher to be started on it. */
async function prepare({ segmentSize = 64 * 1024 ** 2 } = {}) {
  const dataDir = temporaryFolder('dispatcher')
  const lines: Record<string, unknown>[] = []
  const log = pino(
    new Writable({
      write(line, _encoding, done) {
        lines.push(JSON.parse(String(line)))
        done()
      },
    }),
  )
  const journal = await openJournal({ dataDir, segmentSize, log })
  onTestFinished(() => journal.close())
  let last = 0
  return {
    dataDir,
    log,
    /** Appends an event of each object. */
    append: async (...objects: string[]) => {
      for (const object of objects) {
        const { level: _, time: _time, msg: _msg, ...event } = eventOf(++last, object)
        await journal.append(event)
      }
    },
    openQueue: () => openSqliteQueue({ path: queuePath(dataDir) }),
    logged: (msg: string) => lines.filter((line) => line['msg'] === msg),
    start: async (queue: Queue, handlers: readonly LoadedHandler[], deps: Partial<DispatcherDeps> = {}) => {
      const ownChanges = openSqliteOwnChanges({ path: queuePath(dataDir) })
      onTestFinished(() => ownChanges.close())
      const dispatcher = await startDispatcher({
        dataDir,
        from: (await queue.position()) ?? oldest,
        handlers,
        queue,
        portals: createPortals({
          incomingWebhooks: [],
          rate: 2,
          burst: 50,
          clock: realClock,
          onChange: () => undefined,
        }),
        ownChanges,
        concurrency: 8,
        retryFor: 3_600_000,
        handlerTimeout: 60_000,
        retentionDays: 30,
        log,
        ...deps,
      })
      let failure: unknown
      dispatcher.failed.catch((error: unknown) => {
        failure = error
      })
      onTestFinished(() => dispatcher.stop(0))
      return { ...dispatcher, failure: () => failure }
    },
  }
}

test('a run that takes too long is aborted by its signal, counts as failed when it ends, and is retried', async () => {
  const { append, openQueue, start, logged } = await prepare()
  await append('deal:1')
  const attempts: number[] = []
  const slow = handlerOf(
    (_event, { signal, attempt }) => {
      attempts.push(attempt)
      if (attempt > 1) return undefined
      // It ends as if nothing had happened.
      return new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
    },
    { timeout: '1s' },
  )
  const dispatcher = await start(openQueue(), [slow])
  await until('tried again', () => logged('handled').length === 1)
  expect(attempts).toEqual([1, 2])
  expect(logged('failed, will be tried again')).toMatchObject([
    { attempt: 1, err: { message: 'The operation was aborted due to timeout' } },
  ])
  expect(dispatcher.failure()).toBeUndefined()
})

test('a handler that ignores its signal blocks its object, then its process ends; its retry waits', async () => {
  const { append, openQueue, start, logged } = await prepare()
  await append('deal:1', 'deal:1', 'deal:2')
  const started: string[] = []
  const stuck = handlerOf(
    (event) => {
      started.push(`${event.id} ${event.object}`)
      return event.object === 'deal:1' ? new Promise(() => undefined) : undefined
    },
    { timeout: '100ms' },
  )
  const dispatcher = await start(openQueue(), [stuck], { retryFor: 0 })
  await until('others go on', () => logged('handled').length === 1)
  await expect(dispatcher.failed).rejects.toThrow('h did not end 200 ms after its start')
  // Dead, for it may not be tried again: what waits behind it must not start beside it.
  await until('it is dead', () => logged('failed for good: this delivery is dead').length === 1)
  expect(logged('failed for good: this delivery is dead')).toMatchObject([{ id: '1' }])
  await append('deal:1', 'deal:3')
  await dispatcher.stop(0)
  expect(started).toEqual(['1 deal:1', '3 deal:2'])
})

test('a handler that ends between its timeout and another one keeps the process', async () => {
  const { append, openQueue, start, logged } = await prepare()
  await append('deal:1')
  const late = handlerOf(
    (_event, { signal, attempt }) =>
      new Promise<void>((resolve, reject) => {
        if (attempt > 1) resolve()
        signal.addEventListener('abort', () => setTimeout(() => reject(new RetryAfter('1ms')), 10))
      }),
    { timeout: '1s' },
  )
  const dispatcher = await start(openQueue(), [late])
  await until('tried again', () => logged('handled').length === 1)
  expect(dispatcher.failure()).toBeUndefined()
})

test('whatever a handler throws is a failure of its own, and reported as it is', async () => {
  const { dataDir, append, openQueue, start, logged } = await prepare()
  const thrown = [{ code: 'X1' }, Object.create(null), undefined, Symbol('x'), new Error('plain'), 'text']
  await append(...thrown.map((_, index) => `deal:${index}`))
  const throwing = handlerOf(({ object }) => {
    throw thrown[Number(object?.slice('deal:'.length))]
  })
  const dispatcher = await start(openQueue(), [throwing], { retryFor: 0 })
  await until('all are dead', () => logged('failed for good: this delivery is dead').length === thrown.length)
  expect(dispatcher.failure()).toBeUndefined()
  const db = new DatabaseSync(queuePath(dataDir), { readOnly: true })
  const kept = db.prepare('SELECT error FROM delivery ORDER BY key').all()
  db.close()
  expect(kept.map(({ error }) => error)).toEqual([
    "{ code: 'X1' }",
    '[Object: null prototype] {}',
    'undefined',
    'Symbol(x)',
    'Error: plain',
    "'text'",
  ])
})

test('no more run at once than concurrency allows, nor of one handler than it allows itself', async () => {
  const { append, openQueue, start } = await prepare()
  const running = new Map<string, number>()
  const most = new Map<string, number>()
  const count = (name: string, by: number) => {
    running.set(name, (running.get(name) ?? 0) + by)
    most.set(name, Math.max(most.get(name) ?? 0, running.get(name) ?? 0))
  }
  let ended = 0
  const counting = (name: string, options: HandlerOptions = {}) =>
    handlerOf(
      async () => {
        for (const one of [name, 'all']) count(one, 1)
        await new Promise((resolve) => setTimeout(resolve, 5))
        for (const one of [name, 'all']) count(one, -1)
        ended++
      },
      { name, ...options },
    )
  await append(...Array.from({ length: 30 }, (_, index) => `deal:${index}`))
  await start(openQueue(), [counting('free'), counting('two', { concurrency: 2 })], { concurrency: 5 })
  await until('all ended', () => ended === 60)
  expect(Object.fromEntries(most)).toMatchObject({ all: 5, two: 2 })
})

test('handlers that never wait leave the event loop turning between them', async () => {
  const { append, openQueue, start, logged } = await prepare()
  await append(...Array.from({ length: 200 }, (_, index) => `deal:${index}`))
  let turns = 0
  let next: NodeJS.Immediate
  const turn = () => {
    turns++
    next = setImmediate(turn)
  }
  turn()
  onTestFinished(() => clearImmediate(next))
  const seen = new Set<number>()
  await start(openQueue(), [handlerOf(() => void seen.add(turns))])
  await until('all handled', () => logged('handled').length === 200)
  expect(seen.size).toBeGreaterThan(5)
})

test('the position is stored with the deliveries it produced, so a restart neither skips nor doubles', async () => {
  const { append, openQueue, start } = await prepare()
  const seen: string[] = []
  const record = [handlerOf((event) => void seen.push(event.id))]
  for (let round = 0; round < 3; round++) {
    await append('deal:1', 'deal:2', `deal:${round}`)
    const queue = openQueue()
    const dispatcher = await start(queue, record)
    await until('all handled', () => seen.length === 3 * (round + 1))
    await dispatcher.stop(1_000)
    await queue.close()
  }
  expect([...seen].sort()).toEqual(['1', '2', '3', '4', '5', '6', '7', '8', '9'])
})

test('events that no handler wants move the position, too', async () => {
  const { append, openQueue, start } = await prepare()
  await append('deal:1')
  const queue = openQueue()
  await start(queue, [handlerOf(() => undefined, { events: 'ONTASKADD' })])
  const position = await until('a position', () => queue.position())
  expect(position).toMatchObject({ segment: 1 })
  expect(position.offset).toBeGreaterThan(0)
  expect(await queue.claim([want()], 10)).toEqual([])
})

test('a run that does not end within the grace is released, uncharged, and cannot fail afterwards', async () => {
  const { append, openQueue, start, logged } = await prepare()
  await append('deal:1', 'deal:2')
  const ends: (() => void)[] = []
  const queue = openQueue()
  const dispatcher = await start(queue, [handlerOf(() => new Promise<void>((resolve) => ends.push(resolve)))])
  await until('both run', () => ends.length === 2)
  await dispatcher.stop(0)
  await queue.close()
  for (const end of ends) end()
  await new Promise(setImmediate)
  expect(dispatcher.failure()).toBeUndefined()
  expect(logged('handled')).toEqual([])
  const next = openQueue()
  expect(await next.reclaim()).toBeUndefined()
  expect(await next.claim([want()], 10)).toMatchObject([{ attempt: 1 }, { attempt: 1 }])
})

test('a run that ends within the grace is done, and no other begins', async () => {
  const { append, openQueue, start, logged } = await prepare()
  await append('deal:1', 'deal:1')
  const ends: (() => void)[] = []
  const dispatcher = await start(openQueue(), [handlerOf(() => new Promise<void>((resolve) => ends.push(resolve)))])
  await until('it runs', () => ends.length === 1)
  const stopped = dispatcher.stop(60_000)
  ends[0]?.()
  await stopped
  expect(logged('handled')).toMatchObject([{ id: '1' }])
  expect(ends).toHaveLength(1)
})

test('a queue that fails ends the dispatcher, which says so', async () => {
  const { append, openQueue, start } = await prepare()
  const queue = openQueue()
  const failing: Queue = {
    ...queue,
    add: () => {
      throw new Error('the disk is full')
    },
  }
  const dispatcher = await start(failing, [handlerOf(() => undefined)])
  await append('deal:1')
  await expect(dispatcher.failed).rejects.toThrow('the disk is full')
  expect(await queue.position()).toBeUndefined()
})

const segmentsOf = async (dataDir: string) => (await listSegments(dataDir)).map(({ number }) => number)

async function age(dataDir: string, days: number, numbers: readonly number[]) {
  const time = new Date(Date.now() - days * day)
  for (const { number, path } of await listSegments(dataDir)) if (numbers.includes(number)) utimesSync(path, time, time)
}

test('a followed segment that is older than the retention is removed with its done deliveries', async () => {
  const { dataDir, append, openQueue, start, logged } = await prepare({ segmentSize: 1 })
  await append('deal:1', 'deal:2', 'deal:3', 'deal:4')
  const queue = openQueue()
  const handlers = [
    handlerOf(({ id }) => {
      if (id === '2') throw new Error('no')
    }),
  ]
  const first = await start(queue, handlers, { retryFor: 0 })
  await until('three handled', () => logged('handled').length === 3)
  await until('one dead', () => logged('failed for good: this delivery is dead').length === 1)
  await first.stop(1_000)
  await age(dataDir, 31, [1, 2])
  await age(dataDir, 29, [3])
  await start(queue, handlers)
  await until('two are gone', async () => (await segmentsOf(dataDir)).length === 2)
  expect(await segmentsOf(dataDir)).toEqual([3, 4])
  expect(existsSync(`${dataDir}/events.ndjson`)).toBe(true)
  // Done and forgotten with its segment; dead and kept; done and kept with its segment.
  await queue.add(
    ['1', '2', '3'].map((id) => ({
      handler: 'other',
      event: { ...eventOf(Number(id)), id },
      segment: 4,
      order: 'none',
      debounce: 0,
    })),
    { segment: 4, offset: 0 },
  )
  const again = ['1', '2', '3'].map((id) => ({
    handler: 'h',
    event: eventOf(Number(id)),
    segment: 4,
    order: 'none' as const,
    debounce: 0,
  }))
  await queue.add(again, { segment: 4, offset: 0 })
  expect((await queue.claim([want()], 10)).map(({ event: { id } }) => id)).toEqual(['1'])
})

test('a segment that was not followed to its end, or is the newest, stays, however old', async () => {
  const { dataDir, append, openQueue, start } = await prepare({ segmentSize: 1 })
  await append('deal:1', 'deal:2', 'deal:3')
  await age(dataDir, 3_000, [1, 2, 3])
  const queue = openQueue()
  // It stands at the start of the second: that one is not followed yet.
  const stalled = Promise.withResolvers<void>()
  const from = { segment: 2, offset: 0 }
  const first = await start({ ...queue, add: () => stalled.promise }, [handlerOf(() => undefined)], { from })
  await until('the first is gone', async () => (await segmentsOf(dataDir)).length === 2)
  stalled.resolve()
  await first.stop(1_000)
  expect(await segmentsOf(dataDir)).toEqual([2, 3])
  const second = await start(queue, [handlerOf(() => undefined)], { from })
  await until('all followed', async () => (await queue.position())?.segment === 3)
  await second.stop(1_000)
  await start(queue, [handlerOf(() => undefined)])
  await until('the second is gone', async () => (await segmentsOf(dataDir)).length === 1)
  expect(await segmentsOf(dataDir)).toEqual([3])
})

test('a stop in the midst of removing old segments is no failure', async () => {
  const { dataDir, append, openQueue, start } = await prepare({ segmentSize: 1 })
  const objects = Array.from({ length: 40 }, (_, index) => `deal:${index}`)
  await append(...objects)
  await age(
    dataDir,
    31,
    Array.from({ length: 39 }, (_, index) => index + 1),
  )
  const queue = openQueue()
  await queue.add([], { segment: 40, offset: 0 })
  const dispatcher = await start(queue, [])
  await until('some are gone', async () => (await segmentsOf(dataDir)).length < 40)
  await dispatcher.stop(0)
  await queue.close()
  const left = await segmentsOf(dataDir)
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect(await segmentsOf(dataDir)).toEqual(left)
  expect(dispatcher.failure()).toBeUndefined()
})

test('an end that cannot be written down is no failure of the handler', async () => {
  const { append, openQueue, start, logged } = await prepare()
  const queue = openQueue()
  onTestFinished(() => queue.close())
  await append('deal:1')
  const retries: string[] = []
  const dispatcher = await start(
    {
      ...queue,
      done: () => {
        throw new Error('the disk is full')
      },
      retry: (delivery, again) => {
        retries.push(again.error)
        return queue.retry(delivery, again)
      },
    },
    [handlerOf(() => undefined)],
  )
  await expect(dispatcher.failed).rejects.toThrow('the disk is full')
  expect(retries).toEqual([])
  expect(logged('failed, will be tried again')).toEqual([])
})

test('what a handler does to its event, the queue never sees', async () => {
  const { append, openQueue, start } = await prepare()
  const queue = openQueue()
  onTestFinished(() => queue.close())
  await append('deal:1')
  const ids: string[] = []
  await start(queue, [
    handlerOf((event) => {
      ids.push(event.id)
      Object.assign(event, { id: 'another', object: 'deal:2', auth: null })
      if (ids.length === 1) throw new RetryAfter('1ms')
    }),
  ])
  await until('it ran again', () => ids.length > 1)
  expect(ids).toEqual(['1', '1'])
})

test('a clock that is put 73 hours ahead between two tries kills nothing', async () => {
  const { append, openQueue, start, logged } = await prepare()
  await append('deal:1')
  const offset = vi.spyOn(Date, 'now')
  onTestFinished(() => offset.mockRestore())
  const real = performance.timeOrigin
  let ahead = 0
  offset.mockImplementation(() => Math.round(real + performance.now()) + ahead)
  const failing = handlerOf((_event, { attempt }) => {
    ahead += 73 * 3_600_000
    if (attempt < 4) throw new Error('no')
  })
  await start(openQueue(), [failing], { retryFor: 72 * 3_600_000 })
  const ended = ['handled', 'failed for good: this delivery is dead']
  // Its end, too, would be put ahead.
  await until('it ends', () => ended.some((msg) => logged(msg).length > 0), Number.POSITIVE_INFINITY)
  expect(logged('handled')).toMatchObject([{ attempt: 4 }])
})

test('RetryAfter beyond RETRY_FOR is refused, with the reason in the log and in the queue, and tried again', async () => {
  const { append, openQueue, start, logged, dataDir } = await prepare()
  await append('deal:1')
  const impatient = handlerOf((_event, { attempt }) => {
    if (attempt < 3) throw new RetryAfter('4d')
  })
  await start(openQueue(), [impatient], { retryFor: 72 * 3_600_000 })
  await until('handled', () => logged('handled').length === 1)
  const refused = expect.stringMatching(/a delay of 96h is longer than the 7[12]h that are left of RETRY_FOR: refused/)
  expect(logged('failed, will be tried again')).toMatchObject([{ refused }, { refused }])
  const deliveries = openSqliteDeliveries({ path: queuePath(dataDir), mode: 'read' })
  onTestFinished(() => deliveries.close())
  expect((await deliveries.ofEvent('1')).map(({ error }) => error)).toEqual([
    expect.stringMatching(/^RetryAfter: retry after 4d \(a delay of 96h is longer than .* RETRY_FOR: refused\)$/),
  ])
})

test('an error of megabytes leaves its beginning in the queue, and one without a text is reported as such', async () => {
  const { append, openQueue, start, logged, dataDir } = await prepare()
  await append('deal:1', 'deal:2')
  const throwing = handlerOf((event) => {
    if (event.object === 'deal:1') throw new FinalError('x'.repeat(5_000_000), { cause: 'y'.repeat(5_000_000) })
    const none = new FinalError('')
    none.toString = () => {
      throw new Error('no text')
    }
    throw none
  })
  await start(openQueue(), [throwing])
  await until('both are dead', () => logged('failed for good: this delivery is dead').length === 2)
  const deliveries = openSqliteDeliveries({ path: queuePath(dataDir), mode: 'read' })
  onTestFinished(() => deliveries.close())
  const errors = (await deliveries.dead({})).map(({ error = '' }) => error)
  expect(errors[0]).toMatch(/^FinalError: x+… \(5000012 characters\)$/)
  expect(errors[1]).toBe('what the handler threw cannot be made a text')
  expect(statSync(queuePath(dataDir)).size + statSync(`${queuePath(dataDir)}-wal`).size).toBeLessThan(1_000_000)
})
