import fc from 'fast-check'
import { expect } from 'vitest'
import type { Awaitable, Delivery, Queue, Wanted } from '../../../src/queue/queue.ts'
import { deliveryOf, eventOf, here, known, want } from './queue-contract.ts'

/** Opens a queue of its own for the model, and the next time the same one, as the next process sees it. */
export type OpenStore = (now: () => number) => Awaitable<() => Awaitable<Queue>>

/** How each handler of the model is run; one of every kind. */
const kinds = {
  plain: { coalesce: false, settle: 0, order: 'object', limit: 2 },
  loose: { coalesce: false, settle: 0, order: 'none', limit: 100 },
  merging: { coalesce: true, settle: 0, order: 'object', limit: 100 },
  settling: { coalesce: 'object', settle: 1_000, order: 'object', limit: 100 },
} as const
type Kind = keyof typeof kinds
const handlers = Object.keys(kinds) as Kind[]

type Ending = 'done' | 'dead' | 'release' | 'retry' | 'postpone'

type Step =
  | { readonly do: 'deliver'; readonly lane: number; readonly name: string }
  | { readonly do: 'deliver again'; readonly which: number }
  | { readonly do: 'claim'; readonly limit: number }
  | { readonly do: 'done' | 'dead' | 'release'; readonly which: number }
  | { readonly do: 'retry'; readonly which: number; readonly after: number; readonly alone: boolean }
  | { readonly do: 'postpone'; readonly which: number; readonly after: number }
  | { readonly do: 'resume' }
  | { readonly do: 'clock'; readonly by: number }
  | { readonly do: 'crash'; readonly guilty: Ending }

const which = fc.nat(50)
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant('deliver'), lane: fc.nat(3), name: fc.constantFrom('A', 'B') }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('deliver again'), which }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('claim'), limit: fc.integer({ min: 1, max: 8 }) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('done'), which }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('dead', 'release'), which }) },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('retry'), which, after: fc.nat(3_000), alone: fc.boolean() }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('postpone'), which, after: fc.nat(3_000) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('resume') }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('clock'), by: fc.integer({ min: -500, max: 2_500 }) }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('crash'), guilty: fc.constantFrom('retry', 'dead', 'release', 'postpone') }),
  },
)

/** A delivery as the model knows it. */
interface Owed {
  readonly id: number
  readonly kind: Kind
  readonly name: string
  readonly createdAt: number
  state: 'owed' | 'running' | 'ended'
  attempts: number
  stands: number
  /** Until when it waits, as the first of its lane, and since when. */
  wait: { readonly due: number; readonly since: number } | undefined
  isSuspect: boolean
  isPostponed: boolean
}

/** What a queue promises, as lists in memory. The first of a lane may run; the others wait behind it. */
class Model {
  now = 1_000_000
  readonly lanes = new Map<string, Owed[]>()
  running: { readonly owed: Owed; readonly lane: string }[] = []
  readonly ended = new Set<string>()

  deliver(kind: Kind, id: number, laneNumber: number, name: string): void {
    const { order } = kinds[kind]
    // The last lane is for events without an object.
    const isOrdered = order === 'object' && laneNumber < 3
    const key = `${kind} ${isOrdered ? laneNumber : `alone ${id}`}`
    const lane = this.lanes.get(key) ?? []
    this.lanes.set(key, lane)
    const owed: Owed = {
      id,
      kind,
      name,
      createdAt: this.now,
      state: 'owed',
      attempts: 0,
      stands: 1,
      wait: undefined,
      isSuspect: false,
      isPostponed: false,
    }
    lane.push(owed)
    const [head] = lane
    if (head === owed || (head?.wait && head.attempts === 0 && !head.isPostponed)) this.settle(key)
  }

  /** Lets the first of a lane wait until its object is quiet. */
  settle(key: string): void {
    const lane = this.lanes.get(key) ?? []
    const [head] = lane
    if (head === undefined) return
    const { settle } = kinds[head.kind]
    const due = Math.min((lane.at(-1)?.createdAt ?? 0) + settle, head.createdAt + 10 * settle)
    head.wait = settle > 0 && (due > this.now || head.wait) ? { due, since: this.now } : undefined
  }

  resume(): void {
    for (const [head] of this.lanes.values()) if (head?.isPostponed) head.wait = undefined
  }

  nextDue(): number | undefined {
    const waits = [...this.lanes.values()].flatMap(([head]) => (head?.wait ? [head.wait.due] : []))
    return waits.length > 0 ? Math.min(...waits) : undefined
  }

  /** What a claim must give, as `kind id attempt stands`. */
  claim(wanted: readonly Wanted[], limit: number): string[] {
    for (const [head] of this.lanes.values())
      if (head?.wait && (head.wait.due <= this.now || head.wait.since > this.now)) head.wait = undefined
    const ready = [...this.lanes]
      .flatMap(([key, [head]]) => (head?.state === 'owed' && !head.wait ? [{ key, head }] : []))
      .sort((a, b) => a.head.id - b.head.id || handlers.indexOf(a.head.kind) - handlers.indexOf(b.head.kind))
    const [suspect] = ready.filter(({ head }) => head.isSuspect)
    if (this.running.some(({ owed }) => owed.isSuspect)) return []
    if (suspect) return this.running.length > 0 ? [] : [this.start(suspect.key)]
    const room = new Map(wanted.map((one) => [one.handler, one.limit]))
    return ready
      .filter(({ head: { kind } }) => {
        const left = room.get(kind) ?? 0
        room.set(kind, left - 1)
        return left > 0
      })
      .slice(0, limit)
      .map(({ key }) => this.start(key))
  }

  start(key: string): string {
    const lane = this.lanes.get(key) ?? []
    const [head] = lane
    if (head === undefined) throw new Error('an empty lane')
    const { coalesce } = kinds[head.kind]
    const other = coalesce === 'object' ? -1 : lane.findIndex(({ name }) => name !== head.name)
    const one = coalesce ? lane.splice(0, other === -1 ? lane.length : other) : lane.splice(0, 1)
    const newest = one.at(-1) ?? head
    for (const owed of one) owed.state = owed === newest ? 'running' : 'ended'
    for (const { kind, id, state } of one) if (state === 'ended') this.ended.add(`${kind} ${id}`)
    newest.attempts = head.attempts + 1
    newest.isSuspect = head.isSuspect
    newest.isPostponed = false
    newest.stands = one.reduce((sum, { stands }) => sum + stands, 0)
    lane.unshift(newest)
    this.running.push({ owed: newest, lane: key })
    return told(newest)
  }

  end(owed: Owed, how: 'ended' | 'release' | { readonly due: number; readonly isSuspect?: boolean }): void {
    const run = this.running.find((one) => one.owed === owed)
    if (run === undefined) throw new Error('it does not run')
    this.running = this.running.filter((one) => one !== run)
    if (how === 'ended') {
      owed.state = 'ended'
      this.ended.add(`${owed.kind} ${owed.id}`)
      this.lanes.get(run.lane)?.shift()
      this.settle(run.lane)
      return
    }
    owed.state = 'owed'
    owed.isPostponed = how !== 'release' && how.isSuspect === undefined
    // One that is postponed is as suspect as before.
    if (!owed.isPostponed) owed.isSuspect = how !== 'release' && how.isSuspect === true
    if (how === 'release' || owed.isPostponed) owed.attempts--
    if (how !== 'release') owed.wait = { due: how.due, since: this.now }
  }

  /** The one that has to be charged. */
  crash(): Owed | undefined {
    if (this.running.length <= 1) return this.running[0]?.owed
    for (const { owed } of this.running) {
      owed.state = 'owed'
      owed.attempts--
      owed.isSuspect = true
    }
    this.running = []
    return undefined
  }
}

function told({ kind, id, attempts, stands }: Owed): string {
  return `${kind} ${id} attempt ${attempts} for ${stands}`
}

function tell({ handler, event, attempt, coalesced }: Delivery): string {
  return `${handler} ${event.id} attempt ${attempt} for ${coalesced}`
}

/** The model and a queue, side by side; whatever is done to both must show the same. */
async function createPair(openStore: OpenStore) {
  const model = new Model()
  const open = await openStore(() => model.now)
  let queue = await open()
  let runs: { readonly delivery: Delivery; readonly owed: Owed }[] = []
  const delivered: { readonly id: number; readonly lane: number; readonly name: string }[] = []

  /** Lanes 0 and 1 are objects of one portal, 2 is one of another with the same number as 0, 3 has no object. */
  const add = ({ id, lane, name }: (typeof delivered)[number]) => {
    const event = eventOf(id, lane < 3 ? `deal:${lane % 2}` : undefined, { portal: lane < 2 ? 'one' : 'two', name })
    return queue.add(
      handlers.map((handler) => deliveryOf(event, { handler, ...kinds[handler] })),
      here,
    )
  }
  const claim = async (limit: number) => {
    const wanted = handlers.map((handler) => {
      const { coalesce, limit: most } = kinds[handler]
      return want(handler, { coalesce, limit: most - runs.filter(({ owed }) => owed.kind === handler).length })
    })
    const claimed = await queue.claim(wanted, limit)
    expect(claimed.map(tell)).toEqual(model.claim(wanted, limit))
    for (const delivery of claimed) {
      const run = model.running.find(({ owed }) => told(owed) === tell(delivery))
      if (run) runs.push({ delivery, owed: run.owed })
    }
    return claimed.length
  }
  const end = async (how: Ending, run: (typeof runs)[number], { after = 1_000, alone = true } = {}) => {
    runs = runs.filter((one) => one !== run)
    const due = model.now + after
    if (how === 'retry') {
      await queue.retry(run.delivery, { due, error: 'no', alone })
      model.end(run.owed, { due, isSuspect: alone })
    } else if (how === 'postpone') {
      await queue.postpone(run.delivery, { due, error: 'nobody is there' })
      model.end(run.owed, { due })
    } else {
      await (how === 'dead' ? queue.dead(run.delivery, 'no') : queue[how](run.delivery))
      model.end(run.owed, how === 'release' ? 'release' : 'ended')
    }
  }
  const crash = async (guilty: Ending) => {
    queue = await open()
    runs = []
    const charged = await queue.recover()
    const owed = model.crash()
    expect(charged && tell(charged)).toBe(owed && told(owed))
    if (charged && owed) await end(guilty, { delivery: charged, owed })
  }

  return {
    async take(step: Step) {
      const known = 'which' in step ? delivered[step.which % Math.max(1, delivered.length)] : undefined
      const run = 'which' in step ? runs[step.which % Math.max(1, runs.length)] : undefined
      if (step.do === 'deliver') {
        const { lane, name } = step
        const fresh = { id: delivered.length + 1, lane, name }
        delivered.push(fresh)
        await add(fresh)
        for (const kind of handlers) model.deliver(kind, fresh.id, lane, name)
      } else if (step.do === 'deliver again') await (known && add(known))
      else if (step.do === 'claim') await claim(step.limit)
      else if (step.do === 'resume') {
        await queue.resume()
        model.resume()
      } else if (step.do === 'clock') model.now += step.by
      else if (step.do === 'crash') await crash(step.guilty)
      else if (run) await end(step.do, run, 'after' in step ? step : {})
      expect(await queue.nextDue()).toBe(model.nextDue())
    },
    /** Everything ends once nothing fails any more. */
    async drain() {
      while (runs.length > 0 || (await claim(100)) > 0 || (await queue.nextDue()) !== undefined) {
        for (const run of runs) await end('done', run)
        model.now = Math.max(model.now, (await queue.nextDue()) ?? 0)
      }
      expect(model.ended.size).toBe(delivered.length * handlers.length)
      await queue.remember(handlers.map((name) => known(name)))
      expect([...(await queue.handlers()).values()]).toEqual(handlers.map(() => 0))
      await queue.close()
    },
  }
}

/**
 * Whatever is delivered, claimed, failed, and whenever it crashes: each object is in order, alone, and nothing is lost.
 *
 * @returns how many stores it took
 */
export async function checkQueue(openStore: OpenStore, numRuns: number): Promise<number> {
  let stores = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 80, size: 'max' }), async (steps) => {
      stores++
      const pair = await createPair(openStore)
      for (const one of steps) await pair.take(one)
      await pair.drain()
    }),
    { numRuns },
  )
  return stores
}
