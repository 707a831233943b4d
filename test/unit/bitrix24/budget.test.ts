import { setImmediate as tick } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { createBudget, type Rate } from '../../../src/bitrix24/budget.ts'
import { realClock } from '../../../src/lib/clock.ts'
import { createClock } from '../../support/clock.ts'

/** A budget, and the numbers of those who had their turn, in the order of it. */
function createTurns(rate: Rate) {
  const clock = createClock()
  const budget = createBudget({ ...rate, clock })
  const turns: number[] = []
  let asked = 0
  return {
    clock,
    budget,
    turns,
    ask: (signal?: AbortSignal): Promise<void> => {
      const number = asked++
      return budget.take(signal).then(() => void turns.push(number))
    },
    move: async (ms: number) => {
      clock.move(ms)
      await tick()
      return turns.length
    },
  }
}

test('a burst goes at once, and what is behind it at the rate, in the order of asking', async () => {
  const { ask, move, turns, budget } = createTurns({ rate: 2, burst: 50 })
  const all = Array.from({ length: 53 }, () => ask())
  expect(await move(0)).toBe(50)
  expect(budget.waiting).toBe(3)
  expect([await move(499), await move(1), await move(500), await move(500)]).toEqual([50, 51, 52, 53])
  await Promise.all(all)
  expect(turns).toEqual(Array.from({ length: 53 }, (_, number) => number))
})

test('in any span there are never more turns than the burst and what the rate gives', async () => {
  const { ask, clock, turns } = createTurns({ rate: 5, burst: 10 })
  const all = Promise.all(Array.from({ length: 60 }, () => ask()))
  const at: number[] = []
  while (turns.length < 60) {
    await tick()
    while (at.length < turns.length) at.push(clock.now())
    if (turns.length < 60) await clock.skip()
  }
  await all
  const spans = at.flatMap((from, first) => at.slice(first).map((to, index) => ({ turns: index + 1, ms: to - from })))
  const tooMany = spans.filter((span) => span.turns > 10 + (span.ms / 1000) * 5)
  expect(tooMany).toEqual([])
  expect(clock.now()).toBe(10_000)
})

test('quiet fills it again, but never above the burst', async () => {
  const { ask, move } = createTurns({ rate: 2, burst: 3 })
  await ask()
  await move(60_000)
  for (const _ of [1, 2, 3, 4]) void ask()
  expect(await move(0)).toBe(4)
  expect(await move(500)).toBe(5)
})

test('after a penalty no call goes until it is over, and then at the rate', async () => {
  const { ask, budget, move } = createTurns({ rate: 2, burst: 50 })
  budget.penalise(1_000)
  for (const _ of [1, 2]) void ask()
  expect([await move(1_000), await move(499), await move(1), await move(500)]).toEqual([0, 0, 1, 2])
})

test('a penalty holds who is waiting already', async () => {
  const { ask, budget, move } = createTurns({ rate: 2, burst: 1 })
  for (const _ of [1, 2]) void ask()
  expect(await move(400)).toBe(1)
  budget.penalise(1_000)
  expect([await move(100), await move(1_399), await move(1)]).toEqual([1, 1, 2])
})

test('who gives up while waiting leaves at once with the reason, and costs no other a turn', async () => {
  const { ask, move, turns } = createTurns({ rate: 1, burst: 1 })
  const first = new AbortController()
  const second = new AbortController()
  void ask()
  const left = [ask(first.signal), ask(second.signal)].map((turn) => expect(turn).rejects.toThrow('given up'))
  const stays = ask()
  await move(0)
  second.abort(new Error('given up'))
  first.abort(new Error('given up'))
  await Promise.all(left)
  expect(await move(1_000)).toBe(2)
  await stays
  expect(turns).toEqual([0, 3])
})

test('who has given up before asks for nothing', async () => {
  const { ask, budget, move } = createTurns({ rate: 1, burst: 1 })
  await expect(ask(AbortSignal.abort(new Error('given up')))).rejects.toThrow('given up')
  expect(budget.waiting).toBe(0)
  void ask()
  expect(await move(0)).toBe(1)
})

test('the real clock rejects with the reason of the signal', async () => {
  const giveUp = new AbortController()
  const sleeping = realClock.sleep(60_000, giveUp.signal)
  giveUp.abort(new Error('given up'))
  await expect(sleeping).rejects.toThrow('given up')
  await realClock.sleep(1, undefined)
})
