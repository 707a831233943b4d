import { Readable } from 'node:stream'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { FastifyRequest } from 'fastify'
import { Refusal } from '../refusal.ts'
import { decodeForm, type Form } from './form.ts'

/** A body that came whole and is a form. Not an interface: that would not be what formbody takes from its parser. */
export type Body = {
  readonly form: Form
  /** The body counts as under way until the result is disposed of. */
  readonly hold: () => Disposable
}

export interface BodyReader {
  /**
   * Makes a `preParsing` hook that reads the body and hands it on in one piece, or refuses it: `body_too_large`, `overloaded`.
   *
   * @param check throws a refusal if these bytes are not worth decoding
   */
  readonly gather: (check?: (bytes: Buffer) => void) => Hook
  /** The parser for formbody. */
  readonly parse: (text: string) => Body
}

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

/** Bytes from which on a body waits for its turn: no event that is documented comes near. */
const large = 64 * 1024

/** What formbody parses. Nothing else is read. */
const formType = 'application/x-www-form-urlencoded'

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
 */
export function createBodyReader({
  bodyLimit,
  total = Math.max(smallestTotal, 4 * bodyLimit),
}: BodyReaderParts): BodyReader {
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

  const gather: BodyReader['gather'] = (check) => (request, _reply, payload, done) => {
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
      const bytes = one.bytes.subarray(0, length)
      try {
        check?.(bytes)
      } catch (error) {
        done(error instanceof Error ? error : new Error(String(error)))
        return
      }
      done(null, Readable.from(bytes))
    }

    // Fastify refuses other types without reading them, and gives a post without a type no parser.
    if (request.mediaType !== formType) done()
    else if (announced > bodyLimit) done(new Refusal('body_too_large'))
    else {
      arriving.add(one)
      payload.on('data', take).on('end', end).on('error', fail)
    }
  }

  function parse(text: string): Body {
    return {
      form: decodeForm(text),
      // Not from here on: Fastify calls no handler for a connection that is gone, and then nothing would release it.
      hold() {
        hold(text.length)
        return {
          [Symbol.dispose]() {
            held -= text.length
          },
        }
      },
    }
  }

  return { gather, parse }
}
