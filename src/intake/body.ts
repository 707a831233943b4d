import type { Readable } from 'node:stream'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { FastifyRequest } from 'fastify'
import { Refusal } from '../refusal.ts'

/** A body that has come whole. */
export interface Body {
  readonly bytes: Buffer
  /** It counts as under way until what this gives is disposed of. */
  readonly hold: () => Disposable
}

export interface BodyReaderParts {
  /** Bytes of the longest body. */
  readonly bodyLimit: number
  /** Bytes of all bodies that are under way. */
  readonly total?: number
}

/** Ten thousand ordinary posts, of some 700 bytes. */
const smallestTotal = 8 * 1024 ** 2

/** Bytes from which on a body waits for its turn: no event that is documented comes near. */
const large = 64 * 1024

type Done = (error: Error | null, body?: Body) => void

const empty = Buffer.alloc(0)

interface Arriving {
  /** What it holds, and room for more. */
  bytes: Buffer
  readonly refuse: (refusal: Refusal) => void
}

/**
 * Reads the bodies of all connections into memory that has a bound. What counts is what was received, not what was
 * announced, and when it is too much the largest body that still arrives is refused: ordinary posts are hundreds of bytes,
 * so whoever sends megabytes, or holds them back, takes the place of nobody but his like.
 *
 * @returns a content type parser that makes a `Body`, or a refusal: `body_too_large`, `overloaded`
 */
export function createBodyReader({ bodyLimit, total = Math.max(smallestTotal, 4 * bodyLimit) }: BodyReaderParts) {
  const arriving = new Set<Arriving>()
  let held = 0
  /** The large ones go on one in a turn of the event loop, so that between any two of them others are served. */
  let turn = Promise.resolve()

  function hold(bytes: number): void {
    held += bytes
    while (held > total && arriving.size > 0) {
      let [largest] = arriving
      for (const one of arriving) if (one.bytes.length > (largest?.bytes.length ?? 0)) largest = one
      largest?.refuse(new Refusal('overloaded', { under_way: held }))
    }
  }

  return (request: Pick<FastifyRequest, 'headers'>, payload: Readable, done: Done): void => {
    const announced = Number(request.headers['content-length'])
    const longest = Number.isNaN(announced) ? bodyLimit : announced
    let length = 0
    const one: Arriving = { bytes: empty, refuse: fail }

    function take(chunk: Buffer): void {
      const before = length
      length += chunk.length
      if (length > bodyLimit) fail(new Refusal('body_too_large'))
      // As a rule there is no other.
      else if (before === 0) grow(chunk)
      else if (length <= one.bytes.length) chunk.copy(one.bytes, before)
      else {
        // One piece of memory, not a list: a body that comes byte by byte would cost a hundred times its length.
        const grown = Buffer.allocUnsafeSlow(Math.max(length, Math.min(2 * one.bytes.length, longest)))
        one.bytes.copy(grown, 0, 0, before)
        chunk.copy(grown, before)
        grow(grown)
      }
    }

    function grow(bytes: Buffer): void {
      const more = bytes.length - one.bytes.length
      one.bytes = bytes
      hold(more)
    }

    function stop(): void {
      payload.off('data', take).off('end', end).off('error', fail)
      arriving.delete(one)
      held -= one.bytes.length
    }

    function fail(error: Error): void {
      stop()
      one.bytes = empty
      // What still comes of it is not even read, until the connection is closed.
      payload.pause()
      done(error)
    }

    function end(): void {
      if (length < large) pass()
      else turn = turn.then(() => nextTurn()).then(pass)
    }

    function pass(): void {
      // It may have been refused while it waited.
      if (!arriving.has(one)) return
      stop()
      const { bytes } = one
      done(null, {
        bytes: bytes.subarray(0, length),
        // Not from here on: Fastify calls no handler for a connection that is gone, and then nobody would release it.
        hold() {
          hold(bytes.length)
          return {
            [Symbol.dispose]() {
              held -= bytes.length
            },
          }
        },
      })
    }

    if (announced > bodyLimit) {
      done(new Refusal('body_too_large'))
      return
    }
    arriving.add(one)
    payload.on('data', take).on('end', end).on('error', fail)
  }
}
