const prefix = '--times='

/** Times that differ from those of production. */
export interface Times {
  readonly probes?: { readonly probeEvery: number }
  /** Of the published lists of addresses. */
  readonly lists?: { readonly times: { readonly refresh: number; readonly again: number } }
  /** How many seconds pass for the alerter in one second. */
  readonly alerterSpeed?: number
}

/** The option `--times` with its value as JSON. It is internal: tests shorten with it what would take minutes. */
export const timesOption = (times: Times): string => prefix + JSON.stringify(times)

/** What a process passes on to its child processes. */
export const timesArgs = (): readonly string[] => process.argv.filter((arg) => arg.startsWith(prefix))

export function readTimes(): Times {
  return JSON.parse(timesArgs()[0]?.slice(prefix.length) ?? '{}')
}
