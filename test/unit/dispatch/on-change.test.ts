import { describe, expect, test } from 'vitest'
import type { LooseRecord } from '../../../src/bitrix24/record.ts'
import { judgeChange } from '../../../src/dispatch/on-change.ts'
import { isFinal } from '../../../src/handler/handler.ts'
import type { Delivery } from '../../../src/queue/queue.ts'
import { openSqliteQueue, queuePath } from '../../../src/queue/sqlite/queue.ts'
import { temporaryFolder } from '../../support/receiver.ts'
import { deliveryOf, eventOf, here, want } from '../queue/queue-contract.ts'

/** A handler of one deal, whose runs all complete; each gives its verdict and what it had before. */
function start(first: 'run' | 'remember' = 'run') {
  const queue = openSqliteQueue({ path: queuePath(temporaryFolder('on-change')) })
  let events = 0
  async function claim(name = 'ONCRMDEALUPDATE'): Promise<Delivery> {
    await queue.add([deliveryOf(eventOf(++events, 'deal:5', { name }))], here)
    const [delivery] = await queue.claim([want()], 1)
    if (!delivery) throw new Error('nothing was claimed')
    return delivery
  }
  const judge = (delivery: Delivery, names: readonly string[], record: LooseRecord | null) =>
    judgeChange({ delivery, names, first, queue, readRecord: async () => record })
  return {
    queue,
    claim,
    judge,
    arrive: async (record: LooseRecord | null, names = ['value'], name?: string) => {
      const delivery = await claim(name)
      const verdict = await judge(delivery, names, record)
      await queue.done(delivery, verdict.snapshot)
      return 'previous' in verdict ? { previous: verdict.previous } : verdict.verdict
    },
  }
}

describe('a value is the same', () => {
  test.each<[string, unknown, unknown]>([
    ['text', 'WON', 'WON'],
    ['null', null, null],
    ['a list of the same', [1, 'a', null], [1, 'a', null]],
    ['phones whose keys come in another order', [{ id: 1, value: '+1' }], [{ value: '+1', id: 1 }]],
    ['keys deep inside in another order', { a: { b: 1, c: [{ d: 1, e: 2 }] } }, { a: { c: [{ e: 2, d: 1 }], b: 1 } }],
    ['a text that is too long to keep', 'x'.repeat(9_000), 'x'.repeat(9_000)],
  ])('%s', async (_, before, after) => {
    const { arrive } = start()
    expect(await arrive({ id: 5, value: before })).toEqual({ previous: undefined })
    expect(await arrive({ id: 5, value: after, title: 'another' })).toBe('unchanged')
  })
})

describe('a value has changed', () => {
  test.each<[string, unknown, unknown]>([
    ['another text', 'NEW', 'WON'],
    ['a number that was a text', '5', 5],
    ['something that was null', null, ''],
    ['no that was nothing', null, false],
    ['a list in another order', [1, 2], [2, 1]],
    ['one more in the list', [{ id: 1 }], [{ id: 1 }, { id: 2 }]],
    ['something deep inside', [{ id: 1, value: '+1' }], [{ id: 1, value: '+2' }]],
    ['a list that was an object', {}, []],
    ['the text of a hash', 'x'.repeat(9_000), 'sha256:'],
  ])('%s', async (_, before, after) => {
    const { arrive } = start()
    await arrive({ id: 5, value: before })
    const run = await arrive({ id: 5, value: after })
    expect(run).toEqual({ previous: typeof before === 'string' && before.length > 100 ? {} : { value: before } })
    expect(await arrive({ id: 5, value: after })).toBe('unchanged')
  })

  test('the end of a text that is too long to keep: previous does not have it', async () => {
    const { arrive } = start()
    const names = ['long', 'stageId']
    await arrive({ long: `${'x'.repeat(9_000)}1`, stageId: 'NEW' }, names)
    expect(await arrive({ long: `${'x'.repeat(9_000)}2`, stageId: 'NEW' }, names)).toEqual({
      previous: { stageId: 'NEW' },
    })
  })
})

describe("with first: 'remember'", () => {
  test('a first sight is kept and not run, and the first change after it is', async () => {
    const { arrive } = start('remember')
    expect(await arrive({ value: 'NEW' })).toBe('remembered')
    expect(await arrive({ value: 'NEW' })).toBe('unchanged')
    expect(await arrive({ value: 'WON' })).toEqual({ previous: { value: 'NEW' } })
  })

  test('the deletion of an object that was never seen is run', async () => {
    const { arrive } = start('remember')
    expect(await arrive(null, ['value'], 'ONCRMDEALDELETE')).toEqual({ previous: undefined })
  })

  test('a field that is new in the list counts as changed', async () => {
    const { arrive } = start('remember')
    expect(await arrive({ value: 'NEW' })).toBe('remembered')
    expect(await arrive({ value: 'NEW', other: 1 }, ['value', 'other'])).toEqual({ previous: { value: 'NEW' } })
  })
})

test('what the handler does to its record changes nothing of what is kept', async () => {
  const { queue, claim, judge, arrive } = start()
  const record = { value: ['a'] }
  const delivery = await claim()
  const { snapshot } = await judge(delivery, ['value'], record)
  record.value.push('b')
  await queue.done(delivery, snapshot)
  expect(await arrive({ value: ['a'] })).toBe('unchanged')
})

describe('when other fields are listed', () => {
  test('one that is new is a change once, and not in previous', async () => {
    const { arrive } = start()
    const record = { value: 1, other: 2 }
    await arrive(record)
    expect(await arrive(record, ['value', 'other'])).toEqual({ previous: { value: 1 } })
    expect(await arrive(record, ['value', 'other'])).toBe('unchanged')
    expect(await arrive({ value: 2, other: 2 }, ['value', 'other'])).toEqual({ previous: { value: 1, other: 2 } })
  })

  test('all of them new are as if it was the first time', async () => {
    const { arrive } = start()
    await arrive({ value: 1, other: 2 })
    expect(await arrive({ value: 1, other: 2 }, ['other'])).toEqual({ previous: undefined })
  })

  test('one that is not listed any more does not count, and is forgotten with the next run', async () => {
    const { arrive } = start()
    const both = ['value', 'other']
    await arrive({ value: 1, other: 2 }, both)
    expect(await arrive({ value: 1, other: 3 }, ['value'])).toBe('unchanged')
    expect(await arrive({ value: 1, other: 3 }, both)).toEqual({ previous: { value: 1, other: 2 } })
    await arrive({ value: 2, other: 3 }, ['value'])
    expect(await arrive({ value: 2, other: 3 }, both)).toEqual({ previous: { value: 2 } })
  })
})

describe('a record that is gone', () => {
  test('is not run for, and what was kept is dropped', async () => {
    const { queue, claim, arrive } = start()
    await arrive({ value: 1 })
    expect(await arrive(null)).toBe('gone')
    expect(await queue.snapshot(await claim())).toBeUndefined()
  })

  test('is nothing new to the event of its deletion, which is run, calls no portal, and drops it', async () => {
    const { queue, claim, judge, arrive } = start()
    await arrive({ value: 1 })
    const delivery = await claim('ONCRMDEALDELETE')
    const readRecord = () => Promise.reject(new Error('not to be read'))
    const verdict = await judgeChange({ delivery, names: ['value'], first: 'run', queue, readRecord })
    expect(verdict).toEqual({ verdict: 'run', snapshot: null, previous: { value: 1 } })
    await queue.done(delivery, verdict.snapshot)
    expect(await judge(await claim('ONCRMDEALDELETE'), ['value'], null)).toMatchObject({ previous: undefined })
  })
})

describe('a field that the record does not have', () => {
  const record = { id: 5, title: 'Boat', stageId: null, stageSemanticId: 'P', UF_CRM_1639669411830: null }
  test.each([
    ['stageid', 'onChange names "stageid", and deal:5 has no such field; near it: stageId'],
    ['STAGE_ID', 'onChange names "STAGE_ID", and deal:5 has no such field; near it: stageId'],
    ['ufCrm_1639669411830', 'and deal:5 has no such field; near it: UF_CRM_1639669411830'],
    ['opportunity', 'onChange names "opportunity", and deal:5 has no such field, nor any of nearly that name'],
    ['constructor', 'onChange names "constructor", and deal:5 has no such field, nor any of nearly that name'],
  ])('"%s" is said with the near ones, and no other run would help', async (name, message) => {
    const { claim, judge } = start()
    const error = await judge(await claim(), [name], record).catch((thrown: unknown) => thrown)
    expect(String(error)).toContain(message)
    expect(isFinal(error)).toBe(true)
  })

  test('is each that is wrong; one that is null is there', async () => {
    const { claim, judge } = start()
    await expect(judge(await claim(), ['titel', 'stageId', 'stageSemantic'], record)).rejects.toThrow(
      /names "titel".*near it: title; .*names "stageSemantic".*near it: stageSemanticId/,
    )
  })
})
