import { afterEach, beforeEach, expect, onTestFinished, test, vi } from 'vitest'
import { createRunTimer } from '../../../src/dispatch/run-timer.ts'

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }))
afterEach(() => void vi.useRealTimers())

function start(timeout: number) {
  const timer = createRunTimer(timeout)
  let isOverdue = false
  void timer.overdue.then(() => {
    isOverdue = true
  })
  return {
    ...timer,
    /** Lets so many milliseconds go by; gives what the timer says then. */
    pass: async (ms: number) => {
      await vi.advanceTimersByTimeAsync(ms)
      if (isOverdue) return 'overdue'
      return timer.signal.aborted ? 'late' : 'in time'
    },
  }
}

test('the signal aborts when the time is up, and the run is overdue after the same time again', async () => {
  const { pass, signal } = start(1_000)
  expect(await pass(999)).toBe('in time')
  expect(await pass(1)).toBe('late')
  expect(signal.reason).toMatchObject({
    name: 'TimeoutError',
    message: 'The operation was aborted due to timeout',
  })
  expect(await pass(999)).toBe('late')
  expect(await pass(1)).toBe('overdue')
})

test('a run is aborted by its signal before it is overdue, also where the whole process stood still', async () => {
  const { pass } = start(1_000)
  const now = performance.now.bind(performance)
  const frozen = vi.spyOn(performance, 'now').mockImplementation(() => now() + 60_000)
  onTestFinished(() => frozen.mockRestore())
  expect(await pass(1_000)).toBe('late')
  expect(await pass(999)).toBe('late')
  expect(await pass(1)).toBe('overdue')
})

test('the time stands still during a wait, before and after the signal', async () => {
  const { pass, whileWaiting } = start(1_000)
  await pass(600)
  for (const [after, says] of [
    [400, 'late'],
    [1_000, 'overdue'],
  ] as const) {
    const wait = Promise.withResolvers<string>()
    const waited = whileWaiting(wait.promise)
    const before = await pass(3_600_000)
    wait.resolve('its turn')
    expect(await waited).toBe('its turn')
    expect(await pass(after - 1)).toBe(before)
    expect(await pass(1)).toBe(says)
  }
})

test('waits at the same time count once, and the time goes on only after the last of them', async () => {
  const { pass, whileWaiting } = start(1_000)
  const first = Promise.withResolvers<void>()
  const second = Promise.withResolvers<void>()
  const both = [whileWaiting(first.promise), whileWaiting(second.promise)]
  await pass(5_000)
  first.resolve()
  await both[0]
  expect(await pass(5_000)).toBe('in time')
  second.resolve()
  await both[1]
  expect(await pass(999)).toBe('in time')
  expect(await pass(1)).toBe('late')
})

test('a wait that fails is over, and fails the same', async () => {
  const { pass, whileWaiting } = start(1_000)
  await expect(whileWaiting(Promise.reject(new Error('aborted')))).rejects.toThrow('aborted')
  expect(await pass(1_000)).toBe('late')
})

test('a timer that was stopped says nothing any more, also when a call of its run still waits', async () => {
  const { pass, whileWaiting, stop } = start(1_000)
  const wait = Promise.withResolvers<void>()
  const waited = whileWaiting(wait.promise)
  stop()
  wait.resolve()
  await waited
  expect(await pass(10_000)).toBe('in time')
  expect(vi.getTimerCount()).toBe(0)
})

test('an interruption aborts the signal before its time, and after its end nothing', async () => {
  const interrupt = new AbortController()
  const timer = createRunTimer(1_000, interrupt.signal)
  interrupt.abort(new Error('stop'))
  expect(timer.signal.reason).toEqual(new Error('stop'))
  timer.stop()
})
