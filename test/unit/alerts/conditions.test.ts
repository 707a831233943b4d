import { describe, expect, test } from 'vitest'
import { type Condition, createConditions, type Disk } from '../../../src/alerts/conditions.ts'
import type { Sample } from '../../../src/alerts/sample.ts'

const second = 1_000
const minute = 60 * second
const hour = 60 * minute
const start = Date.parse('2026-11-23T08:00:00.000Z')
const MB = 1024 ** 2

/** Looks every second, as the alerter does, and says what held. */
function watch({ alertAfterSilence }: { alertAfterSilence?: number } = {}) {
  const look = createConditions({ alertAfterSilence })
  let at = start
  let held: readonly Condition[] = []
  const see = (sample: Sample, disk?: Disk): string[] => {
    held = look(sample, disk, at)
    at += second
    return held.map(({ kind }) => kind)
  }
  return {
    now: () => at,
    see,
    /** The same for so long; gives what held at the end. */
    stay: (ms: number, sample: Sample): string[] => {
      for (const end = at + ms; at < end; ) see(sample)
      return held.map(({ kind }) => kind)
    },
    move: (ms: number) => {
      at += ms
    },
    held: () => held[0],
  }
}

const journal = (more: Partial<NonNullable<Sample['journal']>> = {}): Sample => ({
  journal: { lastEventAt: start, trouble: undefined, refused: 0, ...more },
})

test('where nothing is known nothing is wrong', () => {
  expect(watch({ alertAfterSilence: 1 }).see({})).toEqual([])
})

test('a throttled handler is reported until it may run again, with its event and its object', () => {
  const { see, held, stay } = watch()
  const last = {
    ...{ handler: 'sync', id: '7', event: 'ONCRMDEALUPDATE', object: 'deal:662', reason: 'ran 21 times' },
    until: start + minute,
  }
  expect(see({ throttled: { count: 0, last: undefined } })).toEqual([])
  expect(see({ throttled: { count: 1, last } })).toEqual(['handler_throttled'])
  expect(held()).toMatchObject({
    text: 'a handler is throttled: sync waits for deal:662 until 2026-11-23T08:01:00.000Z: it ran 21 times; the last event: ONCRMDEALUPDATE (7)',
    news: 1,
    details: { handler: 'sync', id: '7', event: 'ONCRMDEALUPDATE', object: 'deal:662' },
  })
  expect(stay(minute, { throttled: { count: 1, last } })).toEqual([])
})

describe('a dead delivery', () => {
  const last = { handler: 'sync', id: '7', event: 'ONCRMDEALUPDATE', object: 'deal:662', reason: 'Error: no' }

  test('is reported as long as one is in the queue, with the last one and why', () => {
    const { see, held } = watch()
    expect(see({ dead: { queued: 0, count: 0, last: undefined } })).toEqual([])
    expect(see({ dead: { queued: 1, count: 1, last } })).toEqual(['dead_delivery'])
    expect(held()?.text).toBe('a delivery is dead; the last: sync gave up ONCRMDEALUPDATE deal:662 (7): Error: no')
    expect(held()?.details).toEqual({ dead: 1, ...last })
    expect(see({ dead: { queued: 0, count: 1, last } })).toEqual([])
  })

  test('that died before the start is reported, too', () => {
    const { see, held } = watch()
    see({ dead: { queued: 3, count: 0, last: undefined } })
    expect(held()?.text).toBe('3 deliveries are dead, since before the start')
  })

  test('is news when it is another one, not when one was removed', () => {
    const { see, held } = watch()
    const news = [
      [5, 1],
      [6, 2],
      [5, 2],
    ].map(([queued = 0, count = 0]) => {
      see({ dead: { queued, count, last } })
      return held()?.news
    })
    expect(news).toEqual([1, 2, 2])
  })

  test('does not bring a whole page of its error into a chat', () => {
    const { see, held } = watch()
    see({ dead: { queued: 1, count: 1, last: { ...last, reason: 'x'.repeat(100_000) } } })
    expect(JSON.stringify(held()).length).toBeLessThan(3_000)
  })
})

describe('silence', () => {
  test('begins when no event came for so long and ends with the next one', () => {
    const { stay, see, held, now } = watch({ alertAfterSilence: 2 * hour })
    expect(stay(2 * hour, journal())).toEqual([])
    expect(see(journal())).toEqual(['silence'])
    expect(held()?.text).toBe('no event for 2 h, since 2026-11-23T08:00:00.000Z')
    expect(see(journal({ lastEventAt: now() }))).toEqual([])
  })

  test('is no matter where it is not asked for', () => {
    expect(watch().see(journal({ lastEventAt: 0 }))).toEqual([])
  })
})

describe('the journal', () => {
  test('is reported as long as it cannot be written and a minute more, with the reason', () => {
    const { stay, see, held } = watch()
    expect(see(journal({ trouble: 'ENOSPC: no space left on device' }))).toEqual(['journal_unavailable'])
    expect(stay(minute - second, journal())).toEqual(['journal_unavailable'])
    expect(held()?.text).toContain('ENOSPC')
    expect(see(journal())).toEqual([])
  })

  test('that fails and recovers between two samples is reported by the posts that were refused', () => {
    const { see, held } = watch()
    expect(see(journal({ refused: 3 }))).toEqual([])
    expect(see(journal({ refused: 4 }))).toEqual(['journal_unavailable'])
    expect(held()?.text).toContain('see the log')
  })
})

describe('a dispatcher', () => {
  const ended = (ends: number, trouble?: string): Sample => ({ dispatcher: { ends, trouble } })

  test('that ends three times in ten minutes is reported with the reason, until ten minutes went well', () => {
    const { stay, see, held } = watch()
    see(ended(0))
    see(ended(1, 'stages.ts:3: SyntaxError'))
    stay(9 * minute, ended(2))
    expect(see(ended(2))).toEqual([])
    see(ended(3, 'stages.ts:3: SyntaxError'))
    expect(see(ended(3))).toEqual(['dispatcher_restarting'])
    expect(held()?.text).toBe('the dispatcher ended 3 times within 10 minutes, events wait: stages.ts:3: SyntaxError')
    expect(stay(10 * minute - 3 * second, ended(3))).toEqual(['dispatcher_restarting'])
    expect(stay(3 * second, ended(3))).toEqual([])
  })

  test('that ends now and then is replaced, and no more is said', () => {
    const { stay } = watch()
    for (let ends = 0; ends < 20; ends++) expect(stay(5 * minute + second, ended(ends))).toEqual([])
  })

  test('is known since before the first look: how often it ended by then is no burst', () => {
    expect(watch().see(ended(100))).toEqual([])
  })
})

describe('a handler that is not loaded', () => {
  test('is reported until it is loaded, and is news when it is another one', () => {
    const { see, held } = watch()
    expect(see({ absent: {} })).toEqual([])
    expect(see({ absent: { one: 'one is gone' } })).toEqual(['handler_not_loaded'])
    expect(held()).toMatchObject({ text: 'one is gone', details: { handlers: ['one'] } })
    const news = held()?.news ?? 0
    see({ absent: { one: 'one is gone', two: 'two.mjs is late' } })
    expect(held()).toMatchObject({ text: 'one is gone; two.mjs is late', news: news + 1 })
    see({ absent: { two: 'two.mjs is late' } })
    expect(held()?.news).toBe(news + 1)
    expect(see({ absent: {} })).toEqual([])
  })
})

describe('an incoming webhook', () => {
  const one = { a: 'the incoming webhook of a.example is dead: expired_token' }
  const two = { b: 'the incoming webhook of b.example is unreachable' }

  test('that does not work is reported, and for a minute after a new dispatcher has started', () => {
    const { stay, see, held } = watch()
    see({ incomingWebhooks: {} })
    expect(see({ incomingWebhooks: one })).toEqual(['incoming_webhook_refused'])
    const news = held()?.news
    expect(stay(minute - 2 * second, { incomingWebhooks: {} })).toEqual(['incoming_webhook_refused'])
    see({ incomingWebhooks: one })
    expect(held()?.news).toBe(news)
    expect(stay(minute, { incomingWebhooks: {} })).toEqual([])
  })

  test('is news when it is another one', () => {
    const { see, held } = watch()
    see({ incomingWebhooks: one })
    const news = held()?.news ?? 0
    see({ incomingWebhooks: { ...one, ...two } })
    expect(held()).toMatchObject({ news: news + 1, details: { incoming_webhooks: [one.a, two.b] } })
  })

  test('is no news when it fails for another reason, and is reported with that alone', () => {
    const { see, held } = watch()
    see({ incomingWebhooks: one })
    const news = held()?.news
    const reason = 'the incoming webhook of a.example is unreachable: ECONNREFUSED'
    see({ incomingWebhooks: {} })
    see({ incomingWebhooks: { a: reason } })
    expect(held()).toMatchObject({ news, details: { incoming_webhooks: [reason] } })
  })

  test('that has worked for a minute is not among those that do not', () => {
    const { see, stay, held } = watch()
    see({ incomingWebhooks: { ...one, ...two } })
    stay(minute, { incomingWebhooks: two })
    expect(held()?.details).toEqual({ incoming_webhooks: [two.b] })
  })
})

describe('wrong tokens', () => {
  test('are reported from the tenth within ten minutes on, until none came for ten minutes', () => {
    const { stay, see, held } = watch()
    see({ wrongTokens: 0 })
    see({ wrongTokens: 9 })
    expect(stay(10 * minute, { wrongTokens: 9 })).toEqual([])
    expect(see({ wrongTokens: 18 })).toEqual([])
    expect(see({ wrongTokens: 19 })).toEqual(['wrong_tokens'])
    expect(held()?.details).toEqual({ count: 10 })
    stay(9 * minute, { wrongTokens: 20 })
    expect(stay(2 * minute, { wrongTokens: 20 })).toEqual([])
  })
})

test('a clock that is put back keeps nothing wrong for longer', () => {
  const { stay, see, move } = watch()
  see({ wrongTokens: 0 })
  expect(see({ wrongTokens: 10, ...journal({ trouble: 'EIO' }) })).toEqual(['journal_unavailable', 'wrong_tokens'])
  move(-24 * hour)
  expect(stay(10 * minute, { wrongTokens: 10, ...journal() })).toEqual([])
})

test('what was wrong earlier is not given as the reason of what is wrong now', () => {
  const { stay, see, held } = watch()
  see({
    incomingWebhooks: { one: 'one is dead' },
    dispatcher: { ends: 0, trouble: 'a.ts is broken' },
    ...journal({ trouble: 'ENOSPC' }),
  })
  stay(10 * minute, { incomingWebhooks: {}, dispatcher: { ends: 0, trouble: undefined }, ...journal() })
  see({ incomingWebhooks: { two: 'two is dead' } })
  expect(held()?.details).toEqual({ incoming_webhooks: ['two is dead'] })
  see(journal({ refused: 1 }))
  expect(held()?.details).toEqual({ reason: 'see the log' })
  see({ dispatcher: { ends: 3, trouble: undefined } })
  expect(held()?.details).toEqual({ ends: 3, reason: undefined })
})

describe('the disk', () => {
  const disk = (free: number, size: number): [Sample, Disk] => [{}, { free: free * MB, size: size * MB }]

  test('is nearly full below 500 MB, of a small one below a twentieth, until twice as much is free', () => {
    const { see, held } = watch()
    expect(see(...disk(500, 100_000))).toEqual([])
    expect(see(...disk(499, 100_000))).toEqual(['disk_nearly_full'])
    expect(held()?.text).toBe('the disk of DATA_DIR is nearly full: 499 MB of 100000 MB are free')
    expect(see(...disk(999, 100_000))).toEqual(['disk_nearly_full'])
    expect(see(...disk(1_000, 100_000))).toEqual([])
    expect(see(...disk(51, 1_000))).toEqual([])
    expect(see(...disk(49, 1_000))).toEqual(['disk_nearly_full'])
  })
})
