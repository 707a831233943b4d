import { expect, test } from 'vitest'
import { judge, type OwnWrite, type Question, type Verdict } from '../../../src/queue/own-change-rules.ts'

const HOOK = '17'
const PERSON = '7'
let keys = 0

/** A write in second 100 of the portal, at 1000 ms of ours. */
function write(more: Partial<OwnWrite> = {}): OwnWrite {
  return {
    key: keys++,
    handler: 'h',
    user: HOOK,
    event: 'ONCRMDEALUPDATE',
    sentAt: 1_000,
    first: 100,
    last: 100,
    isCertain: true,
    accounted: [],
    ...more,
  }
}

function ask(writes: readonly OwnWrite[], more: Partial<Question> = {}): Question {
  return {
    handler: 'h',
    event: 'ONCRMDEALUPDATE',
    subscription: 'ONCRMDEALUPDATE#312',
    receivedAt: 2_000,
    coalesced: 1,
    writes,
    isComplete: true,
    ...more,
  }
}

const byUs = (at = 100) => ({ at, user: HOOK })
const byPerson = (at = 100) => ({ at, user: PERSON })
const unsure = { isCertain: false }

test.each<[situation: string, verdict: Verdict, question: Question, change: ReturnType<typeof byUs> | undefined]>([
  ['our write is the last change', 'own_change', ask([write()]), byUs()],
  ['nothing was written', 'run', ask([]), byUs()],
  ['the record is gone, or does not say who changed it when', 'run', ask([write()]), undefined],
  ['a person changed it later', 'run', ask([write()]), byPerson(101)],
  ['a person changed it within the second of our write', 'run', ask([write()]), byPerson()],
  ['the user of the incoming webhook changed it later by other means', 'run', ask([write()]), byUs(101)],
  ['the user of the incoming webhook changed it before, and what is read is old', 'run', ask([write()]), byUs(99)],
  ['the incoming webhook has another user by now', 'run', ask([write({ user: '18' })]), byUs()],
  ['another handler wrote: to this one that is news', 'run', ask([write({ handler: 'other' })]), byUs()],
  [
    'another handler wrote after us',
    'run',
    ask([write(), write({ handler: 'other', first: 101, last: 101 })]),
    byUs(101),
  ],
  ['the write took a while', 'own_change', ask([write({ first: 98, last: 103 })]), byUs(101)],
  ['the event came before the write was sent', 'run', ask([write()], { receivedAt: 999 }), byUs()],
  ['the write has had its event', 'run', ask([write({ accounted: ['ONCRMDEALUPDATE#312'] })]), byUs()],
  [
    'the write has had its event by another subscription',
    'own_change',
    ask([write({ accounted: ['ONCRMDEALUPDATE#9'] })]),
    byUs(),
  ],
  [
    'the event is another one than the write fires',
    'run',
    ask([write()], { event: 'ONCRMDEALMOVETOCATEGORY' }),
    byUs(),
  ],
  [
    'a later write of ours is there: its event may be the first',
    'own_change',
    ask([write(), write({ first: 105, last: 105 })]),
    byUs(105),
  ],
  ['the run would stand for two events, both ours', 'own_change', ask([write(), write()], { coalesced: 2 }), byUs()],
  ['the run would stand for two events, one ours', 'run', ask([write()], { coalesced: 2 }), byUs()],
  ['the write may have changed nothing, but the change is there', 'own_change', ask([write(unsure)]), byUs()],
  ['the change may be of a request that was not answered', 'run', ask([write(unsure)], { isComplete: false }), byUs()],
  ['a request was not answered, but ours is sure', 'own_change', ask([write()], { isComplete: false }), byUs()],
  ['one of two has changed the record: which, nobody knows', 'run', ask([write(unsure), write(unsure)]), byUs()],
  ['one that may have changed nothing beside one that did', 'own_change', ask([write(unsure), write()]), byUs()],
  ['the change is another handler’s or ours', 'run', ask([write(unsure), write({ handler: 'other' })]), byUs()],
  [
    'what may have changed nothing is not the last change',
    'run',
    ask([write(unsure), write({ first: 101, last: 101, event: undefined })]),
    byUs(101),
  ],
])('%s: %s', (_, verdict, question, change) => {
  expect(judge(question, change).verdict).toBe(verdict)
})

test('an own change counts for one write, and a run or an own change of several for all that it may be of', () => {
  const earlier = write()
  const later = write({ first: 101, last: 101 })
  const tooLate = write({ first: 105, last: 105, sentAt: 5_000 })
  const writes = [earlier, later, tooLate]
  expect(judge(ask(writes), byUs(101)).accounted).toEqual([earlier])
  expect(judge(ask(writes, { coalesced: 2 }), byUs(101)).accounted).toEqual([earlier, later])
  expect(judge(ask(writes), byPerson(101)).accounted).toEqual([earlier, later])
})

test('what can be decided only now is accounted first', () => {
  const certain = write()
  const proved = write({ ...unsure, first: 101, last: 101 })
  expect(judge(ask([certain, proved]), byUs(101)).accounted).toEqual([proved])
})
