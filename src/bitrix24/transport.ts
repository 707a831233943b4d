import { promisify } from 'node:util'
import { gunzip } from 'node:zlib'
import { codeOf } from '../lib/error-code.ts'
import { isObject } from '../lib/is-object.ts'
import { parseJson } from '../lib/json.ts'
import { readRefusal } from './answer.ts'
import { Bitrix24Error } from './bitrix24-error.ts'
import type { IncomingWebhook } from './incoming-webhook.ts'

/** The portal's answer, unchanged. */
export interface Envelope {
  readonly result: unknown
  readonly next?: unknown
  readonly total?: unknown
  readonly time?: unknown
}

/** Sends one request, once. The callers repeat a read whose answer was lost, because each attempt needs a turn. */
export type Send = (method: string, params: object) => Promise<Envelope>

/** Opens a connection through an incoming webhook. The signal aborts requests in progress. */
export type Connect = (incomingWebhook: IncomingWebhook, signal: AbortSignal | undefined) => Send

/** Milliseconds. The cloud ends a request after 60 s, so a call may take a little longer than that. */
const requestTimeoutMs = 70_000

interface Post {
  readonly url: string
  readonly body: string
  readonly signal: AbortSignal
}

interface Answer {
  readonly status: number
  /** The target of a redirect. It is not followed, because any host could then receive the sent data. */
  readonly location: string | undefined
  readonly text: string
}

type Poster = (post: Post) => Promise<Answer>

let loading: Promise<Poster> | undefined

/** Loads undici in advance, so that the first call does not take an extra tenth of a second. */
export async function loadTransport(): Promise<void> {
  await loadPool()
}

function loadPool(): Promise<Poster> {
  loading ??= openPool()
  return loading
}

/**
 * Uses undici's `request` instead of `fetch`, which sends a POST again after an answer of 421. The connection pool is
 * separate, so a handler that changes `fetch` or undici's global dispatcher does not affect our calls.
 */
async function openPool(): Promise<Poster> {
  const { EnvHttpProxyAgent, request } = await import('undici')
  const dispatcher = new EnvHttpProxyAgent({ allowH2: false, headersTimeout: requestTimeoutMs })
  const headers = {
    'content-type': 'application/json',
    accept: 'application/json',
    'accept-encoding': 'gzip',
    'user-agent': 'bitrix24-webhook-receiver',
  }
  return async ({ url, body, signal }) => {
    const answer = await request(url, { method: 'POST', dispatcher, headers, body, signal })
    const bytes = await answer.body.bytes()
    const isZipped = answer.headers['content-encoding'] === 'gzip'
    const { location } = answer.headers
    return {
      status: answer.statusCode,
      location: typeof location === 'string' ? location : undefined,
      // Some portals' PHP files begin with a byte-order mark, and so does every answer. A TextDecoder removes it.
      text: new TextDecoder().decode(isZipped ? await promisify(gunzip)(bytes) : bytes),
    }
  }
}

export function createTransport(incomingWebhook: IncomingWebhook, signal: AbortSignal | undefined): Send {
  return async (method, params) => {
    const fail = ({ code, description, status }: Failure) =>
      new Bitrix24Error({ incomingWebhook, method, code, description, status })
    const post = await loadPool()
    const timeout = AbortSignal.timeout(requestTimeoutMs)
    const ending = signal ? AbortSignal.any([signal, timeout]) : timeout
    let answer: Answer
    try {
      answer = await post({ url: `${incomingWebhook.reveal()}${method}`, body: JSON.stringify(params), signal: ending })
    } catch (error) {
      signal?.throwIfAborted()
      throw fail(timeout.aborted ? noAnswer : explainFailure(error))
    }
    const envelope = readAnswer(answer)
    if ('code' in envelope) throw fail(envelope)
    return envelope
  }
}

interface Failure {
  readonly code: string
  readonly description: string
  /** 0 without an answer. */
  readonly status: number
}

const noAnswer: Failure = {
  code: 'REQUEST_TIMEOUT',
  description: `no answer in ${requestTimeoutMs / 1000} s`,
  status: 0,
}

function explainFailure(error: unknown): Failure {
  const code = codeOf(error) ?? 'UNKNOWN'
  if (code === 'UND_ERR_HEADERS_TIMEOUT' || code === 'UND_ERR_BODY_TIMEOUT') return noAnswer
  // With several addresses each has an error, and the aggregate has no message.
  const [inner] = error instanceof AggregateError ? error.errors : [error]
  return { code, description: inner instanceof Error ? inner.message : 'the request failed', status: 0 }
}

function readAnswer({ status, location, text }: Answer): Envelope | Failure {
  const body = parseJson(text)
  const refused = isErrorOfRest(body, status) ? readRefusal(body) : undefined
  if (refused) return { ...refused, status }
  if (status >= 200 && status < 300 && isObject(body) && 'result' in body) return { ...body, result: body['result'] }
  return { code: `HTTP_${status}`, description: describeForeign(status, location), status }
}

/**
 * Returns whether an answer with an `error` is the portal's. An answer of a server in front of it, such as a proxy,
 * has no description.
 */
function isErrorOfRest(body: unknown, status: number): boolean {
  if (!isObject(body) || !('error' in body)) return false
  const { error } = body
  return status < 400 || (isObject(error) ? 'code' in error : 'error_description' in body)
}

function describeForeign(status: number, location: string | undefined): string {
  if (status < 300 || status >= 400 || location === undefined || !URL.canParse(location))
    return 'the answer is not that of a REST API'
  // The path is omitted, because it may contain the secret in another spelling.
  return `a redirect to ${new URL(location).host}; if the portal was renamed, B24_HOOK needs its new address`
}
