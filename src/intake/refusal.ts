import { JournalUnavailable } from '../journal/journal-unavailable.ts'

/**
 * Every answer except 200, in one table: the code that the sender receives, its status, and its meaning for an
 * operator. docs/answers.md prints this table, and a test compares the two.
 */
export const refusals = {
  invalid_application_token: {
    status: 403,
    meaning: '`auth[application_token]` is missing or is not one of the configured tokens',
  },
  host_not_allowed: {
    status: 403,
    meaning: 'the private listener was called by a name that `ADMIN_ALLOWED_HOSTS` does not list',
  },
  source_not_allowed: { status: 403, meaning: 'the post came from an address that `B24_ALLOWED_IPS` does not allow' },
  malformed_form: {
    status: 400,
    meaning: 'the body is not a form that can be decoded completely: too deep, too long, contradictory',
  },
  malformed_event: {
    status: 400,
    meaning: 'a form, but not an event: no `event` name, of a robot no `document_id`, or a field of the wrong shape',
  },
  malformed_request: { status: 400, meaning: 'not HTTP, or the body ended before its announced length' },
  request_timeout: { status: 408, meaning: 'the request did not arrive in time' },
  body_too_large: { status: 413, meaning: 'the body is longer than `BODY_LIMIT`' },
  unsupported_media_type: {
    status: 415,
    meaning: 'not `application/x-www-form-urlencoded`, or it has a `content-encoding`',
  },
  method_not_allowed: {
    status: 405,
    meaning: 'the handler URL, or that of robots, was called with another method than POST',
  },
  forwarding_loop: { status: 409, meaning: 'a handler of this receiver forwarded it to this receiver: see `forward`' },
  not_found: { status: 404, meaning: 'there is nothing at this path' },
  journal_unavailable: { status: 503, meaning: 'the event could not be put on disk, so it was not accepted' },
  overloaded: {
    status: 503,
    meaning:
      'too many bodies were being received, and this was one of the largest; `Retry-After` says when to try again',
  },
  internal: { status: 500, meaning: 'an unhandled error; the log has it' },
} as const satisfies Record<string, { status: number; meaning: string }>

export type RefusalCode = keyof typeof refusals

/**
 * A request that the receiver refuses on purpose. `details` go to the diagnostic log, never to the sender, and hold
 * no content of the request: only sizes, lengths, names and reasons.
 */
export class Refusal extends Error {
  override readonly name = 'Refusal'
  readonly code: RefusalCode
  readonly details: Record<string, unknown>

  constructor(code: RefusalCode, details: Record<string, unknown> = {}, options?: ErrorOptions) {
    super(code, options)
    this.code = code
    this.details = details
  }

  get status(): number {
    return refusals[this.code].status
  }
}

/** Returns the refusal that an error means to the sender; `undefined` for an error of the receiver itself. */
export function toRefusal(error: unknown): Refusal | undefined {
  if (error instanceof Refusal) return error
  if (!(error instanceof JournalUnavailable)) return undefined
  return new Refusal('journal_unavailable', error.details, { cause: error.cause })
}

/** A refusal on the private listener, whose clients may receive details. */
export class PrivateRefusal extends Refusal {
  readonly answer: Readonly<Record<string, unknown>>

  /** @param details appear only in the log */
  constructor(
    code: RefusalCode,
    { message, ...answer }: Readonly<Record<string, unknown>>,
    details: Record<string, unknown> = {},
  ) {
    super(code, { ...answer, ...details })
    this.answer = { ...answer, message }
  }
}

/** The body of a refusal's answer. It holds the code, and nothing else about the failure. */
export function refusalBody(code: RefusalCode): { status: 'error'; error: RefusalCode } {
  return { status: 'error', error: code }
}
