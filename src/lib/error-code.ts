/**
 * Returns the name that Node or the system has for an error, such as `ENOENT`. For an error from Postgres it returns
 * the SQLSTATE.
 */
export function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error ? String(error.code) : undefined
}
