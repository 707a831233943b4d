import type { IncomingWebhook } from './incoming-webhook.ts'

export interface Bitrix24ErrorOptions {
  readonly incomingWebhook: IncomingWebhook
  readonly method: string
  /**
   * The portal's code. `NO_CODE` if the portal sent none, Node's code for a failed connection, `HTTP_302` and the
   * like for an answer that is not from REST.
   */
  readonly code: string
  /** The portal's own text. */
  readonly description: string
  /** The HTTP status; 0 without an answer. */
  readonly status: number
  /** The key of the batch command. */
  readonly command?: string | undefined
  /** Set if more is known than the answer says. */
  readonly trouble?: Trouble | undefined
}

export type Trouble = 'dead' | 'unreachable' | 'not_rest'

/**
 * A call that failed. It may be logged: neither the error nor its stack contains the incoming webhook's URL or the
 * sent parameters.
 */
export class Bitrix24Error extends Error {
  override readonly name = 'Bitrix24Error'
  readonly code: string
  /** The portal's own text. */
  readonly description: string
  readonly status: number
  readonly method: string
  readonly command: string | undefined
  /**
   * A cause that every other call would meet, too. `dead`: the portal does not know the incoming webhook, or refuses
   * it. `unreachable`: there is no answer. `not_rest`: the answer is not from Bitrix24's REST. It may be a login
   * page, the page of a proxy or of a deleted portal, or a redirect to the address of a renamed portal.
   */
  readonly trouble: Trouble | undefined

  constructor(options: Bitrix24ErrorOptions) {
    super(options.incomingWebhook.redact(explain(options)))
    this.code = options.incomingWebhook.redact(options.code)
    this.description = options.incomingWebhook.redact(options.description)
    this.status = options.status
    this.method = options.method
    this.command = options.command
    this.trouble = troubleOf(options)
  }
}

function explain(options: Bitrix24ErrorOptions): string {
  const { incomingWebhook, method, code, description, command } = options
  const at = command === undefined ? method : `${method} ("${command}")`
  const trouble = troubleOf(options)
  if (code === 'insufficient_scope')
    return `${at} needs the scope "${scopeOf(method)}", which ${incomingWebhook.label} does not have (${code})`
  if (trouble === 'not_rest')
    return `${incomingWebhook.label} is answered by something else than Bitrix24's REST: ${code} (${description})`
  if (trouble !== undefined) return `${incomingWebhook.label} is ${trouble}: ${code} (${description})`
  if (code === 'ACCESS_DENIED')
    return `${at} is not allowed to user ${incomingWebhook.user}, who made ${incomingWebhook.label} (${code})`
  return `${at}: ${code} (${description})`
}

const deadCodes = new Set([
  'expired_token',
  'invalid_token',
  'NO_AUTH_FOUND',
  'INVALID_CREDENTIALS',
  // The user of the incoming webhook was dismissed.
  'authorization_error',
  'PORTAL_DELETED',
])

function troubleOf(options: Bitrix24ErrorOptions): Trouble | undefined {
  const { code, status, command, trouble } = options
  if (trouble !== undefined) return trouble
  // An error of one command concerns only that command.
  if (command !== undefined) return undefined
  if (deadCodes.has(code)) return 'dead'
  // The plan has no REST, or an administrator blocked it. A method that the user may not call answers ACCESS_DENIED
  // with 400.
  if ((code === 'ACCESS_DENIED' || code === 'OVERLOAD_LIMIT') && status !== 400) return 'dead'
  // A call that times out has reached a server. A proxy's 502 means that it has not.
  if (status === 0 && code !== 'REQUEST_TIMEOUT') return 'unreachable'
  if (/^HTTP_5/.test(code)) return 'unreachable'
  return /^HTTP_\d/.test(code) ? 'not_rest' : undefined
}

/**
 * The methods whose scope is not their first word: https://apidocs.bitrix24.com/api-reference/scopes/permissions.html
 */
const scopes: ReadonlyMap<string, string> = new Map([
  ['tasks', 'task'],
  ['voximplant', 'telephony'],
])

function scopeOf(method: string): string {
  const first = method.split('.')[0] ?? method
  return scopes.get(first) ?? first
}
