import fc from 'fast-check'
import { expect, test } from 'vitest'
import { FinalError, RetryAfter } from '../../src/dispatch/handler.ts'
import { nextTry } from '../../src/dispatch/retry.ts'

const hour = 3_600_000
const failure = { error: new Error('no'), attempt: 1, firstRunAt: 0, now: 0, retryFor: 72 * hour, random: 0.5 }

test('a retry comes between a second and an hour later, whatever the attempt', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 10_000 }),
      fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
      (attempt, random) => {
        const due = nextTry({ ...failure, attempt, random })
        expect(due).toBeGreaterThanOrEqual(1000)
        expect(due).toBeLessThanOrEqual(hour)
      },
    ),
  )
})

test('the longest wait doubles with each attempt', () => {
  const longest = [1, 2, 3].map((attempt) => nextTry({ ...failure, attempt, random: 0.999999 }))
  expect(longest).toEqual([1999, 3999, 7999])
})

test('RetryAfter chooses the time, FinalError none', () => {
  expect(nextTry({ ...failure, now: 500, error: new RetryAfter('5m') })).toBe(300_500)
  expect(nextTry({ ...failure, error: new FinalError('never') })).toBeUndefined()
})

test('both are known by their brand, so those of another copy of the package count too', () => {
  const foreign = Object.assign(new Error('x'), { [Symbol.for('bitrix24-webhook-receiver.final')]: true })
  expect(nextTry({ ...failure, error: foreign })).toBeUndefined()
})

test('whatever is thrown that is no error of ours means a retry', () => {
  for (const error of [undefined, null, 'text', 7, {}]) expect(nextTry({ ...failure, error })).toBeDefined()
})

test('a delivery whose next try would come after RETRY_FOR is dead', () => {
  expect(nextTry({ ...failure, now: 72 * hour })).toBeUndefined()
  expect(nextTry({ ...failure, now: 72 * hour - 3000 })).toBeDefined()
})

test('a time that is none is a mistake of the handler and says so', () => {
  expect(() => new RetryAfter('soon')).toThrow('RetryAfter: "soon" is no time such as 30s, 5m or 2h')
})
