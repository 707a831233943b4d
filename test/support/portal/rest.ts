import { randomBytes } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { decodeForm } from '../../../src/intake/form.ts'
import { runBatch } from './batch.ts'
import { createBuckets, createOperatingTime, type RateLimit } from './limits.ts'
import { type Answer, type Call, type Message, methods, scopeOf } from './methods.ts'
import { asText, isJsonObject, type JsonObject, phpDate, phpEntries } from './php.ts'
import type { Records } from './records.ts'
import { accessDenied, RestError, type SystemError } from './rest-error.ts'

export interface RestOptions {
  /** The incoming webhook's user. */
  readonly user?: number
  readonly scopes?: readonly string[]
  /** For each source address; 2 a second and 50 by default. */
  readonly limit?: RateLimit
  /** Seconds that a method may take in ten minutes; `'uncounted'` for a portal that neither counts nor limits. */
  readonly operating?: number | 'uncounted'
}

export interface PortalRequest {
  readonly method: string
  readonly params: JsonObject
  /** The methods in a batch. */
  readonly commands: readonly string[]
  /** Unix milliseconds, by the portal's clock. */
  readonly at: number
  /** 0 until it is answered, or when the client went away. */
  status: number
}

/** What a test may switch while the portal runs. */
export interface Behaviour {
  /** Every call is answered so: the incoming webhook is dead. */
  dead: SystemError | RestError | undefined
  /** Methods that are answered so, for each call the first of the list; `'ok'` lets one through. */
  readonly failing: Map<string, (SystemError | RestError | 'ok')[]>
  /** Methods that the incoming webhook's user may not call. */
  readonly forbidden: Set<string>
  /** Seconds that a call of the method takes by the portal's count; 0.01 by default. */
  readonly seconds: Map<string, number>
  /** Requests wait for this before they are answered; they count as come. */
  held: Promise<void> | undefined
  /** What is answered instead of what the portal would. */
  change: ((answer: JsonObject, request: PortalRequest) => JsonObject) | undefined
  /** What is answered instead of JSON, such as a proxy's page. */
  raw: { status: number; headers: Record<string, string>; body: string } | undefined
}

export interface RestDeps extends RestOptions {
  readonly records: Records
  readonly now: () => number
  readonly user: number
}

export function createRest(deps: RestDeps) {
  const { records, now, user, operating = 480, scopes = ['crm', 'task', 'im', 'user'] } = deps
  const buckets = createBuckets(deps.limit ?? { rate: 2, burst: 50 }, now)
  const times = createOperatingTime(operating === 'uncounted' ? Number.POSITIVE_INFINITY : operating, now)
  const requests: PortalRequest[] = []
  const messages: Message[] = []
  const behaviour: Behaviour = {
    dead: undefined,
    failing: new Map(),
    forbidden: new Set(),
    seconds: new Map(),
    held: undefined,
    change: undefined,
    raw: undefined,
  }
  let code = newCode()

  function run(method: string, params: JsonObject): Answer & { time: JsonObject } {
    const started = now()
    failAsTold(method)
    const scope = scopeOf(method)
    if (scope !== undefined && !scopes.includes(scope)) throw RestError.system('insufficient_scope')
    const implementation = methods.get(method)
    if (!implementation) throw RestError.system('ERROR_METHOD_NOT_FOUND')
    if (times.isBlocked(method)) throw RestError.system('OPERATION_TIME_LIMIT')
    if (behaviour.forbidden.has(method)) throw accessDenied()
    const call: Call = { params, records, user, scopes, now: started, messages }
    const answer = implementation(call)
    times.spend(method, behaviour.seconds.get(method) ?? 0.01)
    return { ...answer, time: time(started, operating === 'uncounted' ? {} : times.count(method)) }
  }

  function failAsTold(method: string): void {
    const failure = behaviour.failing.get(method)?.shift()
    if (failure !== undefined && failure !== 'ok') throw toError(failure)
  }

  function time(started: number, counters: JsonObject): JsonObject {
    const finished = now()
    return {
      start: started / 1000,
      finish: finished / 1000,
      duration: (finished - started) / 1000,
      processing: (finished - started) / 1000,
      date_start: phpDate(started),
      date_finish: phpDate(finished),
      ...counters,
    }
  }

  /** The path is `/rest/<user>/<code>/<method>`; what Bitrix24 checks first is checked first. */
  function answer(path: readonly string[], request: PortalRequest, address: string): JsonObject {
    const [, root, userId, incomingWebhookCode] = path
    if (!buckets.enter(address)) throw RestError.system('QUERY_LIMIT_EXCEEDED')
    if (behaviour.dead) throw toError(behaviour.dead)
    if (root !== 'rest' || userId === undefined || incomingWebhookCode === undefined)
      throw RestError.system('NO_AUTH_FOUND')
    if (userId !== String(user) || incomingWebhookCode !== code) throw RestError.system('INVALID_CREDENTIALS')
    const { method, params } = request
    if (method !== 'batch') {
      const whole: JsonObject = { ...run(method, params) }
      return behaviour.change?.(whole, request) ?? whole
    }
    failAsTold(method)
    const started = now()
    return { result: runBatch(params, run), time: time(started, {}) }
  }

  async function handle(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await readBody(incoming)
    const url = new URL(incoming.url ?? '/', 'https://portal')
    const path = url.pathname.split('/')
    const method = decodeURIComponent(path[4] ?? '')
      .toLowerCase()
      .replace(/\.json$/, '')
    const params = { ...decode(url.search.slice(1), ''), ...decode(body, incoming.headers['content-type'] ?? '') }
    const commands =
      method === 'batch' ? phpEntries(params['cmd']).map(([, cmd]) => asText(cmd).split('?')[0] ?? '') : []
    const request: PortalRequest = { method, params, commands, at: now(), status: 0 }
    requests.push(request)
    await behaviour.held
    if (response.destroyed) return
    if (behaviour.raw) {
      request.status = behaviour.raw.status
      response.writeHead(behaviour.raw.status, behaviour.raw.headers).end(behaviour.raw.body)
      return
    }
    const { status, json } = attempt(() => answer(path, request, incoming.socket.remoteAddress ?? ''))
    request.status = status
    response.writeHead(status, { 'content-type': 'application/json; charset=utf-8' }).end(JSON.stringify(json))
  }

  return {
    requests,
    messages,
    behaviour,
    code: () => code,
    /** An administrator edits the incoming webhook of another user: the code is a new one and the old one is none. */
    changeCode(): void {
      code = newCode()
    },
    handle: (incoming: IncomingMessage, response: ServerResponse) =>
      void handle(incoming, response).catch((error: unknown) => response.destroy(asError(error))),
  }
}

function toError(failure: SystemError | RestError): RestError {
  return failure instanceof RestError ? failure : RestError.system(failure)
}

function attempt(answer: () => JsonObject): { status: number; json: JsonObject } {
  try {
    return { status: 200, json: answer() }
  } catch (error) {
    if (!(error instanceof RestError)) throw error
    return { status: error.status, json: error.body }
  }
}

/** 16 characters, as Bitrix24's are. */
function newCode(): string {
  return randomBytes(12).toString('base64url').toLowerCase().replaceAll(/[-_]/g, 'x')
}

async function readBody(incoming: IncomingMessage): Promise<string> {
  const deps: Buffer[] = []
  for await (const part of incoming) deps.push(part)
  return Buffer.concat(deps).toString('utf8')
}

function decode(text: string, contentType: string): JsonObject {
  if (text === '') return {}
  const decoded: unknown = contentType.includes('json') ? decodeJson(text) : decodeForm(text)
  return isJsonObject(decoded) ? decoded : {}
}

/** PHP's json_decode takes half of a surrogate pair for an error of the whole text. */
function decodeJson(text: string): unknown {
  const decoded: unknown = JSON.parse(text)
  return JSON.stringify(decoded).replaceAll('\\\\', '').includes('\\ud') ? {} : decoded
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}
