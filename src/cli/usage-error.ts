/** The command line is wrong. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
  /** The code begins like those of parseArgs in node:util. */
  readonly code = 'ERR_PARSE_ARGS_VALUE'
}
