import type { Hook } from './incoming-webhook.ts'

export interface Bitrix24ErrorParts {
  readonly hook: Hook
  readonly method: string
  /** The portal's; `NO_CODE` if it gave none, Node's for a connection, `HTTP_302` and the like for what is not of REST. */
  readonly code: string
  /** The portal's words. */
  readonly description: string
  /** HTTP; 0 when nothing was answered. */
  readonly status: number
  /** The key of a batch's command. */
  readonly command?: string | undefined
  /** Where more is known than the answer tells. */
  readonly trouble?: Trouble | undefined
}

export type Trouble = 'dead' | 'unreachable' | 'not_rest'

/** A call that failed. Neither it nor its stack has the hook's URL in it, nor what was sent: it may be logged. */
export class Bitrix24Error extends Error {
  override readonly name = 'Bitrix24Error'
  readonly code: string
  /** The portal's words. */
  readonly description: string
  readonly status: number
  readonly method: string
  readonly command: string | undefined
  /**
   * What no other call would get round either: the portal does not know the hook, or does not let it in (`dead`),
   * nothing is there (`unreachable`), or something that is not Bitrix24's REST (`not_rest`): the page of a login, of a
   * proxy, of a portal that was deleted, a redirect to where a renamed one is.
   */
  readonly trouble: Trouble | undefined

  constructor(parts: Bitrix24ErrorParts) {
    super(parts.hook.redact(explain(parts)))
    this.code = parts.hook.redact(parts.code)
    this.description = parts.hook.redact(parts.description)
    this.status = parts.status
    this.method = parts.method
    this.command = parts.command
    this.trouble = troubleOf(parts)
  }
}

function explain(parts: Bitrix24ErrorParts): string {
  const { hook, method, code, description, command } = parts
  const at = command === undefined ? method : `${method} ("${command}")`
  const trouble = troubleOf(parts)
  if (code === 'insufficient_scope')
    return `${at} needs the scope "${scopeOf(method)}", which ${hook.label} does not have (${code})`
  if (trouble === 'not_rest')
    return `${hook.label} is answered by something else than Bitrix24's REST: ${code} (${description})`
  if (trouble !== undefined) return `${hook.label} is ${trouble}: ${code} (${description})`
  if (code === 'ACCESS_DENIED') return `${at} is not allowed to user ${hook.user}, who made ${hook.label} (${code})`
  return `${at}: ${code} (${description})`
}

const deadCodes = new Set([
  'expired_token',
  'invalid_token',
  'NO_AUTH_FOUND',
  'INVALID_CREDENTIALS',
  // Its user was dismissed.
  'authorization_error',
  'PORTAL_DELETED',
])

function troubleOf(parts: Bitrix24ErrorParts): Trouble | undefined {
  const { code, status, command, trouble } = parts
  if (trouble !== undefined) return trouble
  // Its commands' errors are a batch's own.
  if (command !== undefined) return undefined
  if (deadCodes.has(code)) return 'dead'
  // No REST on the plan, a block by hand. A method that the user may not call answers ACCESS_DENIED with 400.
  if ((code === 'ACCESS_DENIED' || code === 'OVERLOAD_LIMIT') && status !== 400) return 'dead'
  // A call that takes too long has reached somebody. A 502 of a proxy has not.
  if (status === 0 && code !== 'REQUEST_TIMEOUT') return 'unreachable'
  if (/^HTTP_5/.test(code)) return 'unreachable'
  return /^HTTP_\d/.test(code) ? 'not_rest' : undefined
}

/** Where the scope is not the method's first word: https://apidocs.bitrix24.com/api-reference/scopes/permissions.html */
const scopes: ReadonlyMap<string, string> = new Map([
  ['tasks', 'task'],
  ['voximplant', 'telephony'],
])

function scopeOf(method: string): string {
  const first = method.split('.')[0] ?? method
  return scopes.get(first) ?? first
}
