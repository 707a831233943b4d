import { PassThrough } from 'node:stream'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { createBodyReader } from '../../../src/intake/body.ts'
import { Refusal } from '../../../src/intake/refusal.ts'
import { goodBody, open, post, request, startServer } from '../../support/intake.ts'
import { fc } from '../../support/random.ts'

const megabyte = 1024 ** 2

/** A reader, and connections that send what they are told. */
function createSenders(bodyLimit: number, total?: number) {
  const reader = createBodyReader({ bodyLimit, ...(total !== undefined && { total }) })
  const incomingWebhook = reader.gather()
  const connect = (announced?: number) => {
    const payload = new PassThrough()
    const outcome: { bytes?: Buffer; code?: string } = {}
    const headers = announced === undefined ? {} : { 'content-length': String(announced) }
    incomingWebhook({ headers, mediaType: 'application/x-www-form-urlencoded' }, undefined, payload, (error, body) => {
      if (error instanceof Refusal) outcome.code = error.code
      else if (error) outcome.code = error.message
      else if (body) outcome.bytes = body.read()
      // A small one is left to Fastify, which hears of a refusal like this.
      else payload.on('error', (later) => (outcome.code = later instanceof Refusal ? later.code : later.message))
    })
    return {
      outcome,
      payload,
      /** What was sent has been read when it returns. */
      send: (bytes: number | Buffer) => {
        payload.emit('data', typeof bytes === 'number' ? Buffer.alloc(bytes) : bytes)
      },
      end: () => payload.emit('end'),
      fail: () => payload.emit('error', new Error('aborted')),
      listeners: () => ['data', 'end'].map((name) => payload.listenerCount(name)),
    }
  }
  return Object.assign(connect, { reader })
}

test('a body is what its pieces are, in whatever pieces it comes', () => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 50 })),
      fc.constantFrom(undefined, 100_000),
      (pieces, announced) => {
        const whole = Buffer.concat(pieces)
        const sender = createSenders(200_000)(announced)
        for (const piece of pieces) sender.send(Buffer.from(piece))
        sender.end()
        expect(sender.outcome.bytes).toEqual(whole)
      },
    ),
  )
})

test('a body that comes byte by byte holds no more than twice its length', () => {
  const sender = createSenders(100_000)()
  for (let byte = 0; byte < 50_001; byte++) sender.send(Buffer.from('a'))
  sender.end()
  expect(sender.outcome.bytes?.toString()).toBe('a'.repeat(50_001))
  expect(sender.outcome.bytes?.buffer.byteLength).toBeLessThanOrEqual(100_002)
})

test('large bodies go on one in a turn of the event loop, and small ones do not wait for them', async () => {
  const connect = createSenders(megabyte)
  const large = Array.from({ length: 3 }, () => connect())
  for (const one of large) {
    one.send(100_000)
    one.end()
  }
  const small = connect()
  small.send(700)
  small.end()
  const done = () => large.filter(({ outcome }) => outcome.bytes !== undefined).length
  expect([done(), small.outcome.bytes?.length]).toEqual([0, 700])
  const seen = new Set<number>()
  while (done() < 3) {
    await new Promise((resolve) => setImmediate(resolve))
    seen.add(done())
  }
  expect([...seen]).toEqual(expect.arrayContaining([1, 2, 3]))
})

test('of many megabytes that come at once some are read whole, and of slow ones the newest takes the place', () => {
  vi.useFakeTimers({ toFake: ['performance'] })
  onTestFinished(() => void vi.useRealTimers())
  const connect = createSenders(megabyte, 2 * megabyte)
  const [first, second, third] = [connect(), connect(), connect()]
  first.send(700_000)
  second.send(900_000)
  third.send(600_000)
  expect([first, second, third].map(({ outcome }) => outcome.code)).toEqual([undefined, undefined, 'overloaded'])
  vi.advanceTimersByTime(1_001)
  const late = connect()
  late.send(800_000)
  expect([first, second, late].map(({ outcome }) => outcome.code)).toEqual([undefined, 'overloaded', undefined])
})

test('memory of refused bodies serves later ones, and none of it shows in them', async () => {
  const connect = createSenders(megabyte, megabyte)
  for (let round = 0; round < 3; round++) {
    const refused = connect()
    refused.send(Buffer.alloc(60_000, 'a'))
    refused.send(Buffer.alloc(940_000, 'a'))
    refused.send(100_000)
    expect(refused.outcome.code).toBe('body_too_large')
    const later = connect()
    for (let piece = 0; piece < 20; piece++) later.send(Buffer.alloc(30_000, 'b'))
    later.end()
    await vi.waitFor(() => expect(later.outcome.bytes?.equals(Buffer.alloc(600_000, 'b'))).toBe(true), {
      timeout: 300_000,
    })
  }
})

test('a whole large body goes before one that still arrives, and a small one before both', async () => {
  const connect = createSenders(megabyte, megabyte)
  const [whole, other, later] = [connect(), connect(), connect()]
  whole.send(700_000)
  whole.end()
  other.send(300_000)
  other.end()
  later.send(100_000)
  expect(later.outcome).toEqual({ code: 'overloaded' })
  const small = Array.from({ length: 4 }, () => connect())
  for (const one of small) {
    one.send(60_000)
    expect(one.outcome).toEqual({})
  }
  expect(whole.outcome).toEqual({ code: 'overloaded' })
  await vi.waitFor(() => expect(other.outcome.bytes?.length).toBe(300_000))
})

test('the bytes are looked at before anything else reads them, and refused bytes go no further', () => {
  const seen: string[] = []
  const gather = createBodyReader({ bodyLimit: 100 }).gather((bytes) => {
    seen.push(String(bytes))
    throw new Refusal('invalid_application_token')
  })
  const payload = new PassThrough()
  const results: unknown[] = []
  gather({ headers: {}, mediaType: 'application/x-www-form-urlencoded' }, undefined, payload, (...result) => {
    results.push(...result)
  })
  payload.emit('data', Buffer.from('a='))
  payload.emit('data', Buffer.from('1'))
  payload.emit('end')
  expect(seen).toEqual(['a=1'])
  expect(results).toEqual([expect.objectContaining({ code: 'invalid_application_token' })])
})

test.each(['application/json', undefined])('a body of the type %s is not read, but left to Fastify', (mediaType) => {
  const payload = new PassThrough()
  const results: unknown[] = []
  createBodyReader({ bodyLimit: 100 }).gather()({ headers: {}, mediaType }, undefined, payload, (...result) => {
    results.push(result)
  })
  expect([results, payload.listenerCount('data')]).toEqual([[[]], 0])
})

describe('bodies under way have a total', () => {
  test('the largest that still arrives is refused for it, and the others go on', () => {
    const connect = createSenders(100, 300)
    const large = Array.from({ length: 3 }, () => connect())
    for (const [index, one] of large.entries()) one.send(90 + index)
    const small = Array.from({ length: 4 }, () => connect())
    for (const one of small) one.send(20)
    for (const one of [...large, ...small]) one.end()
    expect(large.map(({ outcome }) => outcome.code)).toEqual([undefined, undefined, 'overloaded'])
    expect(small.map(({ outcome }) => outcome.bytes?.length)).toEqual([20, 20, 20, 20])
  })

  test('what a large one only announces takes no place', () => {
    const connect = createSenders(100_000, 300)
    const idle = Array.from({ length: 50 }, () => connect(100_000))
    const one = connect()
    one.send(100)
    one.end()
    expect(one.outcome.bytes?.length).toBe(100)
    expect(idle.map(({ outcome }) => outcome)).toEqual(idle.map(() => ({})))
  })

  test('what a small one announces takes its place until it has come, and of several the largest is refused', () => {
    const connect = createSenders(100, 300)
    const [first, large, ...others] = [connect(90), connect(100), connect(90), connect(90)]
    expect([first, large, ...others].map((one) => one?.outcome.code)).toEqual([
      undefined,
      'overloaded',
      undefined,
      undefined,
    ])
    for (const one of others) connect.reader.arrived(one.payload)
    const later = [connect(100), connect(100)]
    expect([first, ...later].map((one) => one?.outcome.code)).toEqual([undefined, undefined, undefined])
  })

  test('a small one that ended before anyone saw it whole takes no place', () => {
    const connect = createSenders(100, 300)
    for (let round = 0; round < 5_000; round++) connect(100).payload.destroy()
    const later = [connect(100), connect(100), connect(100)]
    expect(later.map(({ outcome }) => outcome.code)).toEqual([undefined, undefined, undefined])
  })

  test('what was read whole counts until it is answered, and is never taken back', () => {
    const connect = createSenders(100, 300)
    const full = Array.from({ length: 3 }, () => connect())
    for (const one of full) {
      one.send(100)
      one.end()
    }
    const holds = full.map(({ outcome }) => connect.reader.parse(String(outcome.bytes)).hold())
    const late = connect()
    late.send(10)
    expect(late.outcome.code).toBe('overloaded')
    for (const hold of holds) hold()
    const later = connect()
    later.send(100)
    later.end()
    expect(later.outcome.bytes?.length).toBe(100)
  })

  test('what ended in any way counts no more', () => {
    const connect = createSenders(100, 300)
    for (let round = 0; round < 100; round++) {
      const [broken, long, late] = [connect(), connect(), connect()]
      broken.send(90)
      broken.fail()
      long.send(90)
      long.send(90)
      late.send(90)
      // Its connection went before a handler took it.
      late.end()
      expect([broken, long].map(({ outcome }) => outcome.code)).toEqual(['aborted', 'body_too_large'])
      expect([broken, long, late].flatMap(({ listeners }) => listeners())).toEqual(Array(6).fill(0))
    }
    const fitting = Array.from({ length: 3 }, () => connect())
    for (const one of fitting) one.send(100)
    expect(fitting.map(({ outcome }) => outcome.code)).toEqual([undefined, undefined, undefined])
  })
})

test.each([
  ['large', megabyte, 40],
  ['small', 60_000, 200],
])(
  'while strangers hold all the memory that there is with %s bodies, ordinary posts are taken',
  async (_, size, count) => {
    await using server = await startServer({ bodyLimit: megabyte })
    const half = request(Buffer.alloc(size, 'a')).subarray(0, -1)
    const strangers = Array.from({ length: count }, () => open(server.port))
    try {
      for (const stranger of strangers) stranger.write(half)
      const refused = () => server.lines.filter(({ code }) => code === 'overloaded').length
      await vi.waitFor(() => expect(refused()).toBeGreaterThan(9), { timeout: 300_000 })
      const answers = await Promise.all(Array.from({ length: 50 }, () => post(server.port, goodBody)))
      expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]))
    } finally {
      for (const stranger of strangers) stranger.socket.destroy()
    }
  },
)
