import { isUtf8 } from 'node:buffer'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Journal } from '../journal/journal.ts'
import { toError } from '../lib/error-text.ts'
import { readLines } from '../lib/lines.ts'
import { PrivateRefusal, Refusal, toRefusal } from './refusal.ts'
import { parseRefusedLine } from './refused-line.ts'
import type { Tokens } from './token.ts'

export interface ImportDeps {
  readonly tokens: Pick<Tokens, 'verify'>
  /** Values that must not reach the journal. */
  readonly secrets: () => readonly string[]
  readonly journal: Pick<Journal, 'append'>
  /** The body limit of a post. */
  readonly bodyLimit: number
}

export const importPath = '/import'
export const importType = 'application/x-ndjson'

/** Events that wait for the disk at once, and their bytes: the journal refuses events while 10 MB wait. */
export const maxEventsAtOnce = 200
export const maxBytesAtOnce = 2 * 1024 ** 2

/**
 * The maximum length of a journal line, in bytes: a post of `bodyLimit` bytes with JSON escapes and our field names,
 * plus a margin.
 */
export function maxLineBytes(bodyLimit: number): number {
  return 64 * 1024 + 4 * bodyLimit
}

/**
 * Adds a route of the private listener. It takes lines that the journal once refused, which `b24-receiver import`
 * sends. The client must prove that it holds an application token, as for any event, in a header: nothing of the body
 * is read before that. The lines are then handled one by one, so any number of them needs the same memory.
 */
export function addImportRoute(app: FastifyInstance, deps: ImportDeps): void {
  app.addContentTypeParser(importType, (_request, payload, done) => done(null, payload))
  const onRequest = (request: FastifyRequest, _reply: unknown, done: (error?: Error) => void) => {
    try {
      const token = request.headers.authorization?.replace(/^Bearer /, '') ?? ''
      deps.tokens.verify({ auth: { application_token: token } })
      const isOurs = request.headers['content-type']?.split(';')[0]?.trim().toLowerCase() === importType
      done(isOurs ? undefined : new Refusal('unsupported_media_type'))
    } catch (error) {
      done(toError(error))
    }
  }
  app.post(importPath, { onRequest }, async (request) => {
    // The iterator must not destroy the request at its end: the answer still has to leave through the same socket.
    const journalled = await importLines(request.raw.iterator({ destroyOnReturn: false }), deps)
    return { status: 'ok', journalled }
  })
}

interface UnderWay {
  readonly line: number
  /** Resolves with the reason of the failure, or with `undefined`. */
  readonly ended: Promise<unknown>
}

/** @throws {PrivateRefusal} naming the first line that could not be journalled, and the number of journalled lines */
async function importLines(chunks: AsyncIterable<Buffer>, deps: ImportDeps): Promise<number> {
  const { secrets, journal, bodyLimit } = deps
  const maxBytes = maxLineBytes(bodyLimit)
  let underWay: UnderWay[] = []
  let bytesUnderWay = 0
  let line = 0
  let journalled = 0

  async function awaitAppends(): Promise<void> {
    const errors = await Promise.all(underWay.map(({ ended }) => ended))
    journalled += errors.filter((error) => error === undefined).length
    const at = errors.findIndex((error) => error !== undefined)
    const failed = underWay[at]
    underWay = []
    bytesUnderWay = 0
    if (failed === undefined) return
    const refusal = toRefusal(errors[at])
    if (refusal === undefined) throw errors[at]
    throw new PrivateRefusal(refusal.code, {
      ...{ line: failed.line, journalled },
      message: `line ${failed.line} could not be put on disk; ${journalled} events are in the journal: import the same lines again, what is there is passed over`,
    })
  }

  async function refuse(code: 'malformed_event' | 'body_too_large', what: string): Promise<never> {
    await awaitAppends()
    throw new PrivateRefusal(code, {
      ...{ line, journalled },
      message: `line ${line} ${what}; of the lines before it ${journalled} are in the journal, nothing after it`,
    })
  }

  try {
    for await (const bytes of readLines(chunks, maxBytes)) {
      line++
      if (bytes === undefined)
        return await refuse('body_too_large', `is longer than ${maxBytes} bytes, which no event of BODY_LIMIT can be`)
      if (bytes.length === 0) continue
      const event = isUtf8(bytes) ? parseRefusedLine(bytes.toString(), secrets()) : undefined
      if (event === undefined) return await refuse('malformed_event', 'is no event that the journal refused')
      const ended = journal.append(event).then(
        () => undefined,
        (error: unknown) => error ?? new Error('no reason'),
      )
      underWay.push({ line, ended })
      bytesUnderWay += bytes.length
      if (underWay.length >= maxEventsAtOnce || bytesUnderWay >= maxBytesAtOnce) await awaitAppends()
    }
  } catch (error) {
    if (error instanceof Refusal) throw error
    // The client has disconnected. The lines that arrived are journalled anyway, and the client will send them again.
    await awaitAppends()
    throw new Refusal('malformed_request', { line, journalled }, { cause: error })
  }
  await awaitAppends()
  return journalled
}
