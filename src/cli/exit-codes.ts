/** What a command's exit code means; 64 and 78 are those of sysexits.h. */
export const exitCodes = {
  done: 0,
  /** It failed, or what it looked at is not well. */
  failed: 1,
  /** The words are wrong. */
  usage: 64,
  /** The settings are wrong. */
  config: 78,
} as const
