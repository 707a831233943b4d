import { isUtf8 } from 'node:buffer'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Tokens } from './token.ts'
import type { Journal } from '../journal/journal.ts'
import { parseRefusedLine } from './refused-line.ts'
import { readLines } from '../lib/lines.ts'
import { PrivateRefusal, Refusal } from './refusal.ts'

export interface ImportParts {
  readonly tokens: Pick<Tokens, 'verify'>
  /** What must not reach the journal. */
  readonly secrets: () => readonly string[]
  readonly journal: Pick<Journal, 'append'>
  /** Of a post. */
  readonly bodyLimit: number
}

export const importPath = '/import'
export const importType = 'application/x-ndjson'

/** Events that wait for the disk at once, and bytes of them: the journal refuses when 10 MB wait. */
const mostAtOnce = 200
const mostBytesAtOnce = 2 * 1024 ** 2

/** Of a line, in bytes: what the escapes of JSON and the names of what we add make of a post at most, with room. */
export function longestLine(bodyLimit: number): number {
  return 64 * 1024 + 4 * bodyLimit
}

/**
 * On the private listener: lines that the journal refused once, brought back by `b24-receiver import`. Whoever sends them
 * must hold an application token, as for any event, and shows it in the head: before that nothing of the body is read.
 * Then the lines are taken one by one, so any number of them costs the same memory.
 */
export function addImportRoute(app: FastifyInstance, parts: ImportParts): void {
  app.addContentTypeParser(importType, (_request, payload, done) => done(null, payload))
  const onRequest = (request: FastifyRequest, _reply: unknown, done: (error?: Error) => void) => {
    try {
      const token = request.headers.authorization?.replace(/^Bearer /, '') ?? ''
      parts.tokens.verify({ auth: { application_token: token } })
      const isOurs = request.headers['content-type']?.split(';')[0]?.trim().toLowerCase() === importType
      done(isOurs ? undefined : new Refusal('unsupported_media_type'))
    } catch (error) {
      done(error instanceof Error ? error : new Error(String(error)))
    }
  }
  app.post(importPath, { onRequest }, async (request) => {
    // Left open at the end of the loop: the answer still has to leave by its socket.
    const journalled = await importLines(request.raw.iterator({ destroyOnReturn: false }), parts)
    return { status: 'ok', journalled }
  })
}

interface UnderWay {
  readonly line: number
  /** Resolves with why it failed, or with nothing. */
  readonly ended: Promise<unknown>
}

/** @throws {PrivateRefusal} naming the first line that could not be journalled, and how many were */
async function importLines(chunks: AsyncIterable<Buffer>, parts: ImportParts): Promise<number> {
  const { secrets, journal, bodyLimit } = parts
  const longest = longestLine(bodyLimit)
  let underWay: UnderWay[] = []
  let bytesUnderWay = 0
  let line = 0
  let journalled = 0

  async function settle(): Promise<void> {
    const errors = await Promise.all(underWay.map(({ ended }) => ended))
    journalled += errors.filter((error) => error === undefined).length
    const at = errors.findIndex((error) => error !== undefined)
    const failed = underWay[at]
    underWay = []
    bytesUnderWay = 0
    if (failed === undefined) return
    if (!(errors[at] instanceof Refusal)) throw errors[at]
    throw new PrivateRefusal(errors[at].code, {
      ...{ line: failed.line, journalled },
      message: `line ${failed.line} could not be put on disk; ${journalled} events are in the journal: import the same lines again, what is there is passed over`,
    })
  }

  async function refuse(code: 'malformed_event' | 'body_too_large', what: string): Promise<never> {
    await settle()
    throw new PrivateRefusal(code, {
      ...{ line, journalled },
      message: `line ${line} ${what}; of the lines before it ${journalled} are in the journal, nothing after it`,
    })
  }

  try {
    for await (const bytes of readLines(chunks, longest)) {
      line++
      if (bytes === undefined)
        return await refuse('body_too_large', `is longer than ${longest} bytes, which no event of BODY_LIMIT can be`)
      if (bytes.length === 0) continue
      const event = isUtf8(bytes) ? parseRefusedLine(bytes.toString(), secrets()) : undefined
      if (event === undefined) return await refuse('malformed_event', 'is no event that the journal refused')
      const ended = journal.append(event).then(
        () => undefined,
        (error: unknown) => error ?? new Error('no reason'),
      )
      underWay.push({ line, ended })
      bytesUnderWay += bytes.length
      if (underWay.length >= mostAtOnce || bytesUnderWay >= mostBytesAtOnce) await settle()
    }
  } catch (error) {
    if (error instanceof Refusal) throw error
    // The sender is gone. What he sent is journalled all the same, and he will send it again.
    await settle()
    throw new Refusal('malformed_request', { line, journalled }, { cause: error })
  }
  await settle()
  return journalled
}
