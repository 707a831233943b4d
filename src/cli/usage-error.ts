/** The command's words are wrong. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
  /** As those of node:util's parseArgs begin. */
  readonly code = 'ERR_PARSE_ARGS_VALUE'
}
