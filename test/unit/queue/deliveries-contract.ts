import { describe, expect, test } from 'vitest'
import type { Deliveries } from '../../../src/queue/deliveries.ts'
import type { Awaitable, Delivery, Queue } from '../../../src/queue/queue.ts'
import { fc } from '../../support/random.ts'
import { deliveryOf, eventOf, here, known, want } from './queue-contract.ts'

/** Opens a queue on a store of its own, and what an operator uses beside it. */
export type OpenBoth = (
  now: () => number,
) => Awaitable<{ readonly queue: Queue; readonly deliveries: Deliveries; readonly close?: () => Promise<unknown> }>

/**
 * What every engine must let an operator see and do, while its queue is at work.
 *
 * @param numRuns of anything in any order
 */
export function describeDeliveries(engine: string, open: OpenBoth, numRuns = 60): void {
  async function start() {
    const clock = { now: 1_000_000 }
    const both = await open(() => clock.now)
    const { queue, deliveries } = both
    const add = async (...events: Parameters<typeof eventOf>[]) =>
      queue.add(
        events.map((event) => deliveryOf(eventOf(...event))),
        here,
      )
    const claim = async (coalesce: boolean | 'object' = false) => queue.claim([want('h', { coalesce })], 100)
    const ids = async () => (await claim()).map(({ event }) => event.id)
    /** Runs what may run and lets it die. */
    const kill = async (error = 'Error: no') => {
      for (const delivery of await claim()) await queue.dead(delivery, error)
    }
    const states = async (id: number) =>
      (await deliveries.ofEvent(String(id))).map(({ run, state }) => `${run} ${state}`)
    return { clock, ...both, add, claim, ids, kill, states }
  }

  describe(`${engine}: what an operator sees`, () => {
    test('how far the journal was followed, and how much is pending', async () => {
      const { clock, queue, deliveries, add, claim } = await start()
      expect(await deliveries.position()).toBeUndefined()
      await add([1, 'deal:1'], [2, 'deal:1'], [3, 'deal:2'], [4, 'deal:3'], [5, 'deal:4'])
      const [running, retried, dead] = await claim()
      expect(running).toBeDefined()
      await queue.retry(got(retried), { due: clock.now + 1, error: 'no' })
      await queue.dead(got(dead), 'no')
      await queue.add([deliveryOf(eventOf(6, 'deal:6'))], { segment: 3, offset: 14 })
      expect(await deliveries.position()).toEqual({ segment: 3, offset: 14 })
      expect(await deliveries.state()).toEqual({
        ready: 1,
        running: 2,
        waiting: 1,
        blocked: 1,
        dead: 1,
        oldestAt: 1_000_000,
      })
    })

    test('the handlers as they were loaded, and what is pending for each', async () => {
      const { clock, queue, deliveries, add, kill } = await start()
      await queue.registerHandlers([
        known('h'),
        { name: 'all', events: ['A*', 'B'], order: 'none', debounce: 5_000, onChange: false },
      ])
      await add([1, 'deal:1'])
      await kill()
      await add([2, 'deal:1'], [3, 'deal:1'])
      expect(await deliveries.handlers()).toEqual([
        { name: 'all', events: ['A*', 'B'], order: 'none', debounce: 5_000, loadedAt: clock.now, pending: 0, dead: 0 },
        {
          name: 'h',
          events: ['ONCRMDEALUPDATE'],
          order: 'object',
          debounce: 0,
          loadedAt: clock.now,
          pending: 2,
          dead: 1,
        },
      ])
    })

    test('of an error of megabytes its beginning, once for each of the last hundred attempts', async () => {
      const { clock, queue, deliveries, add, claim } = await start()
      await add([1, 'deal:1'])
      for (let attempt = 1; attempt <= 103; attempt++) {
        clock.now += 1
        const error = attempt > 101 ? `Error: ${'x'.repeat(5_000_000)}` : `Error: ${attempt}`
        await queue.retry(got((await claim())[0]), { due: clock.now, error })
      }
      const [waiting] = await deliveries.ofEvent('1')
      const failures = await deliveries.failures(got(waiting))
      expect(failures.map(({ attempt }) => attempt)).toEqual(Array.from({ length: 100 }, (_, index) => index + 4))
      for (const error of [waiting?.error, failures.at(-1)?.error]) {
        expect(error).toMatch(/^Error: x+… \(5000007 characters\)$/)
        expect(error?.length).toBeLessThan(4_100)
      }
      await queue.postpone(got((await claim())[0]), { due: clock.now, error: 'y'.repeat(5_000_000) })
      const [postponed] = await deliveries.ofEvent('1')
      expect(postponed?.error).toMatch(/^y+… \(5000000 characters\)$/)
    })

    test('of an event each delivery, with its times and its failures', async () => {
      const { clock, queue, deliveries, add, claim } = await start()
      await add([1, 'deal:1'])
      clock.now = 1_000_010
      await queue.retry(got((await claim())[0]), { due: 1_000_500, error: 'Error: not now' })
      const common = { handler: 'h', event: '1', name: 'ONCRMDEALUPDATE', object: 'deal:1', run: 1, postponed: false }
      const times = { createdAt: 1_000_000, firstRunAt: 1_000_010 }
      const [waiting, ...none] = await deliveries.ofEvent('1')
      expect(none).toEqual([])
      expect(waiting).toEqual({
        ...common,
        ...times,
        key: waiting?.key,
        state: 'waiting',
        attempts: 1,
        due: 1_000_500,
        endedAt: undefined,
        error: 'Error: not now',
        coalescedInto: undefined,
      })
      clock.now = 1_000_500
      await queue.dead(got((await claim())[0]), 'Error: never')
      const [dead] = await deliveries.ofEvent('1')
      expect(dead).toEqual({
        ...waiting,
        state: 'dead',
        attempts: 2,
        due: undefined,
        endedAt: 1_000_500,
        error: 'Error: never',
      })
      expect(await deliveries.failures(got(dead))).toEqual([
        { attempt: 1, at: 1_000_010, error: 'Error: not now' },
        { attempt: 2, at: 1_000_500, error: 'Error: never' },
      ])
      expect(await deliveries.ofKey(got(dead).key)).toEqual(dead)
      expect(await deliveries.ofKey(got(dead).key + 1)).toBeUndefined()
      expect(await deliveries.ofEvent('2')).toEqual([])
    })

    test('which delivery was run for one that was coalesced', async () => {
      const { deliveries, add, claim } = await start()
      await add([1, 'deal:1'], [2, 'deal:1'])
      await claim(true)
      const [[first], [second]] = [await deliveries.ofEvent('1'), await deliveries.ofEvent('2')]
      expect(first).toMatchObject({ state: 'coalesced', object: 'deal:1', coalescedInto: second?.key })
      expect(second).toMatchObject({ state: 'running' })
    })

    test('that something is postponed, and why', async () => {
      const { clock, queue, deliveries, add, claim } = await start()
      await add([1, 'deal:1'])
      await queue.postpone(got((await claim())[0]), { due: clock.now + 60_000, error: 'the incoming webhook is dead' })
      expect(await deliveries.ofEvent('1')).toMatchObject([
        {
          state: 'waiting',
          postponed: true,
          attempts: 0,
          error: 'the incoming webhook is dead',
          due: clock.now + 60_000,
        },
      ])
    })

    test('an event itself, as long as a delivery of it is pending or dead', async () => {
      const { queue, deliveries, add, claim, kill } = await start()
      await add([1, 'deal:1'])
      await kill()
      await add([2, 'deal:1'])
      expect(await deliveries.keptEvent('1')).toEqual(eventOf(1, 'deal:1'))
      expect(await deliveries.keptEvent('2')).toEqual(eventOf(2, 'deal:1'))
      await queue.done(got((await claim())[0]))
      expect(await deliveries.keptEvent('2')).toBeUndefined()
      expect(await deliveries.keptEvent('3')).toBeUndefined()
    })

    test('the dead, the oldest first, all or by handler, event and object', async () => {
      const { queue, deliveries } = await start()
      const of = (id: number, object: string, handler: string) => deliveryOf(eventOf(id, object), { handler })
      await queue.add([of(1, 'deal:1', 'h'), of(1, 'deal:1', 'i'), of(2, 'deal:2', 'h'), of(3, 'deal:1', 'j')], here)
      for (const delivery of await queue.claim([want('h'), want('i')], 100)) await queue.dead(delivery, 'no')
      const dead = async (...args: Parameters<Deliveries['dead']>) =>
        (await deliveries.dead(...args)).map(({ event, handler }) => `${event} ${handler}`)
      expect(await dead({})).toEqual(['1 h', '1 i', '2 h'])
      expect(await dead({ handler: 'h' })).toEqual(['1 h', '2 h'])
      expect(await dead({ object: 'deal:1' })).toEqual(['1 h', '1 i'])
      expect(await dead({ events: ['2', '3'] })).toEqual(['2 h'])
      expect(await dead({ handler: 'i', events: ['2'] })).toEqual([])
    })

    test('nothing of what was done in segments that are gone', async () => {
      const { queue, deliveries, add, claim, kill, states } = await start()
      await add([1, 'deal:1'])
      await kill()
      await add([2, 'deal:1'])
      await queue.done(got((await claim())[0]))
      await queue.prune(1)
      expect([await states(1), await states(2)]).toEqual([['1 dead'], []])
      const [dead] = await deliveries.dead({})
      expect(await deliveries.failures(got(dead))).toHaveLength(1)
    })
  })

  describe(`${engine}: a dead delivery that is retried`, () => {
    test('goes behind what waits for its object, and begins again', async () => {
      const { clock, queue, deliveries, add, claim, kill, states } = await start()
      await add([1, 'deal:1'])
      await kill()
      await add([2, 'deal:1'], [3, 'deal:1'])
      clock.now += 5_000
      expect(await deliveries.retry(await deliveries.dead({}))).toBe(1)
      expect(await deliveries.dead({})).toEqual([])
      expect(await states(1)).toEqual(['1 coalesced', '2 blocked'])
      for (const id of ['2', '3']) {
        const [delivery, ...none] = await claim()
        expect([delivery?.event.id, none]).toEqual([id, []])
        await queue.done(got(delivery))
      }
      const [again] = await claim()
      expect(again).toMatchObject({ event: eventOf(1, 'deal:1'), attempt: 1, spentMs: 0 })
      await queue.done(got(again))
      expect(await states(1)).toEqual(['1 coalesced', '2 done'])
      const [first, second] = await deliveries.ofEvent('1')
      expect(first?.coalescedInto).toBe(second?.key)
      expect(await deliveries.failures(got(first))).toHaveLength(1)
      expect(await deliveries.failures(got(second))).toEqual([])
    })

    test('waits while its object runs, and runs at once where nothing of its object is there', async () => {
      const { queue, deliveries, add, claim, ids, kill } = await start()
      await add([1, 'deal:1'], [2, 'deal:2'], [3])
      await kill()
      await add([4, 'deal:1'])
      const [running] = await claim()
      await deliveries.retry(await deliveries.dead({}))
      expect(await ids()).toEqual(['2', '3'])
      await queue.done(got(running))
      expect(await ids()).toEqual(['1'])
    })

    test('is retried once, however often it is asked for, and may die again', async () => {
      const { deliveries, add, kill, states } = await start()
      await add([1, 'deal:1'])
      await kill()
      const dead = await deliveries.dead({})
      expect([await deliveries.retry([...dead, ...dead]), await deliveries.retry(dead)]).toEqual([1, 0])
      await kill('Error: again')
      expect(await deliveries.dead({})).toMatchObject([{ event: '1', run: 2, error: 'Error: again' }])
      expect(await deliveries.retry(await deliveries.dead({}))).toBe(1)
      expect(await states(1)).toEqual(['1 coalesced', '2 coalesced', '3 ready'])
    })

    test('is not coalesced with newer events: the handler would take it for the newest', async () => {
      const { queue, deliveries, add, claim, kill } = await start()
      await add([1, 'deal:1'])
      await kill()
      await add([2, 'deal:1'])
      const [running] = await claim('object')
      await add([3, 'deal:1'], [4, 'deal:1'])
      await deliveries.retry(await deliveries.dead({}))
      await add([5, 'deal:1'], [6, 'deal:1'])
      await queue.done(got(running))
      const runs: string[] = []
      for (let [run] = await claim('object'); run !== undefined; [run] = await claim('object')) {
        runs.push(`${run.event.id} for ${run.coalesced}`)
        await queue.done(run)
      }
      expect(runs).toEqual(['4 for 2', '1 for 1', '6 for 2'])
    })
  })

  describe(`${engine}: a dead delivery that is dropped`, () => {
    test('is no more, nor are its failures; what is not dead stays', async () => {
      const { queue, deliveries, add, kill, claim, states } = await start()
      await add([1, 'deal:1'], [2, 'deal:2'])
      await kill()
      const [first, second] = await deliveries.dead({})
      await deliveries.retry([got(second)])
      expect(await deliveries.drop([got(first), got(second)])).toBe(1)
      expect(await deliveries.drop([got(first)])).toBe(0)
      expect([await states(1), await states(2)]).toEqual([[], ['1 coalesced', '2 ready']])
      expect(await deliveries.failures(got(first))).toEqual([])
      await queue.done(got((await claim())[0]))
    })
  })

  describe(`${engine}: a replay`, () => {
    test('is another run of an event, whatever became of it, behind what waits for its object', async () => {
      const { queue, deliveries, add, claim, ids, states } = await start()
      await add([1, 'deal:1'])
      await queue.done(got((await claim())[0]))
      await add([2, 'deal:1'])
      const again = deliveryOf(eventOf(1, 'deal:1'))
      await deliveries.replay([again, again])
      expect(await states(1)).toEqual(['1 done', '2 blocked', '3 blocked'])
      for (const id of ['2', '1', '1']) {
        const [delivery] = await claim()
        expect(delivery?.event.id).toBe(id)
        await queue.done(got(delivery))
      }
      expect(await ids()).toEqual([])
    })

    test('of an event that was not followed yet does not take its place', async () => {
      const { deliveries, add, states } = await start()
      await deliveries.replay([deliveryOf(eventOf(1, 'deal:1'))])
      await add([1, 'deal:1'])
      expect((await states(1)).toSorted()).toEqual(['1 blocked', '2 ready'])
    })

    test('of a handler that wants no order waits for no other', async () => {
      const { queue, deliveries, ids } = await start()
      const loose = deliveryOf(eventOf(1, 'deal:1'), { order: 'none' })
      await queue.add([loose], here)
      await deliveries.replay([loose])
      expect(await ids()).toEqual(['1', '1'])
    })
  })

  describe(`${engine}: an object that is erased`, () => {
    const about = { object: 'deal:1', member: undefined, before: Number.MAX_SAFE_INTEGER, events: [] }

    test('has nothing pending or dead any more, and no text of a failure; others are as before', async () => {
      const { clock, queue, deliveries, add, claim, kill, states } = await start()
      await add([1, 'deal:1'], [2, 'deal:2'])
      await kill('Error: dead')
      await add([3, 'deal:1'])
      await queue.retry(got((await claim())[0]), { due: clock.now, error: 'Error: once' })
      await queue.done(got((await claim())[0]), { TITLE: '"x"' })
      await add([4, 'deal:1'], [5, 'deal:1'], [6, 'deal:2'])
      expect((await deliveries.ofObject(about)).map(({ event, state }) => `${event} ${state}`)).toEqual(
        ['1 dead', '3 done', '4 ready', '5 blocked'], // 2 and 6 are about another
      )
      expect(await deliveries.erase(about, false)).toBe(3)
      expect([await states(1), await states(4), await states(5)]).toEqual([[], [], []])
      const [done] = await deliveries.ofEvent('3')
      expect(done).toMatchObject({ state: 'done', error: undefined })
      expect(await deliveries.failures(got(done))).toEqual([])
      expect(await deliveries.dead({})).toMatchObject([{ event: '2', error: 'Error: dead' }])
      const [other] = await claim()
      expect(other?.event.id).toBe('6')
      await add([7, 'deal:1'])
      const [later] = await claim()
      expect(await queue.snapshot(got(later))).toBeUndefined()
      expect(await deliveries.erase({ ...about, object: 'deal:3' }, false)).toBe(0)
    })

    test('waits for the run of it, and drops nothing meanwhile', async () => {
      const { deliveries, queue, add, claim, states } = await start()
      await add([1, 'deal:1'], [2, 'deal:1'])
      const [running] = await claim()
      await expect((async () => deliveries.erase(about, false))()).rejects.toThrow('h is running for event 1')
      expect([await states(1), await states(2)]).toEqual([['1 running'], ['1 blocked']])
      await queue.done(got(running))
      expect(await deliveries.erase(about, false)).toBe(1)
    })

    test('lets what came later go on, and finds deliveries without order', async () => {
      const { deliveries, queue, claim } = await start()
      const at = (time: number) => `${time.toString(16).padStart(12, '0')}-7000-8000-000000000000`
      const of = (time: number, order: 'object' | 'none') =>
        deliveryOf({ ...eventOf(1, 'deal:1'), id: at(time) }, { order })
      await queue.add([of(1_000, 'object'), of(2_000, 'object'), of(3_000, 'object'), of(500, 'none')], here)
      expect(await deliveries.erase({ ...about, before: 2_000 }, false)).toBe(3)
      const rest = await claim()
      expect(rest.map(({ event }) => event.id)).toEqual([at(3_000)])
      await queue.done(got(rest[0]))
    })

    test('is that of one portal, where one is named', async () => {
      const { deliveries, queue } = await start()
      const of = (id: number, memberId: string) =>
        deliveryOf({ ...eventOf(id, 'deal:1'), auth: { member_id: memberId } })
      await queue.add([of(1, 'a'), of(2, 'b')], here)
      expect(await deliveries.erase({ ...about, member: 'b' }, false)).toBe(1)
      expect((await deliveries.ofObject(about)).map(({ event }) => event)).toEqual(['1'])
    })
  })

  describe(`${engine}: a handler that is forgotten`, () => {
    test('has nothing pending and is not known any more; others are as before', async () => {
      const { clock, queue, deliveries, add, claim, ids, kill } = await start()
      await queue.registerHandlers([known('h'), known('other')])
      await queue.add([deliveryOf(eventOf(9, 'deal:1'), { handler: 'other' })], here)
      await add([1, 'deal:1'])
      await kill()
      await add([2, 'deal:1'])
      await queue.done(got((await claim())[0]))
      await add([3, 'deal:1'], [4, 'deal:1'])
      await queue.retry(got((await claim())[0]), { due: clock.now + 1, error: 'no' })
      // Dead, waiting and blocked; what was done is not pending.
      expect(await deliveries.forget('h')).toBe(3)
      expect((await deliveries.handlers()).map(({ name, pending }) => [name, pending])).toEqual([['other', 1]])
      expect(await deliveries.ofEvent('1')).toEqual([])
      clock.now += 1_000
      expect(await ids()).toEqual([])
      expect(await queue.claim([want('other')], 1)).toMatchObject([{ event: { id: '9' } }])
      expect(await deliveries.forget('nobody')).toBe(0)
    })

    test('beside a dispatcher that keeps events for it: nothing of it is left', async () => {
      const { queue, deliveries, close } = await start()
      await queue.registerHandlers([known('h'), known('other')])
      let isOver = false
      const keep = async () => {
        for (let id = 1; !isOver; id += 10) {
          const some = Array.from({ length: 10 }, (_, index) => eventOf(id + index, `deal:${index}`))
          await queue.add(
            some.map((event) => deliveryOf(event, { isAbsent: true })),
            here,
          )
          await new Promise(setImmediate)
        }
      }
      const keeping = keep()
      for (let round = 0; round < 5; round++) {
        await queue.registerHandlers([known('h')])
        await deliveries.forget('h')
        expect(await deliveries.state()).toMatchObject({ ready: 0, waiting: 0, blocked: 0 })
      }
      isOver = true
      await keeping
      expect(await deliveries.state()).toMatchObject({ ready: 0, waiting: 0, blocked: 0 })
      expect((await deliveries.handlers()).map(({ name }) => name)).toEqual(['other'])
      await close?.()
    })

    test('must not be at work: the next of its object would start beside its run', async () => {
      const { queue, deliveries, add, claim } = await start()
      await add([1, 'deal:1'], [2, 'deal:1'])
      const [running] = await claim()
      const forget = async () => deliveries.forget('h')
      await expect(forget()).rejects.toThrow('a run of h has not ended')
      await queue.done(got(running))
      expect(await forget()).toBe(1)
    })
  })

  test(`${engine}: a queue that is watched is notified of what an operator changed`, async () => {
    const { queue, deliveries, add, kill } = await start()
    await add([1, 'deal:1'])
    await kill()
    const told = new Promise<void>((resolve) => queue.watch({ changed: resolve, died: () => undefined }))
    await deliveries.retry(await deliveries.dead({}))
    await expect(told).resolves.toBeUndefined()
    await queue.close()
  })

  test(`${engine}: whatever an operator does, each object runs alone and in order, and nothing is lost`, async () => {
    const step = fc.oneof(
      { weight: 5, arbitrary: fc.record({ do: fc.constant('deliver' as const), at: fc.nat(2) }) },
      { weight: 5, arbitrary: fc.record({ do: fc.constant('claim' as const), at: fc.constant(0) }) },
      {
        weight: 8,
        arbitrary: fc.record({ do: fc.constantFrom('done', 'dead', 'again', 'release'), at: fc.nat(9) }),
      },
      { weight: 6, arbitrary: fc.record({ do: fc.constantFrom('retry', 'drop', 'replay', 'forget'), at: fc.nat(9) }) },
    )
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 80, size: 'max' }), async (steps) => {
        const { clock, queue, deliveries, claim, close } = await start()
        const events: ReturnType<typeof eventOf>[] = []
        /** For each object the ids of what is pending, as they were added; the first may run. */
        const orderingKeys = new Map<string, string[]>()
        let running: Delivery[] = []
        const orderingKeyOf = ({ object = '' }: { object?: string | undefined }) => {
          const orderingKey = orderingKeys.get(object) ?? []
          orderingKeys.set(object, orderingKey)
          return orderingKey
        }
        const claimAll = async () => {
          clock.now += 10
          for (const delivery of await claim()) {
            expect(running.map(({ event }) => event.object)).not.toContain(delivery.event.object)
            expect(delivery.event.id).toBe(orderingKeyOf(delivery.event)[0])
            running.push(delivery)
          }
          // Nothing that may run is left behind.
          const pending = [...orderingKeys]
            .filter(([, orderingKey]) => orderingKey.length > 0)
            .map(([object]) => object)
          expect(new Set(running.map(({ event }) => event.object))).toEqual(new Set(pending))
        }
        const end = async (how: 'done' | 'dead' | 'again' | 'release', delivery: Delivery) => {
          running = running.filter((one) => one !== delivery)
          if (how === 'again') return queue.retry(delivery, { due: clock.now + 5, error: 'no' })
          if (how === 'release') return queue.release(delivery)
          orderingKeyOf(delivery.event).shift()
          await (how === 'done' ? queue.done(delivery) : queue.dead(delivery, 'no'))
        }
        const replay = async (at: number) => {
          const chosen = events.filter((_, index) => index % 4 === at % 4)
          await deliveries.replay(chosen.map((event) => deliveryOf(event)))
          for (const event of chosen) orderingKeyOf(event).push(event.id)
        }
        const forget = async () => {
          if (running.length > 0) return
          await deliveries.forget('h')
          orderingKeys.clear()
        }
        const retryOrDrop = async (how: 'retry' | 'drop', at: number) => {
          const dead = (await deliveries.dead({})).filter((_, index) => index % 3 === at % 3)
          expect(await deliveries[how](dead)).toBe(dead.length)
          for (const record of how === 'retry' ? dead : []) orderingKeyOf(record).push(record.event)
        }
        for (const { do: what, at } of steps) {
          const delivery = running[at % Math.max(1, running.length)]
          if (what === 'deliver') {
            const event = eventOf(events.length + 1, `deal:${at}`)
            events.push(event)
            orderingKeyOf(event).push(event.id)
            await queue.add([deliveryOf(event)], here)
          } else if (what === 'claim') await claimAll()
          else if (what === 'replay') await replay(at)
          else if (what === 'forget') await forget()
          else if (what === 'retry' || what === 'drop') await retryOrDrop(what, at)
          else if (delivery) await end(what, delivery)
        }
        for (;;) {
          await claimAll()
          if (running.length === 0) break
          for (const delivery of running) await end('done', delivery)
        }
        expect(await deliveries.state()).toMatchObject({ ready: 0, running: 0, waiting: 0, blocked: 0 })
        await deliveries.close()
        await queue.close()
        await close?.()
      }),
      { numRuns },
    )
  })
}

function got<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('there is none')
  return value
}
