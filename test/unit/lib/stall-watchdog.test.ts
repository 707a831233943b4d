import { duplexPair } from 'node:stream'
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from 'vitest'
import type { Exit } from '../../../src/lib/child-process.ts'
import { openChannel } from '../../../src/lib/ipc-channel.ts'
import { sendAlive, watchForStall } from '../../../src/lib/stall-watchdog.ts'

beforeEach(() => void vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] }))
afterEach(() => void vi.useRealTimers())

const stallMs = 1_000

/** A watchdog of a child that says nothing by itself. */
function watch() {
  const channel = openChannel<{ type: string }, never>(duplexPair()[0])
  const exited = Promise.withResolvers<Exit>()
  const stalls: number[] = []
  watchForStall({ channel, exited: exited.promise }, { stallMs, onStall: (silentMs) => stalls.push(silentMs) })
  onTestFinished(() => exited.resolve({ code: 0, signal: null }))
  return { stalls, say: () => channel.events.emit('message', { type: 'alive' }), exited }
}

test('a child that sends nothing for longer than the limit is stalled', () => {
  const { stalls, say } = watch()
  say()
  vi.advanceTimersByTime(stallMs)
  expect(stalls).toEqual([])
  vi.advanceTimersByTime(stallMs)
  expect(stalls).toEqual([1_500, 2_000])
})

test('a child that sends messages is never stalled, nor is one that has not sent its first', () => {
  const { stalls, say } = watch()
  vi.advanceTimersByTime(10 * stallMs)
  for (let count = 0; count < 20; count++) {
    say()
    vi.advanceTimersByTime(stallMs)
  }
  expect(stalls).toEqual([])
})

test('a child is not blamed for a pause of its parent', () => {
  const { stalls, say } = watch()
  say()
  vi.advanceTimersByTime(stallMs / 2)
  // The interval fires once after a pause, before the messages are read.
  const now = performance.now()
  vi.spyOn(performance, 'now').mockImplementation(() => now + 60_000)
  vi.advanceTimersByTime(stallMs / 2)
  expect(stalls).toEqual([])
  say()
  vi.advanceTimersByTime(stallMs / 2)
  expect(stalls).toEqual([])
})

test('the watch ends with the child', async () => {
  const { stalls, say, exited } = watch()
  say()
  exited.resolve({ code: 1, signal: null })
  await exited.promise
  vi.advanceTimersByTime(10 * stallMs)
  expect(stalls).toEqual([])
})

test('a process that runs sends often enough for its parent', () => {
  const { stalls, say } = watch()
  sendAlive({ send: say }, stallMs)
  vi.advanceTimersByTime(100 * stallMs)
  expect(stalls).toEqual([])
})
