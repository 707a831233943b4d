import { watch } from 'node:fs'
import type { Logger } from 'pino'
import type { Supervisor } from './supervisor.ts'

export interface WatchDeps {
  readonly dir: string
  readonly supervisor: Supervisor
  readonly log: Logger
}

/** Milliseconds without a change before a reload, because editors save a file in several steps. */
const quietMs = 200

/** Loads the handlers again when a file in their folder is saved. */
export function watchHandlers({ dir, supervisor, log }: WatchDeps): void {
  let timer: NodeJS.Timeout | undefined
  const onChange = () => {
    clearTimeout(timer)
    timer = setTimeout(() => supervisor.reload(), quietMs)
  }
  const onError = (error: unknown) => log.warn({ err: error }, 'the handlers cannot be watched: reload them by hand')
  try {
    watch(dir, onChange).on('error', onError)
  } catch (error) {
    onError(error)
  }
}
