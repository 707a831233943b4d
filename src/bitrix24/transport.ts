import type { B24Hook } from '@bitrix24/b24jssdk'
import { isObject } from '../is-object.ts'
import { readRefusal, textOf } from './answer.ts'
import { Bitrix24Error } from './bitrix24-error.ts'
import type { Hook } from './hook.ts'

/** What the portal answered, as it came. */
export interface Envelope {
  readonly result: unknown
  readonly next?: unknown
  readonly total?: unknown
  readonly time?: unknown
}

/** Sends one request, once. */
export type Send = (method: string, params: object) => Promise<Envelope>

/** Opens a way through a hook; the signal ends what is under way. */
export type Connect = (hook: Hook, signal: AbortSignal | undefined) => Send

/** The cloud ends a request after 60 s: a call may take that long, and then some. */
const requestTimeout = 70_000

/** So much that our own limits decide: the SDK knows neither the other runs' calls nor an abort while it waits. */
const noLimits = {
  rateLimit: { burstLimit: 1e9, drainRate: 1e6, adaptiveEnabled: false },
  operatingLimit: { windowMs: 1, limitMs: 1e12, heavyPercent: 100 },
  adaptiveConfig: { enabled: false, thresholdPercent: 100, coefficient: 0, maxDelay: 0 },
  maxRetries: 1,
}

/**
 * The official SDK, with all that it does on its own turned off. It is loaded with the first call: it takes 40 MB and up
 * to half a second.
 *
 * A run has one of its own, because the SDK's calls take no signal but its axios does.
 */
export function createTransport(hook: Hook, signal: AbortSignal | undefined): Send {
  let loading: Promise<B24Hook> | undefined
  return async (method, params) => {
    loading ??= openSdk(hook, signal)
    const sdk = await loading
    try {
      const answer = await sdk.actions.v2.call.make<Envelope>({ method, params: { ...params } })
      const envelope = answer.getData()?.result
      if (envelope === undefined) throw new Error('the SDK gave neither an answer nor an error')
      return envelope
    } catch (error) {
      signal?.throwIfAborted()
      throw toBitrix24Error(error, hook, method)
    }
  }
}

/** Takes the time of loading the SDK from the first call. */
export async function loadSdk(): Promise<void> {
  await import('@bitrix24/b24jssdk')
}

async function openSdk(hook: Hook, signal: AbortSignal | undefined): Promise<B24Hook> {
  const { ApiVersion, B24Hook } = await import('@bitrix24/b24jssdk')
  const sdk = B24Hook.fromWebhookUrl(hook.reveal(), { restrictionParams: noLimits })
  const { ajaxClient } = sdk.getHttpClient(ApiVersion.v2)
  ajaxClient.defaults.timeout = requestTimeout
  // A redirect would be followed to any host, and to a page that is no REST.
  ajaxClient.defaults.maxRedirects = 0
  ajaxClient.interceptors.request.use((config) => ({ ...config, ...(signal && { signal }) }))
  ajaxClient.interceptors.response.use(
    (response) => {
      const { status, data } = response
      const failure = readFailure(status, data)
      if (failure) throw failure
      // The whole answer as the result: the SDK keeps `next` for itself, and fails where there is no `time`.
      return { ...response, data: { result: data, time: {} } }
    },
    (error: unknown) => {
      // Not the AxiosError: it has the URL in its config, and on some of its codes the SDK posts a second time.
      throw explainRejection(error)
    },
  )
  return sdk
}

/** What goes through the SDK, without anything of the request. */
class Failure extends Error {
  readonly code: string
  readonly status: number

  constructor(code: string, description: string, status: number) {
    super(description)
    this.code = code
    this.status = status
  }
}

function readFailure(status: number, body: unknown): Failure | undefined {
  const refused = readRefusal(body)
  if (refused) return new Failure(refused.code, refused.description, status)
  if (isObject(body) && 'result' in body) return undefined
  return new Failure(`HTTP_${status}`, 'the answer is not that of a REST API', status)
}

function explainRejection(error: unknown): Failure {
  if (!isObject(error)) return new Failure('UNKNOWN', 'the request failed', 0)
  const { response } = error
  if (isObject(response)) {
    const status = Number(response['status'])
    return readFailure(status, response['data']) ?? new Failure(`HTTP_${status}`, 'an error without a code', status)
  }
  const code = textOf(error['code']) || 'UNKNOWN'
  if (code === 'ECONNABORTED') return new Failure('REQUEST_TIMEOUT', `no answer in ${requestTimeout / 1000} s`, 0)
  return new Failure(code, textOf(error['message']) || 'the request failed', 0)
}

function toBitrix24Error(error: unknown, hook: Hook, method: string): Error {
  const failure = isObject(error) ? error['originalError'] : undefined
  if (failure instanceof Failure) {
    const { code, status, message } = failure
    return new Bitrix24Error({ hook, method, code, status, description: message })
  }
  // Not of a request: an error of the SDK or ours. Its message and its stack are all that is known to be safe.
  const unforeseen = new Error(hook.redact(error instanceof Error ? error.message : String(error)))
  if (error instanceof Error && error.stack !== undefined) unforeseen.stack = hook.redact(error.stack)
  return unforeseen
}
