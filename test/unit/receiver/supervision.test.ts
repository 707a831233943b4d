import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { FromDispatcher } from '../../../src/dispatch/messages.ts'
import {
  initialSupervision,
  type SupervisionAction,
  type SupervisionEvent,
  supervise,
} from '../../../src/receiver/supervision.ts'

const graceMs = 5_000
const killed = { code: null, signal: 'SIGKILL' } as const

/** The processes and the timer that the actions are carried out on. */
function create() {
  let supervision = initialSupervision
  const running = new Map<number, { isLoaded: boolean; isEnding: boolean }>()
  const actions: SupervisionAction[] = []
  let scheduledMs: number | undefined

  function handle(event: SupervisionEvent): void {
    const before = structuredClone(supervision)
    const step = supervise(supervision, event, graceMs)
    expect(supervision).toEqual(before)
    supervision = step.after
    for (const action of step.actions) {
      actions.push(action)
      if (action.type === 'start') running.set(action.id, { isLoaded: false, isEnding: false })
      if (action.type === 'end' || action.type === 'kill')
        Object.assign(running.get(action.id) ?? {}, { isEnding: true })
      if (action.type === 'schedule_start') scheduledMs = action.delayMs
    }
  }

  return {
    running,
    actions,
    handle,
    now: () => supervision,
    scheduled: () => scheduledMs,
    fire() {
      scheduledMs = undefined
      handle({ type: 'start_due' })
    },
    say(id: number, ...messages: FromDispatcher[]) {
      for (const message of messages) {
        Object.assign(running.get(id) ?? {}, message.type === 'loaded' && { isLoaded: true })
        handle({ type: 'message', id, message })
      }
    },
    exit(id: number, exit: Extract<SupervisionEvent, { type: 'exited' }>['exit'] = killed) {
      running.delete(id)
      handle({ type: 'exited', id, exit })
    },
    started: () => actions.filter((action) => action.type === 'start'),
    logged: () => actions.flatMap((action) => (action.type === 'log' ? [action.text] : [])),
  }
}

type World = ReturnType<typeof create>

const loaded = { type: 'loaded' } as const
const following = { type: 'following' } as const
const worked = { type: 'worked' } as const
const trouble = (reason: string) => ({ type: 'trouble', reason }) as const

/** A dispatcher that works, with the id 1. */
function createWorking(): World {
  const world = create()
  world.handle({ type: 'start_due' })
  world.say(1, loaded, following)
  return world
}

describe('a dispatcher that ended', () => {
  test('is started again after a pause that doubles up to 30 s, until one has worked', () => {
    const world = createWorking()
    const pauses: unknown[] = []
    for (let id = 1; id <= 9; id++) {
      world.exit(id)
      pauses.push(world.scheduled())
      world.fire()
    }
    expect(pauses).toEqual([500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000])
    world.say(10, loaded, following, worked)
    world.exit(10)
    expect(world.scheduled()).toBe(500)
    expect(world.now().ends).toBe(10)
  })

  test('tells the next how it ended, and whether it had loaded the handlers', () => {
    const world = createWorking()
    world.exit(1, { code: 3, signal: null })
    world.fire()
    world.handle({ type: 'stalled', id: 2 })
    world.exit(2)
    world.fire()
    expect(world.started().map(({ args }) => args)).toEqual([
      [],
      ['--last-end=it ended with code 3'],
      ['--after-end', '--last-end=its event loop was blocked for longer than HANDLER_STALL'],
    ])
  })

  test('leaves its own reason as the trouble, or a general one', () => {
    const world = createWorking()
    expect(world.now().status.trouble).toBeUndefined()
    world.exit(1)
    expect(world.now().status.trouble).toBe('the dispatcher died and is started again: see the log')
    world.fire()
    world.say(2, trouble('a.ts is broken'))
    world.exit(2)
    expect(world.now().status.trouble).toBe('a.ts is broken')
  })

  test('counts as an end also if it could not be started', () => {
    const world = createWorking()
    world.exit(1, { code: null, signal: null, error: new Error('EAGAIN') })
    expect(world.logged()).toContain('the dispatcher cannot be started')
    expect([world.now().ends, world.scheduled()]).toEqual([1, 500])
  })
})

describe('a reload', () => {
  test('replaces the dispatcher once the next one has loaded the handlers', () => {
    const world = createWorking()
    world.handle({ type: 'reload' })
    expect(world.started().at(-1)).toMatchObject({ id: 2, args: ['--replacing'] })
    world.say(2, { type: 'incoming_webhook', label: 'x', trouble: 'not yet' })
    expect(world.now()).toMatchObject({ current: 1, status: { incomingWebhooks: {} } })
    world.say(2, loaded)
    expect(world.now().current).toBe(2)
    expect(world.actions.at(-1)).toEqual({ type: 'end', id: 1, graceMs })
    expect(world.logged()).not.toContain('handlers were loaded again')
    world.exit(1, { code: 0, signal: null })
    expect(world.logged()).toContain('handlers were loaded again')
    expect(world.now().ends).toBe(0)
  })

  test('that fails leaves the dispatcher as it is', () => {
    for (const fail of [(world: World) => world.say(2, trouble('broken')), (world: World) => world.exit(2)]) {
      const world = createWorking()
      world.handle({ type: 'reload' })
      fail(world)
      expect(world.logged().at(-1)).toMatch(/^the handlers could not be loaded/)
      expect(world.now()).toMatchObject({ current: 1, ends: 0, status: { trouble: undefined } })
      expect(world.running.get(1)?.isEnding).toBe(false)
    }
  })

  test('during another one kills what loads, blames no handler for it, and then loads once more', () => {
    const world = createWorking()
    for (let count = 0; count < 3; count++) world.handle({ type: 'reload' })
    expect(world.actions.filter(({ type }) => type === 'kill')).toEqual([{ type: 'kill', id: 2 }])
    world.say(2, loaded)
    expect(world.now().current).toBe(1)
    world.exit(2)
    expect(world.started().map(({ id }) => id)).toEqual([1, 2, 3])
    expect(world.started().at(-1)?.args).toEqual(['--replacing'])
    world.say(3, loaded)
    world.exit(1)
    expect(world.started()).toHaveLength(3)
  })

  test('does not demand every handler if none works now, and cancels the next start', () => {
    const world = createWorking()
    world.exit(1)
    world.handle({ type: 'reload' })
    expect(world.started().at(-1)).toMatchObject({ id: 2, args: ['--last-end=it ended with SIGKILL'] })
    world.say(2, loaded)
    expect([world.now().current, world.scheduled()]).toEqual([2, undefined])
  })
})

test('what a dispatcher counts matters also while it is replaced; the rest does not', () => {
  const world = createWorking()
  world.handle({ type: 'reload' })
  world.say(2, loaded)
  const dead = { handler: 'h', id: '1', event: 'E', object: 'deal:1', reason: 'no' }
  world.say(1, { type: 'dead', dead }, trouble('old'))
  expect(world.now().status).toMatchObject({ dead: { count: 1, last: dead }, trouble: undefined })
})

test('whatever happens in whatever order, one dispatcher counts, two run at most, and none after a stop', () => {
  const steps = fc.array(fc.tuple(fc.nat(9), fc.nat(2)), { maxLength: 60 })
  fc.assert(
    fc.property(steps, fc.boolean(), (choices, stops) => {
      const world = createWorking()
      for (const [choice, which] of choices) act(world, choice, which)
      if (stops) world.handle({ type: 'stop', graceMs })
      const before = world.started().length
      // Everything that was asked to end ends, and what is due happens, until all is quiet.
      for (let round = 0; round < 20; round++) {
        for (const [id, { isEnding }] of world.running) if (isEnding) world.exit(id)
        if (world.scheduled() !== undefined) world.fire()
        for (const id of world.running.keys()) world.say(id, loaded, following)
      }
      const { running, current, loading, ending, isReloadDue, status } = world.now()
      const left = [...world.running.keys()]
      expect(running.map(({ id }) => id)).toEqual(left)
      expect(left).toEqual(stops ? [] : [current])
      expect([world.scheduled(), stops && world.started().length > before]).toEqual([undefined, false])
      const isQuiet = loading === undefined && ending === undefined && !isReloadDue && status.trouble === undefined
      expect(stops || isQuiet).toBe(true)
    }),
    { numRuns: 200 },
  )
})

/** One thing that may happen now. */
function act(world: World, choice: number, which: number): void {
  const id = [...world.running.keys()][which]
  if (choice === 0) world.handle({ type: 'reload' })
  else if (choice === 1 && world.scheduled() !== undefined) world.fire()
  else if (id === undefined) return
  else if (choice === 2) world.say(id, loaded)
  else if (choice === 3) world.say(id, loaded, following)
  else if (choice === 4) world.say(id, trouble('wrong'))
  else if (choice === 5) world.handle({ type: 'stalled', id })
  else if (choice === 7) world.exit(id, { code: null, signal: null, error: new Error('EAGAIN') })
  else world.exit(id)
  expect(world.running.size).toBeLessThanOrEqual(2)
  const starts = world.started()
  expect(new Set(starts.map((start) => start.id)).size).toBe(starts.length)
  const { current, status } = world.now()
  // One counts, or the next is scheduled.
  expect(world.running.has(current) || world.scheduled() !== undefined).toBe(true)
  expect(world.running.has(current) || status.trouble !== undefined).toBe(true)
}
