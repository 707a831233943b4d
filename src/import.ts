import type { FastifyInstance } from 'fastify'
import type { Tokens } from './intake/token.ts'
import type { Journal } from './journal/journal.ts'
import { parseRefusedLine } from './journal/refused-line.ts'
import { Refusal, refusalBody } from './refusal.ts'

export interface ImportParts {
  readonly tokens: Pick<Tokens, 'verify' | 'values'>
  readonly journal: Pick<Journal, 'append'>
}

/** Of one request; the tool sends a few hundred lines at once. */
const bodyLimit = 64 * 1024 ** 2

export const importPath = '/import'
export const importType = 'application/x-ndjson'

/**
 * On the private listener: lines that the journal refused once, brought back by `b24-receiver import`. Whoever sends them
 * must hold an application token, as for any event.
 */
export function addImportRoute(app: FastifyInstance, { tokens, journal }: ImportParts): void {
  app.addContentTypeParser(importType, { parseAs: 'string', bodyLimit }, (_request, body, done) => done(null, body))
  app.post<{ Body: unknown }>(importPath, { bodyLimit }, async (request, reply) => {
    try {
      const token = request.headers.authorization?.replace(/^Bearer /, '') ?? ''
      tokens.verify({ auth: { application_token: token } })
      if (typeof request.body !== 'string') throw new Refusal('unsupported_media_type')
      const lines = request.body.split('\n').filter((line) => line !== '')
      const events = lines.map((line) => parseRefusedLine(line, tokens.values()) ?? notAnEvent())
      await Promise.all(events.map((event) => journal.append(event)))
      return { status: 'ok', journalled: events.length }
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
      return reply.code(error.status).send(refusalBody(error.code))
    }
  })
}

function notAnEvent(): never {
  throw new Refusal('malformed_event')
}
