import type { JournalledEvent } from '../events/event.ts'
import type { FormValue } from '../events/form.ts'
import { codeOf } from '../lib/error-code.ts'
import { causeOf } from '../lib/error-text.ts'
import { forwarderId, forwardMark } from '../lib/forward-mark.ts'
import { not } from '../lib/pattern.ts'
import { httpBuildQuery, type PhpArray, type PhpValue } from '../lib/php-query.ts'
import { defineHandler, FinalError, type HandlerDefinition, type HandlerOptions, RetryAfter } from './handler.ts'

/** How events are forwarded, and the options that every handler has. */
export interface ForwardOptions extends HandlerOptions {
  /** Names and patterns as for `defineHandler`. The default is all events. */
  readonly events?: string | readonly string[]
  /** Names and patterns of events that are not forwarded, for example because another handler handles them. */
  readonly except?: string | readonly string[]
  /** `'form'`: the bytes that Bitrix24 sends. `'json'`: the output of PHP's `json_encode($_POST)` for them. */
  readonly format?: 'form' | 'json'
  /** Becomes `auth.application_token`: the receiver removes the original token. */
  readonly token?: string | undefined
  /**
   * Statuses after which the event is not posted again, by default `[400, 410, 413, 422]`.
   * All others except 2xx are retried.
   */
  readonly finalStatuses?: readonly number[]
}

/** With these a target says that it has read the post and will never accept it, or that it is gone for good. */
const defaultFinal: readonly number[] = [400, 410, 413, 422]

const contentTypes = { form: 'application/x-www-form-urlencoded', json: 'application/json' } as const

/**
 * Seconds. A target that asks for more has most likely made a mistake, and the delivery would be dead after `RETRY_FOR`.
 */
const maxWaitSeconds = 86_400

/**
 * Forwards every event to a URL as Bitrix24 wrote it, so that a script or service that
 * received Bitrix24's posts keeps working:
 *
 * ```ts
 * export default forward(process.env['OLD_PHP_URL'], { token: process.env['OLD_PHP_TOKEN'] })
 * ```
 *
 * A 2xx status means done. 400, 410, 413 and 422, or the statuses in `finalStatuses`, are final. Every other status, and a
 * missing answer, is retried, not before `Retry-After`: a script that is being deployed answers 403 or 404 for a while. If
 * the URL is this receiver's own, its refusal is final. Every attempt sends the event's id as `Idempotency-Key`: Bitrix24
 * sends nothing by which the target could recognise an event.
 *
 * @param url http or https. It may be a secret: an error contains only its host
 * @throws {TypeError} when the URL is missing or not valid, or an option is wrong
 */
export function forward(url: string | undefined, options: ForwardOptions = {}): HandlerDefinition {
  const { events = '*', except = [], format = 'form', token, finalStatuses = defaultFinal, ...run } = options
  const { target, headers } = readTarget(url)
  if (!Object.hasOwn(contentTypes, format)) throw new TypeError("forward: format must be 'form' or 'json'")
  if ('token' in options && (typeof token !== 'string' || token === ''))
    throw new TypeError('forward: there is no token: the environment variable it comes from is probably not set')
  if (!isListOfStatuses(finalStatuses))
    throw new TypeError('forward: finalStatuses must be a list of statuses from 300 to 599, such as [400, 404]')

  const definition = defineHandler(
    events,
    async (event: JournalledEvent, { signal }) => {
      const fields = fieldsOf(event, token)
      const response = await fetch(withQuery(target, queryOf(event)), {
        method: 'POST',
        redirect: 'manual',
        headers: {
          'user-agent': 'bitrix24-webhook-receiver',
          'content-type': contentTypes[format],
          'idempotency-key': event.id,
          [forwardMark]: forwarderId(),
          ...headers,
        },
        body: format === 'form' ? httpBuildQuery(fields) : JSON.stringify(fields),
        signal,
      }).catch((error: unknown) => {
        signal.throwIfAborted()
        const code = codeOf(causeOf(error))
        throw new Error(`${target.host} did not answer: ${code ?? 'the connection failed'}`, { cause: error })
      })
      // The body is read to its end so that the connection can be reused. Only the status matters.
      await response.body?.pipeTo(new WritableStream()).catch(() => undefined)
      if (!response.ok) throw errorOf(response, target.host, finalStatuses)
    },
    run,
  )
  return { ...definition, events: [...definition.events, ...readExcept(except)] }
}

function readExcept(except: string | readonly string[]): string[] {
  return [except].flat().map((name) => {
    if (typeof name === 'string' && /^[\w.*]+$/.test(name)) return `${not}${name}`
    throw new TypeError(`forward: except: ${JSON.stringify(name)} is no event name or pattern such as ONTASK*`)
  })
}

function isListOfStatuses(list: unknown): boolean {
  return Array.isArray(list) && list.every((status) => Number.isInteger(status) && status >= 300 && status <= 599)
}

function readTarget(url: string | undefined): { target: URL; headers: Record<string, string> } {
  if (typeof url !== 'string' || url === '')
    throw new TypeError('forward: there is no URL: the environment variable it comes from is probably not set')
  // No error may quote the URL, and fetch would quote a URL that has a password.
  const target = URL.parse(url)
  if (target === null) throw new TypeError('forward: what it was given is no URL such as https://example.com/hook.php')
  if (target.protocol !== 'http:' && target.protocol !== 'https:')
    throw new TypeError('forward: the URL must begin with http:// or https://')
  const { username, password } = target
  target.username = ''
  target.password = ''
  if (username + password === '') return { target, headers: {} }
  const login = Buffer.from(`${decode(username)}:${decode(password)}`).toString('base64')
  return { target, headers: { authorization: `Basic ${login}` } }
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    throw new TypeError('forward: in the name and password of the URL write %25 for a %')
  }
}

/**
 * Returns the fields that Bitrix24 sent, in their order. Extra fields come before `auth` in an event, and
 * after `code` in a post of an application's own robot. `application_token` is the last key of `auth`;
 * the robot "Outgoing webhook" sends none.
 */
function fieldsOf(event: JournalledEvent, token: string | undefined): PhpArray {
  const { document_id, event_handler_id, data, ts, extra = {} } = event
  const { workflow_id, code, ...others } = extra
  const isBare = document_id !== undefined && workflow_id === undefined
  const auth = { ...event.auth, ...(token !== undefined && !isBare && { application_token: token }) }
  const fields = {
    ...(document_id === undefined
      ? { event: event.event, event_handler_id, data, ts, ...extra }
      : { workflow_id, code, document_id, ...others, ...(ts !== undefined && { ts }) }),
    // An `auth` that was not an object is in `extra`, unchanged.
    ...(!Object.hasOwn(extra, 'auth') && { auth }),
  }
  return Object.fromEntries(
    Object.entries(fields).flatMap(([key, value]): [string, PhpValue][] => (value === undefined ? [] : [[key, value]])),
  )
}

function queryOf({ document_id, data, query }: JournalledEvent): FormValue | undefined {
  return document_id === undefined ? query : data
}

/** The post's query comes before the target's own, because the last of two equal keys counts in PHP. */
function withQuery(target: URL, query: FormValue | undefined): URL {
  if (typeof query !== 'object' || Array.isArray(query)) return target
  const url = new URL(target)
  url.search = [httpBuildQuery(query), target.search.slice(1)].filter((part) => part !== '').join('&')
  return url
}

function errorOf({ status, headers }: Response, host: string, final: readonly number[]): Error {
  if (headers.get(forwardMark) === forwarderId())
    return new FinalError(
      `${host} is this receiver itself (${status}, forwarding_loop): give forward() the URL of the service behind it`,
    )
  const isRedirect = status >= 300 && status < 400
  const hint = isRedirect ? ', and no redirect is followed: name the URL that it leads to' : ''
  const answer = `${host} answered ${status}${hint}`
  if (final.includes(status)) return new FinalError(answer)
  const wait = readRetryAfter(headers.get('retry-after'))
  if (wait === undefined) return new Error(answer)
  const error = new RetryAfter(`${wait}s`)
  // The message is all that the tools can show of a delivery that waits or is dead.
  error.message = `${answer}, and asks for ${wait} s`
  return error
}

/**
 * Converts seconds or a date (https://www.rfc-editor.org/rfc/rfc9110#field.retry-after) to seconds from now. Returns
 * `undefined` if the header asks for no wait: the usual backoff applies.
 */
function readRetryAfter(value: string | null): number | undefined {
  if (value === null) return undefined
  const text = value.trim()
  const seconds = /^\d+$/.test(text) ? Number(text) : Math.ceil((Date.parse(text) - Date.now()) / 1000)
  return seconds > 0 ? Math.min(seconds, maxWaitSeconds) : undefined
}
