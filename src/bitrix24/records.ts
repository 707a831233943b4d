import { setImmediate as tick } from 'node:timers/promises'
import { isDeletion } from '../events/catalogue.ts'
import { orAborted } from '../lib/clock.ts'
import { maxCommands, readResults, toQueries } from './batch.ts'
import { Bitrix24Error } from './bitrix24-error.ts'
import type { Settled } from './commands.ts'
import type { IncomingWebhook } from './incoming-webhook.ts'
import type { Limits } from './limits.ts'
import type { LooseRecord } from './record.ts'
import { type RecordSource, sourceOf } from './record-source.ts'
import { type Connect, createTransport } from './transport.ts'

export interface RecordsDeps {
  readonly incomingWebhook: IncomingWebhook
  /** The limits of the incoming webhook's portal, shared by all callers in this process. */
  readonly limits: Limits
  /** Aborts all requests in progress. */
  readonly signal?: AbortSignal | undefined
  /** Replaces the transport. */
  readonly connect?: Connect
}

/** The run that requests a record. */
export interface Asker {
  /** Ends only this caller's wait. */
  readonly signal?: AbortSignal | undefined
  /** Wraps every wait for a turn, as in a client. */
  readonly whileWaiting?: <T>(wait: Promise<T>) => Promise<T>
}

/** The records that the runs of one incoming webhook read. */
export interface Records {
  /**
   * Returns the portal's record, or `null` if the object is deleted. There is no cache: each record is read after it
   * was requested.
   *
   * @throws {TypeError} if no REST method reads the object
   * @throws {Bitrix24Error} if the portal does not return it
   */
  readonly get: (object: string, asker?: Asker) => Promise<LooseRecord | null>
  /** Returns the record of an event's object. The object of a deletion counts as deleted without a request. */
  readonly of: (event: AboutObject, asker?: Asker) => Promise<LooseRecord | null>
}

export interface AboutObject {
  /** Upper case. */
  readonly event: string
  readonly object?: string | undefined
}

/** `'later'`: a limit was reached, and the record must be requested again. */
type Answer = { readonly record: LooseRecord | null } | { readonly error: unknown } | 'later'

interface Question {
  readonly source: RecordSource
  /** The number of callers that wait for the request. A question without a caller is not sent. */
  askers: number
  readonly sent: PromiseWithResolvers<void>
  /** It never rejects, because all callers may be gone. */
  readonly answer: PromiseWithResolvers<Answer>
}

/**
 * Combines the records that are requested while a request waits for its turn, up to 50 in one request. So under load
 * each record needs fewer requests.
 */
export function createRecords({ incomingWebhook, limits, signal, connect = createTransport }: RecordsDeps): Records {
  const send = connect(incomingWebhook, signal)
  /** By object. */
  const waiting = new Map<string, Question>()
  let requestsDue = 0

  function join(object: string, source: RecordSource): Question {
    const before = waiting.get(object)
    if (before) return before
    const question = { source, askers: 0, sent: Promise.withResolvers<void>(), answer: Promise.withResolvers<Answer>() }
    waiting.set(object, question)
    if (waiting.size > requestsDue * maxCommands) void sendNext()
    return question
  }

  async function sendNext(): Promise<void> {
    requestsDue++
    let failure: { error: unknown } | undefined
    try {
      // Runs that begin together share a request.
      await tick()
      await limits.turn(['batch'], signal)
    } catch (error) {
      failure = { error }
    }
    requestsDue--
    const questions = takeNext()
    for (const { sent } of questions) sent.resolve()
    if (failure) answerAll(questions, failure)
    else if (questions.length > 0) await ask(questions)
  }

  function takeNext(): Question[] {
    const next = [...waiting].slice(0, maxCommands)
    for (const [object] of next) waiting.delete(object)
    return next.map(([, question]) => question)
  }

  async function ask(questions: readonly Question[]): Promise<void> {
    const commands = questions.map(({ source }, index) => [`record${index}`, source] as const)
    try {
      const { result, time } = await send('batch', { halt: 0, cmd: toQueries(commands) })
      limits.learn('batch', time)
      const { results, times } = readResults({ result, commands, incomingWebhook })
      for (const [index, { source, answer }] of questions.entries()) {
        limits.learn(source.method, times.get(`record${index}`))
        answer.resolve(toAnswer(source, results.get(`record${index}`)))
      }
    } catch (error) {
      const isLimit = error instanceof Bitrix24Error && limits.refuse('batch', error.code)
      answerAll(questions, isLimit ? 'later' : { error })
    }
  }

  function answerAll(questions: readonly Question[], all: Answer): void {
    for (const { answer } of questions) answer.resolve(all)
  }

  function toAnswer({ method, read, isGone }: RecordSource, results: Settled | undefined): Answer {
    if (results && 'error' in results) {
      const { error } = results
      if (limits.refuse(method, error.code)) return 'later'
      return isGone(error) ? { record: null } : { error }
    }
    try {
      return { record: read(results?.result) }
    } catch (error) {
      return { error }
    }
  }

  async function untilSent(object: string, source: RecordSource, asking: AbortSignal | undefined): Promise<Question> {
    await limits.unblocked([source.method], asking)
    const question = join(object, source)
    question.askers++
    try {
      await orAborted(question.sent.promise, asking)
      return question
    } catch (error) {
      question.askers--
      if (question.askers === 0 && waiting.get(object) === question) waiting.delete(object)
      throw error
    }
  }

  async function get(object: string, asker: Asker = {}): Promise<LooseRecord | null> {
    const { signal: asking, whileWaiting = (wait) => wait } = asker
    const source = sourceOf(object)
    for (;;) {
      asking?.throwIfAborted()
      const question = await whileWaiting(untilSent(object, source, asking))
      const answer = await orAborted(question.answer.promise, asking)
      if (answer === 'later') continue
      if ('error' in answer) throw answer.error
      // Each caller gets a copy, because a handler may change its record.
      return structuredClone(answer.record)
    }
  }

  return {
    get,
    async of({ event, object }, asker) {
      if (isDeletion(event)) return null
      if (object === undefined) throw new TypeError(`${event} is about no object, so it has no record`)
      return get(object, asker)
    },
  }
}
