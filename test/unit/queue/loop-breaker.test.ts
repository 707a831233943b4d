import { expect, test } from 'vitest'
import { createLoopBreaker, type Hold } from '../../../src/queue/loop-breaker.ts'

function start(maxWatched?: number) {
  const clock = { now: 1_000_000 }
  const breaker = createLoopBreaker({ now: () => clock.now, ...(maxWatched !== undefined && { maxWatched }) })
  /** So many runs, each so many milliseconds after the one before. */
  const run = (times: number, every: number, key = 'deal:1'): (Hold | undefined)[] =>
    Array.from({ length: times }, () => {
      clock.now += every
      return breaker.wrote(key)
    })
  return { clock, breaker, run }
}

test('twenty runs within a minute are free, the twenty-first throttles the object and says why, once', () => {
  const { clock, breaker, run } = start()
  expect(run(20, 1_000).filter((hold) => hold)).toEqual([])
  expect(breaker.throttledUntil('deal:1')).toBeUndefined()
  const [hold] = run(1, 1_000)
  expect(hold?.until).toBe(clock.now + 60_000)
  expect(hold?.reason).toContain('ran 21 times within a minute')
  expect(breaker.throttledUntil('deal:1')).toBe(hold?.until)
  expect(run(1, 1_000)).toEqual([undefined])
})

test('other objects, and the object for other handlers, are not throttled', () => {
  const { breaker, run } = start()
  run(21, 100)
  expect(breaker.throttledUntil('deal:2')).toBeUndefined()
})

test('runs over a longer time are no loop', () => {
  expect(
    start()
      .run(500, 3_000)
      .filter((hold) => hold),
  ).toEqual([])
})

test('a throttled object goes on by itself, and each time it waits longer, up to a quarter of an hour', () => {
  const { clock, breaker, run } = start()
  const lengths: number[] = []
  for (let round = 0; round < 7; round++) {
    const hold = run(21, 100).at(-1)
    lengths.push((hold?.until ?? 0) - clock.now)
    clock.now = hold?.until ?? 0
    expect(breaker.throttledUntil('deal:1')).toBeUndefined()
  }
  expect(lengths.map((ms) => ms / 60_000)).toEqual([1, 2, 5, 10, 15, 15, 15])
})

test('an hour without throttling is forgiven', () => {
  const { clock, run } = start()
  run(21, 100)
  clock.now += 60_000 + 3_600_001
  const hold = run(21, 100).at(-1)
  expect((hold?.until ?? 0) - clock.now).toBe(60_000)
})

test('a clock that is put back throttles nothing for longer', () => {
  const { clock, breaker, run } = start()
  run(21, 100)
  clock.now -= 3_600_000
  expect(breaker.throttledUntil('deal:1')).toBeUndefined()
  expect(run(20, 1_000).filter((hold) => hold)).toEqual([])
})

test('only so many objects are remembered, those that ran last', () => {
  const { breaker, run } = start(3)
  run(21, 1, 'deal:1')
  for (const key of ['deal:2', 'deal:3']) run(1, 1, key)
  expect(breaker.throttledUntil('deal:1')).toBeDefined()
  run(1, 1, 'deal:4')
  expect(breaker.throttledUntil('deal:1')).toBeUndefined()
})
