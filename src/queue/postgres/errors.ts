import { codeOf } from '../../lib/error-code.ts'

/** What the server allows its user, as of the last check. */
export interface Ownership {
  /** Our schemas that belong to another role, or that contain another role's table. */
  readonly foreign: readonly { readonly schema: string; readonly owner: string }[]
  readonly user: string
}

/** Postgres ended one of two conflicting transactions: https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html */
export function isConflict(error: unknown): boolean {
  return codeOf(error)?.startsWith('40') === true
}

/** The server has no free connection. Open connections still work. */
export function isConnectionLimit(error: unknown): boolean {
  return codeOf(error) === '53300' || (error instanceof Error && /no more connections allowed/.test(error.message))
}

/** What a person can do about an error of this SQLSTATE. */
const advices: ReadonlyMap<string, string> = new Map([
  ['25006', 'DATABASE_URL leads to a standby, or to a database that is read-only: it must lead to the primary'],
  ['25P03', 'the role or the database has an idle_in_transaction_session_timeout that is too short: 1 min is enough'],
  [
    '57014',
    'the role or the database has a statement_timeout that is too short: ALTER ROLE … SET statement_timeout = 0',
  ],
  [
    '53300',
    'a process takes five connections: raise the limit of the role, the database or the server (docs/scaling.md)',
  ],
  ['22P05', 'the database has no such character: it must have the encoding UTF8 (docs/scaling.md)'],
  [
    'SELF_SIGNED_CERT_IN_CHAIN',
    'name the certificate of its authority in DATABASE_URL: ?sslmode=verify-full&sslrootcert=/path/ca.pem (docs/scaling.md)',
  ],
  [
    'DEPTH_ZERO_SELF_SIGNED_CERT',
    'name the certificate in DATABASE_URL: ?sslmode=verify-full&sslrootcert=/path/server.pem (docs/scaling.md)',
  ],
])

/**
 * Why the database cannot be used now; `undefined` if the statement or our code is wrong. A cause that a person can fix
 * outside of this process, such as a missing right or a wrong password, is temporary too.
 *
 * Error classes: https://www.postgresql.org/docs/current/errcodes-appendix.html. A statement is wrong in 0A, 21, 22,
 * 23, 42 and the like.
 */
export function reasonOf(error: unknown, ownership?: Ownership): string | undefined {
  if (!(error instanceof Error) || error instanceof TypeError || error.name === 'AssertionError') return undefined
  if (error.name === 'SchemaError') return undefined
  const code = codeOf(error) ?? ''
  const text = error.message === '' ? code : error.message
  if (code === '42501') return `${text}: ${adviseRight(ownership)} (docs/scaling.md)`
  if (/statement pooling mode/.test(text))
    return `${text}: PgBouncer must keep a transaction on one connection: set pool_mode = session (or transaction)`
  if (/does not support SSL connections/.test(text))
    return `${text}, and sslmode in DATABASE_URL asks for them: switch ssl on there, or, on a private network, take sslmode out`
  const advice = advices.get(code)
  const isStatement = /^[0-9A-Z]{5}$/.test(code) && /^(0A|2[0-27]|23|42|P0)/.test(code)
  if (isStatement) return undefined
  return advice === undefined ? text : `${text}: ${advice}`
}

function adviseRight(ownership: Ownership | undefined): string {
  const [first] = ownership?.foreign ?? []
  if (ownership === undefined || first === undefined)
    return 'for the first start the user of DATABASE_URL needs CREATE on the database'
  const { schema, owner } = first
  return `${schema}, or what is in it, belongs to "${owner}", and the user of DATABASE_URL is "${ownership.user}": as "${owner}" or a superuser, give it to that one (ALTER SCHEMA and ALTER TABLE … OWNER TO, or restore it as that user)`
}
