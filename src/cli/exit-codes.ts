/** The meaning of a command's exit code; 64 and 78 are those of sysexits.h. */
export const exitCodes = {
  done: 0,
  /** The command failed, or found a problem. */
  failed: 1,
  /** The command line is wrong. */
  usage: 64,
  /** The settings are wrong. */
  config: 78,
} as const
