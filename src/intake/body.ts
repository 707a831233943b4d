import { Readable } from 'node:stream'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { FastifyRequest } from 'fastify'
import type { Form } from '../events/form.ts'
import { toError } from '../lib/error-text.ts'
import { createBodyMemory, largeBytes } from './body-memory.ts'
import { decodeForm } from './form.ts'
import { Refusal } from './refusal.ts'

/** A complete body that is a form. An interface would not be assignable to what formbody expects from its parser. */
export type Body = {
  readonly text: string
  /** @throws {Refusal} the same errors as `decodeForm` */
  readonly decode: () => Form
  /** The body counts as in progress until the returned function is called. */
  readonly hold: () => () => void
}

export interface BodyReader {
  /**
   * Makes a `preParsing` hook that refuses a body with `body_too_large` or `overloaded`. The hook reads a large body
   * itself and passes it on in one piece. Fastify reads a body that declares a small length.
   *
   * @param check throws a refusal if the bytes of a large body are not worth decoding
   */
  readonly gather: (check?: Check) => PreParsingHook
  /** Must be called for each complete body. */
  readonly arrived: (payload: Readable) => void
  /** The parser to pass to formbody. */
  readonly parse: (text: string) => Body
}

type Check = (bytes: Buffer) => void

type PreParsingHook = (
  request: Pick<FastifyRequest, 'headers' | 'mediaType'>,
  reply: unknown,
  payload: Readable,
  done: Done,
) => void

type Done = (error?: Error | null, payload?: Readable) => void

export interface BodyReaderDeps {
  /** The maximum length of a body, in bytes. */
  readonly bodyLimit: number
  /** The maximum for all bodies in progress together, in bytes. */
  readonly total?: number
}

/** Room for ten thousand ordinary posts of about 700 bytes. */
const minTotalBytes = 8 * 1024 ** 2

/**
 * Milliseconds after which a body that is still arriving is slow. A megabyte sent at once arrives in a tenth of that
 * time.
 */
const slowAfterMs = 1_000

/** The content type that formbody parses. The receiver reads no other type. */
const formType = 'application/x-www-form-urlencoded'

/** The minimum number of finished bodies that are still counted before a search for them pays off. */
const minPruned = 1_000

const empty = Buffer.alloc(0)

interface Arriving {
  /** Bytes received, or bytes about to be allocated. */
  size: number
  /** As `performance.now()` returns it. */
  readonly since: number
  readonly refuse: (refusal: Refusal) => void
}

/**
 * Reads the bodies of all connections into bounded memory. A large body counts with its received bytes, a small one
 * with its announced bytes. If the total is too high, a large body that is still arriving is refused. Ordinary posts
 * have hundreds of bytes, so a client that sends megabytes, or holds them back, only displaces similar clients. A
 * complete large body takes precedence over an incomplete one: it leaves soon, and refusing it would waste the work
 * of reading it.
 */
export function createBodyReader({
  bodyLimit,
  total = Math.max(minTotalBytes, 4 * bodyLimit),
}: BodyReaderDeps): BodyReader {
  const arriving = new Map<Readable, Arriving>()
  /**
   * Large, complete bodies. Each turn of the event loop passes on one of them, so that other requests are served in
   * between.
   */
  const waiting = new Set<Arriving>()
  const memory = createBodyMemory(bodyLimit)
  let held = 0
  let pruneAt = minPruned
  let turn = Promise.resolve()

  function hold(bytes: number): void {
    held += bytes
    if (held > total) prune()
    while (held > total) {
      const coming = chooseVictim(arriving.values())
      const victim = coming && coming.size >= largeBytes ? coming : (largestOf(waiting) ?? coming)
      if (victim === undefined) return
      victim.refuse(new Refusal('overloaded', { under_way: held }))
    }
  }

  /**
   * Most posts are small, and an extra stream or listener would cost up to a third of all the work for such a post.
   * So only the route reports the end of a body, and `prune` finds the bodies that never reached the route.
   */
  function watch(payload: Readable, size: number, done: Done): void {
    if (arriving.size >= pruneAt) prune()
    arriving.set(payload, {
      size,
      since: performance.now(),
      refuse(refusal) {
        forget(payload)
        // The error goes to the reader of the body. A body without a listener is already complete.
        if (payload.listenerCount('error') > 0) payload.emit('error', refusal)
      },
    })
    done()
    // This call must come last: it may refuse this very body, which must have its reader by then.
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
    pruneAt = Math.max(minPruned, 2 * arriving.size)
  }

  const gather: BodyReader['gather'] = (check) => (request, _reply, payload, done) => {
    const announced = Number(request.headers['content-length'])
    // Fastify refuses other types without reading them, and calls no parser for a post without a type.
    if (request.mediaType !== formType) done()
    else if (announced > bodyLimit) done(new Refusal('body_too_large'))
    else if (announced < largeBytes) watch(payload, announced, done)
    else read(check, announced, payload, done)
  }

  function read(check: Check | undefined, announced: number, payload: Readable, done: Done): void {
    const maxBytes = Number.isNaN(announced) ? bodyLimit : announced
    let bytes: Buffer = empty
    let length = 0
    const one: Arriving = { size: 0, since: performance.now(), refuse: fail }

    function take(chunk: Buffer): void {
      const before = length
      length += chunk.length
      if (length > bodyLimit) fail(new Refusal('body_too_large'))
      // Usually this is the only chunk.
      else if (before === 0) {
        if (hasRoom(length)) bytes = chunk
      } else if (length <= bytes.length) chunk.copy(bytes, before)
      else {
        // One buffer instead of a list: a body that arrives byte by byte would cost a hundred times its length.
        const size =
          length > largeBytes ? memory.sizeFor(length) : Math.max(length, Math.min(2 * bytes.length, maxBytes))
        if (!hasRoom(size)) return
        const grown = memory.take(size)
        bytes.copy(grown, 0, 0, before)
        chunk.copy(grown, before)
        memory.release(bytes)
        bytes = grown
      }
    }

    /** @returns whether the body fits, so that it was not refused */
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
      // The remaining bytes are not read until the connection is closed.
      payload.pause()
    }

    function end(): void {
      if (length < largeBytes) {
        pass()
        return
      }
      arriving.delete(payload)
      waiting.add(one)
      turn = turn
        .then(() => nextTurn())
        .then(() => {
          // The body may have been refused while it waited.
          if (waiting.has(one)) pass()
        })
    }

    function pass(): void {
      const whole = bytes.subarray(0, length)
      try {
        check?.(whole)
      } catch (error) {
        refuse(toError(error))
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
      // The body must not count from here on: Fastify calls no handler for a closed connection, so nothing would
      // release it.
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
 * Chooses the largest slow body first, because a client that holds bodies back must not keep others out. Otherwise it
 * chooses the newest large body: of many that arrive at once, some are then read completely, and little is read in
 * vain. Otherwise it chooses the largest of the small bodies.
 */
function chooseVictim(arriving: Iterable<Arriving>): Arriving | undefined {
  const bodies = [...arriving]
  const ofSize = bodies.filter(({ size }) => size >= largeBytes)
  const now = performance.now()
  return largestOf(ofSize.filter(({ since }) => now - since > slowAfterMs)) ?? ofSize.at(-1) ?? largestOf(bodies)
}

function largestOf(bodies: Iterable<Arriving>): Arriving | undefined {
  let largest: Arriving | undefined
  for (const one of bodies) if (one.size > (largest?.size ?? -1)) largest = one
  return largest
}
