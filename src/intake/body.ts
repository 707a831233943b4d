import { Readable } from 'node:stream'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { FastifyRequest } from 'fastify'
import { Refusal } from './refusal.ts'
import { createBodyMemory, large } from './body-memory.ts'
import { decodeForm, type Form } from './form.ts'

/** A body that came whole and is a form. Not an interface: that would not be what formbody takes from its parser. */
export type Body = {
  readonly text: string
  /** @throws {Refusal} as `decodeForm` */
  readonly decode: () => Form
  /** The body counts as under way until what this returns is called. */
  readonly hold: () => () => void
}

export interface BodyReader {
  /**
   * Makes a `preParsing` hook that refuses a body: `body_too_large`, `overloaded`. A large one it reads, and hands on in one
   * piece; one that says that it is small Fastify reads.
   *
   * @param check throws a refusal if these bytes of a large one are not worth decoding
   */
  readonly gather: (check?: Check) => Hook
  /** To be told of each that is whole. */
  readonly arrived: (payload: Readable) => void
  /** The parser for formbody. */
  readonly parse: (text: string) => Body
}

type Check = (bytes: Buffer) => void

type Hook = (
  request: Pick<FastifyRequest, 'headers' | 'mediaType'>,
  reply: unknown,
  payload: Readable,
  done: Done,
) => void

type Done = (error?: Error | null, payload?: Readable) => void

export interface BodyReaderParts {
  /** Bytes of the longest body. */
  readonly bodyLimit: number
  /** Bytes of all bodies that are under way. */
  readonly total?: number
}

/** Ten thousand ordinary posts, of some 700 bytes. */
const smallestTotal = 8 * 1024 ** 2

/** Milliseconds after which a body that still arrives is slow: sent at once, a megabyte comes in a tenth of it. */
const slow = 1_000

/** What formbody parses. Nothing else is read. */
const formType = 'application/x-www-form-urlencoded'

/** Bodies that are over and still counted, at least, before they are looked for. */
const mostUnpruned = 1_000

const empty = Buffer.alloc(0)

interface Arriving {
  /** Bytes that it has come to, or is about to take. */
  size: number
  /** By performance.now(). */
  readonly since: number
  readonly refuse: (refusal: Refusal) => void
}

/**
 * Reads the bodies of all connections into memory that has a bound. What counts is what was received, of a small one what was
 * announced, and when it is too much a large body that still arrives is refused: ordinary posts are hundreds of bytes,
 * so whoever sends megabytes, or holds them back, takes the place of nobody but his like. A large one that is whole goes
 * before one that is not: it leaves in a moment, and reading it was garbage if it made room for the next.
 */
export function createBodyReader({
  bodyLimit,
  total = Math.max(smallestTotal, 4 * bodyLimit),
}: BodyReaderParts): BodyReader {
  const arriving = new Map<Readable, Arriving>()
  /** Large and whole: they go on one in a turn of the event loop, so that between any two of them others are served. */
  const waiting = new Set<Arriving>()
  const memory = createBodyMemory(bodyLimit)
  let held = 0
  let pruneAt = mostUnpruned
  let turn = Promise.resolve()

  function hold(bytes: number): void {
    held += bytes
    if (held > total) prune()
    while (held > total) {
      const coming = chooseVictim(arriving.values())
      const victim = coming && coming.size >= large ? coming : (largestOf(waiting) ?? coming)
      if (victim === undefined) return
      victim.refuse(new Refusal('overloaded', { under_way: held }))
    }
  }

  /**
   * A post is small as a rule, and then a stream between, or a listener, would cost as much as a third of all that is done
   * for it. So nobody tells that it is over but the route, and `prune` finds those that never came there.
   */
  function watch(payload: Readable, size: number, done: Done): void {
    if (arriving.size >= pruneAt) prune()
    arriving.set(payload, {
      size,
      since: performance.now(),
      refuse(refusal) {
        forget(payload)
        // To whoever reads it; where nobody does any more it is whole.
        if (payload.listenerCount('error') > 0) payload.emit('error', refusal)
      },
    })
    done()
    // Only now: it may be the one that is refused, and must have its reader then.
    hold(size)
  }

  function forget(payload: Readable): void {
    const one = arriving.get(payload)
    if (one === undefined) return
    arriving.delete(payload)
    held -= one.size
    one.size = 0
  }

  function prune(): void {
    for (const payload of arriving.keys()) if (payload.readableEnded || payload.destroyed) forget(payload)
    pruneAt = Math.max(mostUnpruned, 2 * arriving.size)
  }

  const gather: BodyReader['gather'] = (check) => (request, _reply, payload, done) => {
    const announced = Number(request.headers['content-length'])
    // Fastify refuses other types without reading them, and gives a post without a type no parser.
    if (request.mediaType !== formType) done()
    else if (announced > bodyLimit) done(new Refusal('body_too_large'))
    else if (announced < large) watch(payload, announced, done)
    else read(check, announced, payload, done)
  }

  function read(check: Check | undefined, announced: number, payload: Readable, done: Done): void {
    const longest = Number.isNaN(announced) ? bodyLimit : announced
    let bytes: Buffer = empty
    let length = 0
    const one: Arriving = { size: 0, since: performance.now(), refuse: fail }

    function take(chunk: Buffer): void {
      const before = length
      length += chunk.length
      if (length > bodyLimit) fail(new Refusal('body_too_large'))
      // As a rule there is no other.
      else if (before === 0) {
        if (hasRoom(length)) bytes = chunk
      } else if (length <= bytes.length) chunk.copy(bytes, before)
      else {
        // One piece of memory, not a list: a body that comes byte by byte would cost a hundred times its length.
        const size = length > large ? memory.sizeFor(length) : Math.max(length, Math.min(2 * bytes.length, longest))
        if (!hasRoom(size)) return
        const grown = memory.take(size)
        bytes.copy(grown, 0, 0, before)
        chunk.copy(grown, before)
        memory.release(bytes)
        bytes = grown
      }
    }

    /** Whether it was not refused for it. */
    function hasRoom(size: number): boolean {
      const more = size - one.size
      one.size = size
      hold(more)
      return arriving.has(payload)
    }

    function stop(): void {
      payload.off('data', take).off('end', end).off('error', fail)
      arriving.delete(payload)
      waiting.delete(one)
      held -= one.size
      one.size = 0
    }

    function refuse(error: Error): void {
      stop()
      memory.release(bytes)
      bytes = empty
      done(error)
    }

    function fail(error: Error): void {
      refuse(error)
      // What still comes of it is not even read, until the connection is closed.
      payload.pause()
    }

    function end(): void {
      if (length < large) {
        pass()
        return
      }
      arriving.delete(payload)
      waiting.add(one)
      turn = turn
        .then(() => nextTurn())
        .then(() => {
          // It may have been refused while it waited.
          if (waiting.has(one)) pass()
        })
    }

    function pass(): void {
      const whole = bytes.subarray(0, length)
      try {
        check?.(whole)
      } catch (error) {
        refuse(error instanceof Error ? error : new Error(String(error)))
        return
      }
      stop()
      done(null, Readable.from(whole))
    }

    arriving.set(payload, one)
    payload.on('data', take).on('end', end).on('error', fail)
  }

  function parse(text: string): Body {
    return {
      text,
      decode: () => decodeForm(text),
      // Not from here on: Fastify calls no handler for a connection that is gone, and then nothing would release it.
      hold() {
        hold(text.length)
        return () => {
          held -= text.length
        }
      },
    }
  }

  return { gather, arrived: forget, parse }
}

/**
 * The largest that is slow: who holds bodies back must not keep others out. Otherwise the newest large one: of many that come
 * at once some are then read whole, and little is read in vain. Otherwise the largest of the small ones.
 */
function chooseVictim(arriving: Iterable<Arriving>): Arriving | undefined {
  const bodies = [...arriving]
  const ofSize = bodies.filter(({ size }) => size >= large)
  const now = performance.now()
  return largestOf(ofSize.filter(({ since }) => now - since > slow)) ?? ofSize.at(-1) ?? largestOf(bodies)
}

function largestOf(bodies: Iterable<Arriving>): Arriving | undefined {
  let largest: Arriving | undefined
  for (const one of bodies) if (one.size > (largest?.size ?? -1)) largest = one
  return largest
}
