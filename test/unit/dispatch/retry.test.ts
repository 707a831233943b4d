import { expect, test } from 'vitest'
import { nextTry } from '../../../src/dispatch/retry.ts'
import { FinalError, RetryAfter } from '../../../src/handler/handler.ts'
import { fc } from '../../support/random.ts'

const hour = 3_600_000
const failure = { error: new Error('no'), attempt: 1, spentMs: 0, retryFor: 72 * hour, random: 0.5 }
const delayOf = (more: Partial<Parameters<typeof nextTry>[0]>) => nextTry({ ...failure, ...more }).delayMs

test('a retry comes between a second and an hour later, whatever the attempt', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 10_000 }),
      fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
      (attempt, random) => {
        const delay = delayOf({ attempt, random })
        expect(delay).toBeGreaterThanOrEqual(1000)
        expect(delay).toBeLessThanOrEqual(hour)
      },
    ),
  )
})

test('the longest wait doubles with each attempt', () => {
  const longest = [1, 2, 3].map((attempt) => delayOf({ attempt, random: 0.999999 }))
  expect(longest).toEqual([1999, 3999, 7999])
})

test('RetryAfter chooses the time, FinalError none', () => {
  expect(nextTry({ ...failure, error: new RetryAfter('5m') })).toEqual({ delayMs: 300_000 })
  expect(nextTry({ ...failure, error: new FinalError('never') })).toEqual({ delayMs: undefined })
})

test.each(['0s', '1ms', '999ms'])('RetryAfter %s is a second', (delay) => {
  expect(delayOf({ error: new RetryAfter(delay) })).toBe(1_000)
})

test('RetryAfter beyond what is left of RETRY_FOR is refused: the next try comes as if it had chosen none', () => {
  const refused = { chosenMs: 96 * hour, leftMs: 72 * hour }
  expect(nextTry({ ...failure, error: new RetryAfter('4d') })).toEqual({ delayMs: delayOf({}), refused })
  const late = { ...failure, error: new RetryAfter('2d'), spentMs: 48 * hour }
  expect(nextTry(late)).toEqual({ delayMs: delayOf({}), refused: { chosenMs: 48 * hour, leftMs: 24 * hour } })
  expect(nextTry({ ...late, spentMs: 24 * hour })).toEqual({ delayMs: 48 * hour })
  expect(nextTry({ ...late, spentMs: 72 * hour }).delayMs).toBeUndefined()
})

test('whatever is chosen and however often, a delivery is dead once RETRY_FOR is used up, and never before', () => {
  const delays = fc.constantFrom(undefined, '0s', '1ms', '5m', '1h', '2d', '90d')
  fc.assert(
    fc.property(fc.array(delays, { minLength: 1 }), fc.integer({ min: 0, max: 200 * hour }), (chosen, retryFor) => {
      let spentMs = 0
      for (let attempt = 1; attempt < 300; attempt++) {
        const delay = chosen[attempt % chosen.length]
        const error = delay === undefined ? new Error('no') : new RetryAfter(delay)
        const { delayMs } = nextTry({ error, attempt, spentMs, retryFor, random: 0.5 })
        const left = retryFor - spentMs
        // The usual wait is an hour at most: nobody who has more left is given up.
        expect(delayMs ?? 0).toBeGreaterThanOrEqual(left > hour ? 1_000 : 0)
        expect(delayMs ?? 0).toBeLessThanOrEqual(left)
        if (delayMs === undefined) return
        spentMs += delayMs
      }
    }),
  )
})

test('both are known by their brand, so those of another copy of the package count too', () => {
  const foreign = Object.assign(new Error('x'), { [Symbol.for('bitrix24-webhook-receiver.final')]: true })
  expect(delayOf({ error: foreign })).toBeUndefined()
  const retry = (delay: unknown) =>
    Object.assign(new Error('x'), { [Symbol.for('bitrix24-webhook-receiver.retry')]: delay })
  expect(delayOf({ error: retry(60_000) })).toBe(60_000)
  for (const none of [undefined, Number.NaN, Number.POSITIVE_INFINITY, 'soon'])
    expect(delayOf({ error: retry(none) })).toBe(delayOf({}))
})

test('whatever is thrown that is no error of ours means a retry', () => {
  for (const error of [undefined, null, 'text', 7, {}]) expect(delayOf({ error })).toBeDefined()
})

test('a delivery whose next try would come after RETRY_FOR is dead', () => {
  expect(delayOf({ spentMs: 72 * hour })).toBeUndefined()
  expect(delayOf({ spentMs: 72 * hour - 3000 })).toBeDefined()
})

test('a time that is none is a mistake of the handler and says so', () => {
  expect(() => new RetryAfter('soon')).toThrow('RetryAfter: "soon" is no time such as 30s, 5m or 2h')
})
