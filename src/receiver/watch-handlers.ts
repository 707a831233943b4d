import { watch } from 'node:fs'
import type { Logger } from 'pino'
import type { Supervisor } from './supervisor.ts'

export interface WatchParts {
  readonly dir: string
  readonly supervisor: Supervisor
  readonly log: Logger
}

/** Editors save a file in several steps. */
const settled = 200

/** Loads the handlers anew when a file of theirs is saved. */
export function watchHandlers({ dir, supervisor, log }: WatchParts): void {
  let timer: NodeJS.Timeout | undefined
  const onChange = () => {
    clearTimeout(timer)
    timer = setTimeout(() => void supervisor.reload(), settled)
  }
  const onError = (error: unknown) => log.warn({ err: error }, 'the handlers cannot be watched: reload them by hand')
  try {
    watch(dir, onChange).on('error', onError)
  } catch (error) {
    onError(error)
  }
}
