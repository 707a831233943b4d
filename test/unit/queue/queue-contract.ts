import { describe, expect, test } from 'vitest'
import { nextTry } from '../../../src/dispatch/retry.ts'
import type { JournalledEvent } from '../../../src/events/event.ts'
import type { Awaitable, Delivery, KnownHandler, NewDelivery, Queue, Wanted } from '../../../src/queue/queue.ts'
import { fc } from '../../support/random.ts'

/** Opens a queue on a store of its own. */
export type OpenEngine = (now: () => number) => Awaitable<{
  readonly queue: Queue
  /** The same store as the next process sees it; the first may be gone without a word. */
  readonly reopen: () => Awaitable<Queue>
}>

export const here = { segment: 1, offset: 0 }

export function eventOf(
  id: number,
  object?: string,
  { portal = 'one', name = 'ONCRMDEALUPDATE' } = {},
): JournalledEvent {
  return {
    level: 30,
    time: '2026-11-23T08:00:00.000Z',
    msg: '',
    id: String(id),
    event: name,
    ...(object !== undefined && { object }),
    auth: { member_id: portal },
    remote: '::1',
  }
}

export function deliveryOf(event: JournalledEvent, more: Partial<NewDelivery> = {}): NewDelivery {
  return { handler: 'h', event, segment: 1, order: 'object', debounce: 0, ...more }
}

export function known(name: string, more: Partial<KnownHandler> = {}): KnownHandler {
  return { name, events: ['ONCRMDEALUPDATE'], order: 'object', debounce: 0, onChange: false, ...more }
}

export function want(handler = 'h', more: Partial<Wanted> = {}): Wanted {
  return { handler, limit: 100, coalesce: false, ...more }
}

/** How many deliveries are pending for each handler. */
export async function pendingOf(queue: Queue): Promise<Map<string, number>> {
  return new Map((await queue.handlers()).map(({ name, pending }) => [name, pending]))
}

/** What is to run of the fixtures that hold a delivery in every state, as an earlier version left them. */
export const runsOfEveryState = ['h 1', 'h 2', 'h 4', 'h 6', 'h 7', 'h 8', 'm 10 of 2', 'p 11', 'quiet 1']

/** Runs everything in such a fixture. @returns what ran, sorted */
export async function runEveryState(queue: Queue, wait: (ms: number) => unknown): Promise<string[]> {
  expect(await queue.position()).toEqual({ segment: 1, offset: 6_200, first: '1' })
  // Two ran when their process ended: nobody knows which of them ended it.
  expect(await queue.reclaim()).toBeUndefined()
  expect(await queue.state()).toMatchObject({ ready: 4, running: 0, waiting: 3, blocked: 2, dead: 1 })
  expect(await queue.snapshot({ ...deliveryLike('deal:1'), handler: 'watch' })).toEqual({
    fields: { STAGE_ID: '"NEW"' },
    isDirty: false,
  })
  const ended: string[] = []
  const handlers = ['h', 'm', 'p', 'quiet', 'watch'].map((name) => want(name))
  const run = async () => {
    for (let some = await queue.claim(handlers, 10); some.length > 0; some = await queue.claim(handlers, 10))
      for (const delivery of some) {
        ended.push(
          `${delivery.handler} ${delivery.event.id}${delivery.coalesced > 1 ? ` of ${delivery.coalesced}` : ''}`,
        )
        expect(delivery.unreadable).toBeUndefined()
        if (delivery.event.id === '4') expect(delivery).toMatchObject({ attempt: 2, spentMs: 1_500 })
        await queue.done(delivery)
      }
  }
  await run()
  // They run in isolation, before the others; the object of each goes on after it.
  expect(ended.filter((one) => /h [12]$/.test(one))).toEqual(['h 1', 'h 2'])
  expect(ended.filter((one) => /h [78]$/.test(one))).toEqual(['h 7', 'h 8'])
  await wait(60_000)
  await run()
  await queue.resumePostponed()
  await run()
  expect(await queue.state()).toMatchObject({ ready: 0, running: 0, waiting: 0, blocked: 0, dead: 1 })
  return ended.toSorted()
}

/** What every engine of deliveries must do. */
export function describeQueue(engine: string, open: OpenEngine): void {
  async function start() {
    const clock = { now: 1_000_000 }
    const { queue, reopen } = await open(() => clock.now)
    return { clock, queue, reopen, ...tools(queue) }
  }

  describe(`${engine}: what ended`, () => {
    test('does not begin again, whatever is said of it afterwards', async () => {
      const { queue, add, claim } = await start()
      await add(eventOf(1, 'deal:1'))
      const done = got((await claim())[0])
      await queue.done(done)
      const late = [
        () => queue.retry(done, { due: 0, error: 'late' }),
        () => queue.dead(done, 'late'),
        () => queue.postpone(done, { due: 0, error: 'late' }),
        () => queue.release(done),
        () => queue.resumePostponed(),
      ]
      for (const say of late) await (async () => say())().catch(() => undefined)
      expect(await claim()).toEqual([])
      expect(await queue.state()).toMatchObject({ ready: 0, running: 0, waiting: 0, blocked: 0, dead: 0 })
    })
  })

  describe(`${engine}: order`, () => {
    test('one object is claimed one at a time and in order, other objects meanwhile', async () => {
      const { queue, add, claim, ids } = await start()
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:1'), eventOf(3, 'deal:2'), eventOf(4, 'deal:1'))
      const [first, other] = await claim()
      expect([first?.event.id, other?.event.id]).toEqual(['1', '3'])
      expect(await ids()).toEqual([])
      await queue.done(got(first))
      const [second] = await claim()
      expect(second?.event.id).toBe('2')
      await queue.done(got(second))
      expect(await ids()).toEqual(['4'])
    })

    test('what arrives while its object runs waits for the end of the run', async () => {
      const { queue, add, claim, ids } = await start()
      await add(eventOf(1, 'deal:1'))
      const [first] = await claim()
      await add(eventOf(2, 'deal:1'))
      expect(await ids()).toEqual([])
      await queue.done(got(first))
      expect(await ids()).toEqual(['2'])
    })

    test('the same object number on two portals is two objects', async () => {
      const { add, ids } = await start()
      await add(eventOf(1, 'deal:1', { portal: 'one' }), eventOf(2, 'deal:1', { portal: 'two' }))
      expect(await ids()).toEqual(['1', '2'])
    })

    test('a portal without member_id is known by its domain', async () => {
      const { add, ids } = await start()
      const on = (id: number, domain: string) => ({ ...eventOf(id, 'deal:1'), auth: { domain } })
      await add(on(1, 'a.example'), on(2, 'b.example'), on(3, 'a.example'))
      expect(await ids()).toEqual(['1', '2'])
    })

    test('one object is no matter of order between two handlers', async () => {
      const { queue, ids } = await start()
      await queue.add(
        ['h', 'other'].map((handler) => deliveryOf(eventOf(1, 'deal:1'), { handler })),
        here,
      )
      expect(await ids([want('h'), want('other')])).toEqual(['1', '1'])
    })

    test('events without an object have no order', async () => {
      const { add, ids } = await start()
      await add(eventOf(1), eventOf(2), eventOf(3))
      expect(await ids()).toEqual(['1', '2', '3'])
    })

    test("with order 'none' events of one object run beside each other", async () => {
      const { queue, ids } = await start()
      const loose = [1, 2, 3].map((id) => deliveryOf(eventOf(id, 'deal:1'), { order: 'none' }))
      await queue.add(loose, here)
      expect(await ids()).toEqual(['1', '2', '3'])
    })

    test('only deliveries of the handlers asked for are claimed, the oldest first, no more than asked for', async () => {
      const { queue, ids } = await start()
      const both = [1, 2, 3, 4, 5, 6].map((id) => deliveryOf(eventOf(id), { handler: id % 2 ? 'odd' : 'even' }))
      await queue.add(both, here)
      expect(await ids([want('odd'), want('even')], 2)).toEqual(['1', '2'])
      expect(await ids([want('even')])).toEqual(['4', '6'])
      expect(await ids([want('odd', { limit: 0 })])).toEqual([])
    })

    test("a handler's own limit leaves room for the others", async () => {
      const { queue, ids } = await start()
      const both = [1, 2, 3, 4, 5, 6].map((id) => deliveryOf(eventOf(id), { handler: id < 5 ? 'slow' : 'quick' }))
      await queue.add(both, here)
      expect(await ids([want('slow', { limit: 1 }), want('quick')], 4)).toEqual(['1', '5', '6'])
    })
  })

  describe(`${engine}: one event, one delivery`, () => {
    test('an event is added once and the position is the last one given', async () => {
      const { queue, reopen } = await start()
      expect(await queue.position()).toBeUndefined()
      await queue.add([deliveryOf(eventOf(1))], { segment: 1, offset: 100 })
      await queue.add([deliveryOf(eventOf(1)), deliveryOf(eventOf(2))], { segment: 2, offset: 7, first: '1' })
      const next = await reopen()
      expect(await next.position()).toEqual({ segment: 2, offset: 7, first: '1' })
      expect(await tools(next).ids()).toEqual(['1', '2'])
    })

    test('an event that was handled and is read again is not pending again', async () => {
      const { queue, add, claim, ids } = await start()
      await add(eventOf(1, 'deal:1'))
      await queue.done(got((await claim())[0]))
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:1'))
      expect(await ids()).toEqual(['2'])
    })

    test('the deliveries and the position after them are kept both or neither', async () => {
      const { queue, add, ids } = await start()
      await add()
      const unwritable = deliveryOf({ ...eventOf(2), remote: 1n as never })
      const failing = async () => queue.add([deliveryOf(eventOf(1)), unwritable], { segment: 9, offset: 9 })
      await expect(failing()).rejects.toThrow(TypeError)
      expect(await queue.position()).toEqual(here)
      expect(await ids()).toEqual([])
      await add(eventOf(3))
      expect(await ids()).toEqual(['3'])
    })
  })

  describe(`${engine}: retry and death`, () => {
    test('while a delivery waits for its retry its object waits, and it is claimed again when it is due', async () => {
      const { clock, queue, add, claim, ids } = await start()
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:1'), eventOf(3, 'deal:2'))
      const [first, other] = await claim()
      await queue.retry(got(first), { due: clock.now + 4_000, error: 'no', spentMs: 4_321 })
      await queue.done(got(other))
      expect(await queue.nextDue()).toBe(clock.now + 4_000)
      clock.now += 3_999
      expect(await ids()).toEqual([])
      clock.now += 1
      const [again] = await claim()
      expect(again).toMatchObject({ event: { id: '1' }, attempt: 2, spentMs: 4_321 })
      expect(await queue.nextDue()).toBeUndefined()
      await queue.done(got(again))
      // What waited behind it has all of its own time.
      expect((await claim())[0]).toMatchObject({ event: { id: '2' }, attempt: 1, spentMs: 0 })
    })

    test('the time that a delivery has used is kept by the next process, also by one that takes it over', async () => {
      const { clock, queue, add, claim, reopen } = await start()
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:2'))
      for (const one of await claim()) await queue.retry(one, { due: clock.now, error: 'no', spentMs: 1_000 })
      await queue.release(got((await claim())[0]))
      const again = await claim([want()], 1)
      expect(again).toMatchObject([{ attempt: 2, spentMs: 1_000 }])
      await queue.done(got(again[0]))
      const next = await reopen()
      expect(await next.reclaim()).toMatchObject({ event: { id: '2' }, attempt: 2, spentMs: 1_000 })
    })

    const hour = 3_600_000
    const jump = fc.constantFrom('due', 'ahead', 'back', 'down', 'postponed', 'released')

    test.for([
      ['is put ahead', 'ahead'],
      ['is put back', 'back'],
      ['goes on while the process is down', 'down'],
    ] as const)('a delivery gets all of its time when the clock %s', async ([, how]) => {
      const { clock, queue, reopen } = await start()
      expect(await tryUntilDead({ clock, queue, reopen, jumps: [how] })).toBeGreaterThan(11 * hour)
    })

    test('a delivery gets all of its time whatever the clock and its process do', async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(jump, { minLength: 1, maxLength: 12 }), async (jumps) => {
          const { clock, queue, reopen } = await start()
          expect(await tryUntilDead({ clock, queue, reopen, jumps: ['due', ...jumps] })).toBeGreaterThan(11 * hour)
        }),
        { numRuns: 6 },
      )
    })

    test('a dead delivery lets its object go on and is never run again', async () => {
      const { clock, queue, add, claim, reopen } = await start()
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:1'))
      await queue.dead(got((await claim())[0]), 'no such deal')
      const [second] = await claim()
      expect(second?.event.id).toBe('2')
      await queue.done(got(second))
      clock.now += 1e9
      const next = await reopen()
      expect(await next.reclaim()).toBeUndefined()
      expect(await tools(next).ids()).toEqual([])
    })

    test('a delivery that is released is ready again at once and its attempt was none', async () => {
      const { queue, add, claim } = await start()
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:1'))
      await queue.release(got((await claim())[0]))
      const again = await claim()
      expect(again).toMatchObject([{ event: { id: '1' }, attempt: 1 }])
    })

    test('a postponed delivery waits like a retry, its object behind it, without an attempt or a used time', async () => {
      const { clock, queue, add, claim, ids } = await start()
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:1'))
      await queue.retry(got((await claim())[0]), { due: clock.now, error: 'no', spentMs: 9 })
      await queue.postpone(got((await claim())[0]), { due: clock.now + 60_000, error: 'nobody is there' })
      await add(eventOf(3, 'deal:1'))
      expect(await queue.nextDue()).toBe(clock.now + 60_000)
      clock.now += 59_999
      expect(await ids()).toEqual([])
      clock.now += 1
      const [again] = await claim()
      expect(again).toMatchObject({ event: { id: '1' }, attempt: 2, spentMs: 0 })
      await queue.done(got(again))
      expect(await claim()).toMatchObject([{ event: { id: '2' }, attempt: 1 }])
    })

    test('what is postponed is due at once when it is resumed, also in the next process; a retry is not', async () => {
      const { clock, queue, add, claim, ids, reopen } = await start()
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:2'))
      const [first, second] = await claim()
      await queue.postpone(got(first), { due: clock.now + 60_000, error: 'nobody is there' })
      await queue.retry(got(second), { due: clock.now + 60_000, error: 'no' })
      const next = await reopen()
      await next.resumePostponed()
      const [again, ...none] = await tools(next).claim()
      expect([again?.event.id, none]).toEqual(['1', []])
      expect(again?.attempt).toBe(1)
      await next.retry(got(again), { due: clock.now + 60_000, error: 'no' })
      await next.resumePostponed()
      expect(await ids()).toEqual([])
    })

    test('after the clock was put back, what waits too long is due now, what waits since then is not', async () => {
      const { clock, queue, add, claim, ids } = await start()
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:2'))
      const [first, second] = await claim()
      await queue.retry(got(first), { due: clock.now + 5_000, error: 'no' })
      clock.now -= 3_600_000
      await queue.retry(got(second), { due: clock.now + 5_000, error: 'no' })
      expect(await ids()).toEqual(['1'])
      clock.now += 5_000
      expect(await ids()).toEqual(['2'])
    })
  })

  describe(`${engine}: coalesce`, () => {
    const merge = [want('h', { coalesce: true })]
    const mergeAll = [want('h', { coalesce: 'object' })]

    test('what waits when a run starts becomes one run with the newest event; what comes later is the next', async () => {
      const { queue, add, claim } = await start()
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:1'), eventOf(3, 'deal:1'))
      const run = await claim(merge)
      expect(run).toMatchObject([{ event: { id: '3' }, coalesced: 3, attempt: 1 }])
      await add(eventOf(4, 'deal:1'), eventOf(5, 'deal:1'))
      expect(await claim(merge)).toEqual([])
      await queue.done(got(run[0]))
      const next = await claim(merge)
      expect(next).toMatchObject([{ event: { id: '5' }, coalesced: 2 }])
      await queue.done(got(next[0]))
      expect(await claim(merge)).toEqual([])
      await queue.registerHandlers([known('h')])
      expect(await pendingOf(queue)).toEqual(new Map([['h', 0]]))
    })

    test('what came after an event of another name does not overtake it', async () => {
      const { queue, add, claim } = await start()
      const added = { name: 'ONCRMDEALADD' }
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:1'), eventOf(3, 'deal:1', added), eventOf(4, 'deal:1'))
      for (const expected of [
        { event: { id: '2' }, coalesced: 2 },
        { event: { id: '3' }, coalesced: 1 },
        { event: { id: '4' }, coalesced: 1 },
      ]) {
        const run = await claim(merge)
        expect(run).toMatchObject([expected])
        await queue.done(got(run[0]))
      }
    })

    test("'object' takes every name of the handler into one run", async () => {
      const { add, claim } = await start()
      await add(eventOf(1, 'deal:1', { name: 'ONCRMDEALADD' }), eventOf(2, 'deal:1'), eventOf(3, 'deal:2'))
      expect(await claim(mergeAll)).toMatchObject([
        { event: { id: '2' }, coalesced: 2 },
        { event: { id: '3' }, coalesced: 1 },
      ])
    })

    test("'object' takes what came before a deletion into its run, and never the deletion into a later one", async () => {
      const { clock, queue, add, claim } = await start()
      const gone = { name: 'ONCRMDEALDELETE' }
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:1', gone), eventOf(3, 'deal:1'), eventOf(4, 'deal:1'))
      const deletion = await claim(mergeAll)
      expect(deletion).toMatchObject([{ event: { id: '2' }, coalesced: 2 }])
      await queue.retry(got(deletion[0]), { due: clock.now, error: 'no' })
      const again = await claim(mergeAll)
      expect(again).toMatchObject([{ event: { id: '2' }, coalesced: 2, attempt: 2 }])
      await queue.done(got(again[0]))
      expect(await claim(mergeAll)).toMatchObject([{ event: { id: '4' }, coalesced: 2 }])
    })

    test('two portals with the same deal id never share a run', async () => {
      const { queue, add, claim } = await start()
      const many = Array.from({ length: 20 }, (_, index) => eventOf(index, 'deal:662', { portal: `${index % 2}` }))
      await add(...many)
      for (const wanted of [merge, mergeAll]) {
        const runs = await claim(wanted)
        expect(runs.map(({ event: { auth }, coalesced }) => [auth?.['member_id'], coalesced])).toEqual([
          ['0', 10],
          ['1', 10],
        ])
        for (const run of runs) await queue.release(run)
      }
    })

    test('events without an object are never one run', async () => {
      const { add, claim } = await start()
      await add(eventOf(1), eventOf(2))
      expect(await claim(mergeAll)).toMatchObject([{ coalesced: 1 }, { coalesced: 1 }])
    })

    test('a run that is tried again takes what came meanwhile along and counts them all', async () => {
      const { clock, queue, add, claim, reopen } = await start()
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:1'))
      await queue.retry(got((await claim(merge))[0]), { due: clock.now + 1_000, error: 'no' })
      await add(eventOf(3, 'deal:1'), eventOf(4, 'deal:1'))
      clock.now += 1_000
      const again = await claim(merge)
      expect(again).toMatchObject([{ event: { id: '4' }, coalesced: 4, attempt: 2 }])
      await queue.release(got(again[0]))
      expect(await claim(merge)).toMatchObject([{ event: { id: '4' }, coalesced: 4, attempt: 2 }])
      expect(await (await reopen()).reclaim()).toMatchObject({ event: { id: '4' }, coalesced: 4, attempt: 2 })
    })

    test('the object goes on behind a coalesced run that is dead', async () => {
      const { queue, add, claim } = await start()
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:1'))
      const [run] = await claim(merge)
      await add(eventOf(3, 'deal:1'))
      await queue.dead(got(run), 'no')
      expect(await claim(merge)).toMatchObject([{ event: { id: '3' }, coalesced: 1, attempt: 1 }])
    })
  })

  describe(`${engine}: debounce`, () => {
    const debounce = 10_000
    const slowly = (...events: JournalledEvent[]) => events.map((event) => deliveryOf(event, { debounce }))

    test('a delivery waits for quiet, every event about its object prolongs it, none about another does', async () => {
      const { clock, queue, ids } = await start()
      await queue.add(slowly(eventOf(1, 'deal:1')), here)
      clock.now += 6_000
      await queue.add(slowly(eventOf(2, 'deal:1'), eventOf(3, 'deal:1', { portal: 'two' })), here)
      clock.now += 6_000
      expect(await ids()).toEqual([])
      expect(await queue.nextDue()).toBe(clock.now + 4_000)
      clock.now += 4_000
      expect(await ids()).toEqual(['1', '3'])
    })

    test('a burst that never ends holds its first event ten times as long, no longer', async () => {
      const { clock, queue, ids } = await start()
      const begun = clock.now
      for (let id = 1; clock.now < begun + 10 * debounce; id++) {
        await queue.add(slowly(eventOf(id, 'deal:1')), here)
        expect(await ids()).toEqual([])
        clock.now += debounce / 2
      }
      expect(await ids()).toEqual(['1'])
    })

    test('with coalesce a whole burst is one run', async () => {
      const { clock, queue, claim } = await start()
      for (let id = 1; id <= 5; id++) {
        await queue.add(slowly(eventOf(id, 'deal:1')), here)
        clock.now += debounce / 2
      }
      clock.now += debounce / 2
      expect(await claim([want('h', { coalesce: true })])).toMatchObject([{ event: { id: '5' }, coalesced: 5 }])
    })

    test('behind a run, the wait begins with the newest event, so an object that is quiet since does not wait', async () => {
      const { clock, queue, claim, ids } = await start()
      await queue.add(slowly(eventOf(1, 'deal:1')), here)
      clock.now += debounce
      const [first] = await claim()
      await queue.add(slowly(eventOf(2, 'deal:1')), here)
      clock.now += debounce - 1
      await queue.done(got(first))
      expect(await ids()).toEqual([])
      clock.now += 1
      const [second] = await claim()
      expect(second?.event.id).toBe('2')
      await queue.add(slowly(eventOf(3, 'deal:1')), here)
      clock.now += debounce
      await queue.done(got(second))
      expect(await ids()).toEqual(['3'])
    })

    test('an event behind a delivery that waits for its retry does not put the retry off', async () => {
      const { clock, queue, claim, ids } = await start()
      await queue.add(slowly(eventOf(1, 'deal:1')), here)
      clock.now += debounce
      await queue.retry(got((await claim())[0]), { due: clock.now + 5_000, error: 'no' })
      clock.now += 4_000
      await queue.add(slowly(eventOf(2, 'deal:1')), here)
      expect(await queue.nextDue()).toBe(clock.now + 1_000)
      clock.now += 1_000
      expect(await ids()).toEqual(['1'])
    })

    test('an event behind a delivery that is postponed does not put it off, nor call it', async () => {
      const { clock, queue, claim, ids } = await start()
      await queue.add(slowly(eventOf(1, 'deal:1')), here)
      clock.now += debounce
      await queue.postpone(got((await claim())[0]), { due: clock.now + 60_000, error: 'nobody is there' })
      clock.now += 1_000
      await queue.add(slowly(eventOf(2, 'deal:1')), here)
      expect(await queue.nextDue()).toBe(clock.now + 59_000)
      await queue.resumePostponed()
      expect(await ids()).toEqual(['1'])
    })

    test('events without an object wait each for itself', async () => {
      const { clock, queue, ids } = await start()
      await queue.add(slowly(eventOf(1)), here)
      clock.now += 5_000
      await queue.add(slowly(eventOf(2)), here)
      clock.now += 5_000
      expect(await ids()).toEqual(['1'])
    })
  })

  describe(`${engine}: after a crash`, () => {
    test('nothing ran: nothing is charged', async () => {
      const { add, reopen } = await start()
      await add(eventOf(1, 'deal:1'))
      const next = await reopen()
      expect(await next.reclaim()).toBeUndefined()
      expect(await tools(next).claim()).toMatchObject([{ event: { id: '1' }, attempt: 1 }])
    })

    test('one ran: it is given back, still claimed, and its attempt counts', async () => {
      const { clock, add, claim, reopen } = await start()
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:1'), eventOf(3, 'deal:3'))
      await claim([want('h')], 1)
      const next = await reopen()
      const guilty = await next.reclaim()
      expect(guilty).toMatchObject({ event: { id: '1' }, attempt: 1 })
      await next.retry(got(guilty), { due: clock.now + 1_000, error: 'it died', alone: true })
      const [innocent] = await tools(next).claim()
      expect(innocent?.event.id).toBe('3')
      clock.now += 1_000
      // Its retry is due, but nothing may run beside it.
      expect(await tools(next).ids()).toEqual([])
      await next.done(got(innocent))
      expect(await tools(next).claim()).toMatchObject([{ event: { id: '1' }, attempt: 2 }])
    })

    test('several ran: they are quarantined, uncharged, each runs alone, and the one that crashes is charged', async () => {
      const { clock, add, claim, reopen } = await start()
      await add(...[1, 2, 3, 4].map((id) => eventOf(id, `deal:${id}`)), eventOf(5, 'deal:1'))
      expect(await claim([want('h')], 3)).toHaveLength(3)
      const second = await reopen()
      expect(await second.reclaim()).toBeUndefined()
      const [first, ...rest] = await tools(second).claim()
      expect(rest).toEqual([])
      expect(first).toMatchObject({ event: { id: '1' }, attempt: 1 })
      expect(await tools(second).ids()).toEqual([])
      await second.done(got(first))
      expect(await tools(second).claim()).toMatchObject([{ event: { id: '2' }, attempt: 1 }])

      const third = await reopen()
      const guilty = await third.reclaim()
      expect(guilty).toMatchObject({ event: { id: '2' }, attempt: 1 })
      await third.retry(got(guilty), { due: clock.now + 1_000, error: 'it died', alone: true })
      const [last, ...none] = await tools(third).claim()
      expect(none).toEqual([])
      expect(last).toMatchObject({ event: { id: '3' }, attempt: 1 })
      await third.done(got(last))
      // Nobody is suspected any more.
      expect(await tools(third).ids()).toEqual(['4', '5'])
    })

    test('a quarantined one that is postponed is still one', async () => {
      const { clock, queue, add, reopen } = await start()
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:2'), eventOf(3, 'deal:3'))
      await tools(queue).claim([want()], 2)
      const next = await reopen()
      await next.reclaim()
      await next.postpone(got((await tools(next).claim())[0]), { due: clock.now + 60_000, error: 'nobody is there' })
      await next.done(got((await tools(next).claim())[0]))
      await next.resumePostponed()
      expect(await tools(next).ids()).toEqual(['1'])
    })

    test('a quarantined one whose handler is gone delays no other', async () => {
      const { queue, reopen } = await start()
      const both = [1, 2, 3, 4].map((id) => deliveryOf(eventOf(id), { handler: id < 3 ? 'gone' : 'h' }))
      await queue.add(both, here)
      expect(await tools(queue).ids([want('gone'), want('h', { limit: 0 })])).toEqual(['1', '2'])
      const next = await reopen()
      await next.reclaim()
      expect(await tools(next).ids([want('h')])).toEqual(['3', '4'])
    })

    test('a quarantined one keeps the order of its object', async () => {
      const { add, claim, reopen } = await start()
      await add(eventOf(1, 'deal:1'), eventOf(2, 'deal:2'), eventOf(3, 'deal:1'))
      await claim()
      const next = await reopen()
      await next.reclaim()
      const order: string[] = []
      for (let runs = 0; runs < 3; runs++) {
        const [run] = await tools(next).claim()
        order.push(got(run).event.id)
        await next.done(got(run))
      }
      expect(order).toEqual(['1', '2', '3'])
    })
  })

  describe(`${engine}: what is kept`, () => {
    test('what was done is forgotten with its segment; what is pending or dead never is', async () => {
      const { clock, queue, claim, ids } = await start()
      const add = (id: number, segment: number) => queue.add([deliveryOf(eventOf(id, `deal:${id}`), { segment })], here)
      for (const [id, segment] of [
        [1, 1],
        [2, 1],
        [3, 1],
        [4, 1],
        [5, 2],
      ] as const)
        await add(id, segment)
      const [done, dead, again, released, other] = await claim()
      await queue.done(got(done))
      await queue.dead(got(dead), 'no')
      await queue.retry(got(again), { due: clock.now + 1_000, error: 'no' })
      await queue.release(got(released))
      await queue.done(got(other))
      await queue.prune(1)
      // What is forgotten would be taken for new.
      for (let id = 1; id <= 5; id++) await add(id, 3)
      clock.now += 1_000
      expect(await ids()).toEqual(['3', '4', '1'])
    })

    test('a handler is remembered as it was last loaded', async () => {
      const { queue, reopen } = await start()
      await queue.registerHandlers([known('h'), known('all', { events: ['A*', 'B'], order: 'none', debounce: 5_000 })])
      const all = { name: 'all', events: ['A*', 'B'], order: 'none', debounce: 5_000 }
      const h = { name: 'h', events: ['ONCRMDEALUPDATE'], order: 'object', debounce: 0 }
      expect(await queue.handlers()).toMatchObject([all, h])
      expect(await (await reopen()).handlers()).toMatchObject([all, h])
    })

    test('what is kept for a handler that is not loaded is added only while that is known', async () => {
      const { queue, ids } = await start()
      await queue.registerHandlers([known('h')])
      const kept = (id: number, handler: string) => deliveryOf(eventOf(id, `deal:${id}`), { handler, isAbsent: true })
      await queue.add([kept(1, 'h'), kept(2, 'forgotten'), deliveryOf(eventOf(3, 'deal:3'))], { segment: 2, offset: 7 })
      expect(await queue.state()).toMatchObject({ ready: 2, blocked: 0 })
      expect(await queue.position()).toMatchObject({ segment: 2, offset: 7 })
      expect(await ids()).toEqual(['1', '3'])
    })

    test('a handler is remembered, with how many deliveries are pending for it', async () => {
      const { clock, queue, add, claim, reopen } = await start()
      await queue.registerHandlers([known('h'), known('never')])
      await queue.registerHandlers([known('h')])
      await add(...[1, 2, 3, 4, 5].map((id) => eventOf(id, 'deal:1')), eventOf(6, 'deal:2'), eventOf(7, 'deal:3'))
      const [running, retried, dead] = await claim()
      await queue.retry(got(retried), { due: clock.now + 1_000, error: 'no' })
      await queue.dead(got(dead), 'no')
      const expected = new Map([
        ['h', 6],
        ['never', 0],
      ])
      expect(await pendingOf(queue)).toEqual(expected)
      expect(await pendingOf(await reopen())).toEqual(expected)
      await queue.done(got(running))
      expect(await pendingOf(queue)).toEqual(expected.set('h', 5))
    })
  })

  describe(`${engine}: what a handler saw`, () => {
    const won = { stageId: '"WON"' }
    const lost = { stageId: '"LOSE"', title: '"Boat"' }

    async function startSnapshots() {
      const all = await start()
      const { queue } = all
      let last = 0
      /** A delivery that runs. */
      const run = async (object = 'deal:1', { portal = 'one', handler = 'h' } = {}) => {
        await queue.add([deliveryOf(eventOf(++last, object, { portal }), { handler })], here)
        return got((await queue.claim([want(handler)], 1))[0])
      }
      await queue.done(await run(), won)
      return { ...all, run }
    }

    test('is kept with the end of its delivery, for its handler, portal and object, also for the next process', async () => {
      const { queue, run, reopen } = await startSnapshots()
      const kept = { fields: won, isDirty: false }
      expect(await queue.snapshot(await run())).toEqual(kept)
      expect(await queue.snapshot(await run('deal:2'))).toBeUndefined()
      expect(await queue.snapshot(await run('deal:1', { portal: 'two' }))).toBeUndefined()
      expect(await queue.snapshot(await run('deal:1', { handler: 'other' }))).toBeUndefined()
      expect(await (await reopen()).snapshot(deliveryLike('deal:1'))).toEqual(kept)
    })

    test('is what the last one kept: all of it, nothing after null, and the same where nothing is said', async () => {
      const { queue, run } = await startSnapshots()
      await queue.done(await run(), lost)
      await queue.done(await run())
      expect(await queue.snapshot(deliveryLike('deal:1'))).toEqual({ fields: lost, isDirty: false })
      await queue.done(await run(), null)
      expect(await queue.snapshot(deliveryLike('deal:1'))).toBeUndefined()
    })

    test('stays as it is when a run fails, waits, is released, dies with its process, or is given up', async () => {
      const { clock, queue, run, reopen } = await startSnapshots()
      const kept = { fields: won, isDirty: false }
      const again = async () => got((await queue.claim([want()], 1))[0])
      await queue.retry(await run(), { due: clock.now, error: 'no' })
      const retried = await again()
      expect(await queue.snapshot(retried)).toEqual(kept)
      await queue.postpone(retried, { due: clock.now, error: 'nobody is there' })
      await queue.release(await again())
      await again()
      const next = await reopen()
      const guilty = got(await next.reclaim())
      expect(await next.snapshot(guilty)).toEqual(kept)
      await next.dead(guilty, 'no')
      expect(await next.snapshot(guilty)).toEqual(kept)
    })

    test('is in doubt from the beginning of a run to the end of one that keeps something', async () => {
      const { clock, queue, run, reopen } = await startSnapshots()
      const first = await run()
      await queue.markDirty(first)
      expect(await queue.snapshot(first)).toEqual({ fields: won, isDirty: true })
      await queue.dead(first, 'no')
      await queue.done(await run())
      const second = await run()
      await queue.retry(second, { due: clock.now + 1, error: 'no' })
      expect(await (await reopen()).snapshot(second)).toEqual({ fields: won, isDirty: true })
      clock.now += 1
      await queue.done(got((await queue.claim([want()], 1))[0]), lost)
      expect(await queue.snapshot(second)).toEqual({ fields: lost, isDirty: false })
    })

    test('is not in doubt where nothing is kept', async () => {
      const { queue, run } = await startSnapshots()
      await queue.markDirty(await run('deal:2'))
      expect(await queue.snapshot(deliveryLike('deal:2'))).toBeUndefined()
    })

    test('is dropped when it is said to be gone, for that handler, portal and object only', async () => {
      const { queue, run } = await startSnapshots()
      for (const one of [{ handler: 'other' }, { portal: 'two' }]) await queue.done(await run('deal:1', one), won)
      await queue.done(await run('deal:2'), won)
      await queue.add([], here, [{ handler: 'h', event: eventOf(99, 'deal:1') }])
      expect(await queue.snapshot(deliveryLike('deal:1'))).toBeUndefined()
      expect(await queue.snapshot({ ...deliveryLike('deal:1'), handler: 'other' })).toBeDefined()
      expect(
        await queue.snapshot({ ...deliveryLike('deal:1'), event: eventOf(1, 'deal:1', { portal: 'two' }) }),
      ).toBeDefined()
      expect(await queue.snapshot(deliveryLike('deal:2'))).toBeDefined()
    })

    test('outlives its segment, and a handler that is not loaded; not one that is loaded without asking for it', async () => {
      const { queue } = await startSnapshots()
      await queue.prune(1)
      await queue.registerHandlers([known('other')])
      await queue.registerHandlers([known('h', { onChange: true })])
      expect(await queue.snapshot(deliveryLike('deal:1'))).toBeDefined()
      await queue.registerHandlers([known('h')])
      expect(await queue.snapshot(deliveryLike('deal:1'))).toBeUndefined()
    })
  })
}

/** To ask about its handler, portal and object; nothing is done to it. */
function deliveryLike(object: string): Delivery {
  return { key: 0, handler: 'h', event: eventOf(1, object), attempt: 1, coalesced: 1, spentMs: 0 }
}

interface Trial {
  readonly clock: { now: number }
  readonly queue: Queue
  readonly reopen: () => Awaitable<Queue>
  /** What happens between two tries, again and again. */
  readonly jumps: readonly ('due' | 'ahead' | 'back' | 'down' | 'postponed' | 'released')[]
}

/** Lets one delivery fail for its twelve hours. @returns milliseconds that it was to wait, since it was postponed last */
async function tryUntilDead({ clock, queue: first, reopen, jumps }: Trial): Promise<number> {
  const hour = 3_600_000
  let queue = first
  let waited = 0
  let interruptions = 0
  await queue.add([deliveryOf(eventOf(1, 'deal:1'))], here)
  for (let step = 0; ; step++) {
    const [delivery] = await queue.claim([want()], 1)
    const failing = got(delivery)
    const how = jumps[step % jumps.length]
    if (how === 'postponed' && interruptions++ < 3) {
      await queue.postpone(failing, { due: clock.now + hour, error: 'the incoming webhook is down' })
      await queue.resumePostponed()
      waited = 0
      continue
    }
    if (how === 'released' && interruptions++ < 3) {
      await queue.release(failing)
      continue
    }
    const { attempt, spentMs } = failing
    const error = new Error('no')
    const { delayMs } = nextTry({ error, attempt, spentMs, retryFor: 12 * hour, random: 0.5 })
    if (delayMs === undefined) {
      await queue.dead(failing, 'no')
      return waited
    }
    await queue.retry(failing, { due: clock.now + delayMs, error: 'no', spentMs: spentMs + delayMs })
    waited += delayMs
    clock.now += how === 'ahead' || how === 'down' ? 97 * hour : how === 'back' ? -97 * hour : delayMs
    if (how === 'down') queue = await reopen()
  }
}

function tools(queue: Queue) {
  const claim = async (wanted: readonly Wanted[] = [want()], limit = 100) => queue.claim(wanted, limit)
  return {
    claim,
    ids: async (wanted?: readonly Wanted[], limit?: number) =>
      (await claim(wanted, limit)).map(({ event }) => event.id),
    add: async (...events: readonly JournalledEvent[]) =>
      queue.add(
        events.map((event) => deliveryOf(event)),
        here,
      ),
  }
}

/** What a claim gave. */
function got(delivery: Delivery | undefined): Delivery {
  if (delivery === undefined) throw new Error('nothing was claimed')
  return delivery
}
