import { expect } from 'vitest'
import type { Awaitable, Delivery, Queue, Wanted } from '../../../src/queue/queue.ts'
import { fc } from '../../support/random.ts'
import { deliveryOf, eventOf, here, known, want } from './queue-contract.ts'

/** Opens a queue of its own for the model, and the next time the same one, as the next process sees it. */
export type OpenStore = (now: () => number) => Awaitable<() => Awaitable<Queue>>

/** How each handler of the model is run; one of every kind. */
const kinds = {
  plain: { coalesce: false, debounce: 0, order: 'object', limit: 2 },
  loose: { coalesce: false, debounce: 0, order: 'none', limit: 100 },
  merging: { coalesce: true, debounce: 0, order: 'object', limit: 100 },
  settling: { coalesce: 'object', debounce: 1_000, order: 'object', limit: 100 },
} as const
type Kind = keyof typeof kinds
const handlers = Object.keys(kinds) as Kind[]

type Ending = 'done' | 'dead' | 'release' | 'retry' | 'postpone'

type Step =
  | { readonly do: 'deliver'; readonly orderingKey: number; readonly name: string }
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
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant('deliver'), orderingKey: fc.nat(3), name: fc.constantFrom('A', 'B') }),
  },
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
interface Pending {
  readonly id: number
  readonly kind: Kind
  readonly name: string
  readonly createdAt: number
  state: 'pending' | 'running' | 'ended'
  attempts: number
  stands: number
  /** Until when it waits, as the first of its ordering key, and since when. */
  wait: { readonly due: number; readonly since: number } | undefined
  isQuarantined: boolean
  isPostponed: boolean
}

/** What a queue promises, as lists in memory. The first of an ordering key may run; the others wait behind it. */
class Model {
  now = 1_000_000
  readonly orderingKeys = new Map<string, Pending[]>()
  running: { readonly pending: Pending; readonly orderingKey: string }[] = []
  readonly ended = new Set<string>()

  deliver(kind: Kind, id: number, orderingKeyNumber: number, name: string): void {
    const { order } = kinds[kind]
    // The last ordering key is for events without an object.
    const isOrdered = order === 'object' && orderingKeyNumber < 3
    const key = `${kind} ${isOrdered ? orderingKeyNumber : `alone ${id}`}`
    const orderingKey = this.orderingKeys.get(key) ?? []
    this.orderingKeys.set(key, orderingKey)
    const pending: Pending = {
      id,
      kind,
      name,
      createdAt: this.now,
      state: 'pending',
      attempts: 0,
      stands: 1,
      wait: undefined,
      isQuarantined: false,
      isPostponed: false,
    }
    orderingKey.push(pending)
    const [head] = orderingKey
    if (head === pending || (head?.wait && head.attempts === 0 && !head.isPostponed)) this.settle(key)
  }

  /** Lets the first of an ordering key wait until its object is quiet. */
  settle(key: string): void {
    const orderingKey = this.orderingKeys.get(key) ?? []
    const [head] = orderingKey
    if (head === undefined) return
    const { debounce } = kinds[head.kind]
    const due = Math.min((orderingKey.at(-1)?.createdAt ?? 0) + debounce, head.createdAt + 10 * debounce)
    head.wait = debounce > 0 && (due > this.now || head.wait) ? { due, since: this.now } : undefined
  }

  resume(): void {
    for (const [head] of this.orderingKeys.values()) if (head?.isPostponed) head.wait = undefined
  }

  nextDue(): number | undefined {
    const waits = [...this.orderingKeys.values()].flatMap(([head]) => (head?.wait ? [head.wait.due] : []))
    return waits.length > 0 ? Math.min(...waits) : undefined
  }

  /** What a claim must give, as `kind id attempt stands`. */
  claim(wanted: readonly Wanted[], limit: number): string[] {
    for (const [head] of this.orderingKeys.values())
      if (head?.wait && (head.wait.due <= this.now || head.wait.since > this.now)) head.wait = undefined
    const ready = [...this.orderingKeys]
      .flatMap(([key, [head]]) => (head?.state === 'pending' && !head.wait ? [{ key, head }] : []))
      .sort((a, b) => a.head.id - b.head.id || handlers.indexOf(a.head.kind) - handlers.indexOf(b.head.kind))
    const [quarantined] = ready.filter(({ head }) => head.isQuarantined)
    if (this.running.some(({ pending }) => pending.isQuarantined)) return []
    if (quarantined) return this.running.length > 0 ? [] : [this.start(quarantined.key)]
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
    const orderingKey = this.orderingKeys.get(key) ?? []
    const [head] = orderingKey
    if (head === undefined) throw new Error('an empty ordering key')
    const { coalesce } = kinds[head.kind]
    const other = coalesce === 'object' ? -1 : orderingKey.findIndex(({ name }) => name !== head.name)
    const one = coalesce ? orderingKey.splice(0, other === -1 ? orderingKey.length : other) : orderingKey.splice(0, 1)
    const newest = one.at(-1) ?? head
    for (const pending of one) pending.state = pending === newest ? 'running' : 'ended'
    for (const { kind, id, state } of one) if (state === 'ended') this.ended.add(`${kind} ${id}`)
    newest.attempts = head.attempts + 1
    newest.isQuarantined = head.isQuarantined
    newest.isPostponed = false
    newest.stands = one.reduce((sum, { stands }) => sum + stands, 0)
    orderingKey.unshift(newest)
    this.running.push({ pending: newest, orderingKey: key })
    return told(newest)
  }

  end(pending: Pending, how: 'ended' | 'release' | { readonly due: number; readonly isQuarantined?: boolean }): void {
    const run = this.running.find((one) => one.pending === pending)
    if (run === undefined) throw new Error('it does not run')
    this.running = this.running.filter((one) => one !== run)
    if (how === 'ended') {
      pending.state = 'ended'
      this.ended.add(`${pending.kind} ${pending.id}`)
      this.orderingKeys.get(run.orderingKey)?.shift()
      this.settle(run.orderingKey)
      return
    }
    pending.state = 'pending'
    pending.isPostponed = how !== 'release' && how.isQuarantined === undefined
    // One that is postponed is as quarantined as before.
    if (!pending.isPostponed) pending.isQuarantined = how !== 'release' && how.isQuarantined === true
    if (how === 'release' || pending.isPostponed) pending.attempts--
    if (how !== 'release') pending.wait = { due: how.due, since: this.now }
  }

  /** The one that has to be charged. */
  crash(): Pending | undefined {
    if (this.running.length <= 1) return this.running[0]?.pending
    for (const { pending } of this.running) {
      pending.state = 'pending'
      pending.attempts--
      pending.isQuarantined = true
    }
    this.running = []
    return undefined
  }
}

function told({ kind, id, attempts, stands }: Pending): string {
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
  let runs: { readonly delivery: Delivery; readonly pending: Pending }[] = []
  const delivered: { readonly id: number; readonly orderingKey: number; readonly name: string }[] = []

  /** Ordering keys 0 and 1 are objects of one portal, 2 is one of another with the same number as 0, 3 has no object. */
  const add = ({ id, orderingKey, name }: (typeof delivered)[number]) => {
    const event = eventOf(id, orderingKey < 3 ? `deal:${orderingKey % 2}` : undefined, {
      portal: orderingKey < 2 ? 'one' : 'two',
      name,
    })
    return queue.add(
      handlers.map((handler) => deliveryOf(event, { handler, ...kinds[handler] })),
      here,
    )
  }
  const claim = async (limit: number) => {
    const wanted = handlers.map((handler) => {
      const { coalesce, limit: most } = kinds[handler]
      return want(handler, { coalesce, limit: most - runs.filter(({ pending }) => pending.kind === handler).length })
    })
    const claimed = await queue.claim(wanted, limit)
    expect(claimed.map(tell)).toEqual(model.claim(wanted, limit))
    for (const delivery of claimed) {
      const run = model.running.find(({ pending }) => told(pending) === tell(delivery))
      if (run) runs.push({ delivery, pending: run.pending })
    }
    return claimed.length
  }
  const end = async (how: Ending, run: (typeof runs)[number], { after = 1_000, alone = true } = {}) => {
    runs = runs.filter((one) => one !== run)
    const due = model.now + after
    if (how === 'retry') {
      await queue.retry(run.delivery, { due, error: 'no', alone })
      model.end(run.pending, { due, isQuarantined: alone })
    } else if (how === 'postpone') {
      await queue.postpone(run.delivery, { due, error: 'nobody is there' })
      model.end(run.pending, { due })
    } else {
      await (how === 'dead' ? queue.dead(run.delivery, 'no') : queue[how](run.delivery))
      model.end(run.pending, how === 'release' ? 'release' : 'ended')
    }
  }
  const crash = async (guilty: Ending) => {
    queue = await open()
    runs = []
    const charged = await queue.reclaim()
    const pending = model.crash()
    expect(charged && tell(charged)).toBe(pending && told(pending))
    if (charged && pending) await end(guilty, { delivery: charged, pending })
  }

  return {
    async take(step: Step) {
      const known = 'which' in step ? delivered[step.which % Math.max(1, delivered.length)] : undefined
      const run = 'which' in step ? runs[step.which % Math.max(1, runs.length)] : undefined
      if (step.do === 'deliver') {
        const { orderingKey, name } = step
        const fresh = { id: delivered.length + 1, orderingKey, name }
        delivered.push(fresh)
        await add(fresh)
        for (const kind of handlers) model.deliver(kind, fresh.id, orderingKey, name)
      } else if (step.do === 'deliver again') await (known && add(known))
      else if (step.do === 'claim') await claim(step.limit)
      else if (step.do === 'resume') {
        await queue.resumePostponed()
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
      await queue.registerHandlers(handlers.map((name) => known(name)))
      expect((await queue.handlers()).map(({ pending }) => pending)).toEqual(handlers.map(() => 0))
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
