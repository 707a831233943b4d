import { setImmediate as tick } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { type Alert, createAlerts } from '../../../src/alerts/alerts.ts'
import type { Condition, Kind } from '../../../src/alerts/conditions.ts'
import { createLines } from '../../support/intake.ts'

const second = 1_000
const minute = 60 * second
const hour = 60 * minute
const start = Date.parse('2026-11-23T08:00:00.000Z')

const condition = (news = 0, kind: Kind = 'dead_delivery'): Condition => ({
  kind,
  text: `${kind} ${news}`,
  news,
  details: { news },
})

/** A target that a test can close, and a clock that it moves. */
function watch() {
  const { log, lines } = createLines()
  const took: Alert[] = []
  let tries = 0
  let target = (): Promise<void> => Promise.resolve()
  const alerts = createAlerts({
    host: 'hooks',
    log,
    post: async (alert) => {
      tries++
      await target()
      took.push(alert)
    },
  })
  let at = start
  return {
    lines,
    took,
    tries: () => tries,
    told: () => took.map(({ kind, state, text }) => `${kind} ${state}: ${text}`),
    answer: (how: () => Promise<void>) => {
      target = how
    },
    /** Looks once a second for so long. */
    stay: async (ms: number, ...conditions: Condition[]): Promise<void> => {
      for (const end = at + ms; at < end; at += second) {
        alerts.update(conditions, at)
        await tick()
      }
    },
    move: (ms: number) => {
      at += ms
    },
  }
}

const refuse = () => Promise.reject(new Error('alerts.example answered with 500'))

test('what begins is reported once, however long it lasts, and once when it is over', async () => {
  const { stay, told, took } = watch()
  await stay(3 * hour, condition())
  await stay(hour)
  expect(told()).toEqual([
    'dead_delivery on: hooks: dead_delivery 0',
    'dead_delivery over: hooks: no dead delivery is left',
  ])
  expect(took[0]).toEqual({
    kind: 'dead_delivery',
    state: 'on',
    text: 'hooks: dead_delivery 0',
    MESSAGE: 'hooks: dead_delivery 0',
    at: '2026-11-23T08:00:00.000Z',
    since: '2026-11-23T08:00:00.000Z',
    host: 'hooks',
    details: { news: 0 },
  })
  expect(took[1]).toMatchObject({ at: '2026-11-23T11:00:00.000Z', since: '2026-11-23T08:00:00.000Z', details: {} })
})

test('each kind is reported by itself', async () => {
  const { stay, told } = watch()
  await stay(second, condition(), condition(0, 'silence'))
  await stay(second, condition())
  expect(told().map((line) => line.split(':')[0])).toEqual(['dead_delivery on', 'silence on', 'silence over'])
})

test('what joins it is reported an hour later, counted', async () => {
  const { stay, took } = watch()
  await stay(minute, condition(1))
  await stay(minute, condition(2))
  await stay(57 * minute, condition(4))
  expect(took).toHaveLength(1)
  await stay(2 * hour, condition(4))
  expect(took.slice(1)).toEqual([
    expect.objectContaining({
      state: 'on',
      text: 'hooks: 3 more: dead_delivery 4',
      at: '2026-11-23T09:00:00.000Z',
      since: '2026-11-23T08:00:00.000Z',
      details: { news: 4, more: 3 },
    }),
  ])
})

test('what comes and goes is reported once an hour, and its end only where its beginning was', async () => {
  const { stay, took } = watch()
  for (let turn = 0; turn < 120; turn++) {
    await stay(minute, condition())
    await stay(minute)
  }
  expect(took.map(({ state, at }) => `${state} ${at.slice(11, 16)}`)).toEqual([
    'on 08:00',
    'over 08:01',
    'on 09:00',
    'over 09:01',
    'on 10:00',
    'over 10:01',
    'on 11:00',
    'over 11:01',
  ])
})

test('what began again within the hour and lasts is reported when the hour is over, with its own beginning', async () => {
  const { stay, took } = watch()
  await stay(minute, condition())
  await stay(minute)
  await stay(2 * hour, condition())
  expect(took.at(-1)).toMatchObject({
    state: 'on',
    at: '2026-11-23T09:00:00.000Z',
    since: '2026-11-23T08:02:00.000Z',
  })
  expect(took).toHaveLength(3)
})

describe('after an end', () => {
  test('something new is reported at once, and that it is over as well', async () => {
    const { stay, took } = watch()
    await stay(minute, condition(1))
    await stay(minute)
    await stay(minute, condition(2))
    await stay(hour)
    expect(took.map(({ state, text, at }) => `${at.slice(11, 16)} ${state} ${text}`)).toEqual([
      '08:00 on hooks: dead_delivery 1',
      '08:01 over hooks: no dead delivery is left',
      '08:02 on hooks: dead_delivery 2',
      '08:03 over hooks: no dead delivery is left',
    ])
  })

  test('several that are new say how many', async () => {
    const { stay, took } = watch()
    await stay(minute, condition(1))
    await stay(minute)
    await stay(minute, condition(4))
    expect(took.at(-1)).toMatchObject({ text: 'hooks: 3 more: dead_delivery 4', details: { more: 3 } })
  })

  test('six beginnings an hour are reported; what is more is counted, and reported when the hour has room', async () => {
    const { stay, took } = watch()
    for (let news = 1; news <= 20; news++) {
      await stay(minute, condition(news))
      await stay(minute)
    }
    const on = () => took.filter(({ state }) => state === 'on').map(({ text, at }) => `${at.slice(11, 16)} ${text}`)
    expect(on()).toHaveLength(6)
    expect(on().at(-1)).toBe('08:10 hooks: dead_delivery 6')
    await stay(hour)
    // Over by then, and told all the same.
    expect(on().slice(6)).toEqual(['09:00 hooks: 14 more: dead_delivery 20'])
    expect(took.at(-1)).toMatchObject({ state: 'over' })
  })

  test('nothing new is reported again only when the hour is over', async () => {
    const { stay, took } = watch()
    await stay(minute, condition(1))
    await stay(minute)
    await stay(30 * minute, condition(1))
    expect(took).toHaveLength(2)
  })
})

describe('a target that fails', () => {
  test('is tried again, later and later, five minutes apart at last, and reported in the log', async () => {
    const { stay, answer, tries, took, lines } = watch()
    answer(refuse)
    await stay(hour, condition())
    const pauses = lines.map((line) => line['again_in_ms'])
    expect(pauses.slice(0, 8)).toEqual([5_000, 10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000])
    expect(lines[0]).toMatchObject({
      level: 40,
      kind: 'dead_delivery',
      state: 'on',
      reason: 'alerts.example answered with 500',
      msg: 'an alert could not be sent',
    })
    expect(tries()).toBeLessThan(20)
    answer(() => Promise.resolve())
    await stay(5 * minute, condition())
    expect(took).toMatchObject([{ state: 'on', since: '2026-11-23T08:00:00.000Z' }])
  })

  test('that has recovered is tried again soon when it fails another time', async () => {
    const { stay, answer, lines } = watch()
    answer(refuse)
    await stay(minute, condition())
    answer(() => Promise.resolve())
    await stay(minute, condition())
    answer(refuse)
    await stay(second)
    expect(lines.at(-1)).toMatchObject({ state: 'over', again_in_ms: 5_000 })
  })

  test('is tried again in time when the clock was put back meanwhile', async () => {
    const { stay, answer, move, took } = watch()
    answer(refuse)
    await stay(minute, condition())
    answer(() => Promise.resolve())
    move(-24 * hour)
    await stay(second, condition())
    expect(took).toHaveLength(1)
  })

  test('hears nothing of what is over meanwhile', async () => {
    const { stay, answer, tries, took } = watch()
    answer(refuse)
    await stay(minute, condition())
    const before = tries()
    answer(() => Promise.resolve())
    await stay(hour)
    expect({ took, tries: tries() }).toEqual({ took: [], tries: before })
  })

  test('hears what is true by then, not what could not be sent', async () => {
    const { stay, answer, took } = watch()
    answer(refuse)
    await stay(second, condition(1))
    answer(() => Promise.resolve())
    await stay(minute, condition(7))
    expect(took).toMatchObject([{ text: 'hooks: dead_delivery 7' }])
  })

  test('hears no end of what has begun again before it could be reported', async () => {
    const { stay, answer, took } = watch()
    await stay(second, condition())
    answer(refuse)
    await stay(second)
    answer(() => Promise.resolve())
    await stay(hour, condition())
    expect(took.map(({ state }) => state)).toEqual(['on'])
  })

  test('hears of something new that is over meanwhile', async () => {
    const { stay, answer, took } = watch()
    answer(refuse)
    await stay(minute, condition(1))
    await stay(minute)
    answer(() => Promise.resolve())
    await stay(10 * minute)
    expect(took.map(({ state, text }) => `${state} ${text}`)).toEqual([
      'on hooks: dead_delivery 1',
      'over hooks: no dead delivery is left',
    ])
  })

  test('does not hold up the other kinds', async () => {
    const { stay, answer, took } = watch()
    answer(refuse)
    await stay(second, condition())
    answer(() => Promise.resolve())
    await stay(second, condition(), condition(0, 'silence'))
    expect(took.map(({ kind }) => kind)).toEqual(['silence'])
  })
})

test('while a target does not answer nothing more of that kind is sent, and the end is reported after it', async () => {
  const { stay, answer, tries, took } = watch()
  const answered = Promise.withResolvers<void>()
  answer(() => answered.promise)
  await stay(minute, condition())
  await stay(second)
  expect(tries()).toBe(1)
  answered.resolve()
  await stay(second)
  await stay(second)
  expect(took.map(({ state }) => state)).toEqual(['on', 'over'])
})

test('a clock that is put back delays no report for longer than the hour', async () => {
  const { stay, move, took } = watch()
  await stay(second, condition())
  await stay(second)
  move(-24 * hour)
  await stay(second, condition())
  expect(took.map(({ state }) => state)).toEqual(['on', 'over', 'on'])
})
