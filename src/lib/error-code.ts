/** Node's and the system's name of an error, such as `ENOENT`; of one from Postgres its SQLSTATE. */
export function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error ? String(error.code) : undefined
}
