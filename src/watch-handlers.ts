import { watch } from 'node:fs'
import type { Supervisor } from './supervisor.ts'

/** Editors save a file in several steps. */
const settled = 200

/** Loads the handlers anew when a file of theirs is saved. */
export function watchHandlers(dir: string, supervisor: Supervisor): void {
  let timer: NodeJS.Timeout | undefined
  watch(dir, () => {
    clearTimeout(timer)
    timer = setTimeout(() => void supervisor.reload(), settled)
  })
}
