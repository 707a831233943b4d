import { AsyncLocalStorage } from 'node:async_hooks'

/** A run, for code that meets one of its errors outside the handler's own promise. */
export interface RunScope {
  /** Takes the failure of something that the handler started and did not await. */
  readonly fail: (error: unknown) => void
}

const current = new AsyncLocalStorage<RunScope>()

/** Runs a handler so that everything it starts, now or later, can be traced to its run. */
export function inScope<T>(scope: RunScope, run: () => T): T {
  return current.run(scope, run)
}

/** A handler called `process.exit()` in the process that all handlers share. The error's stack has the line. */
class ExitInHandler extends Error {
  override readonly name = 'ExitInHandler'
}

/**
 * Charges unhandled rejections, errors thrown by a timer or a stream, and `process.exit()` to the run that they belong to.
 * Node would end the process of all handlers for each.
 *
 * @param onOurs called with an error that belongs to no run: this process can no longer be trusted
 */
export function chargeStrays(onOurs: (error: unknown) => void): void {
  let isOver = false
  const charge = (error: unknown) => {
    const scope = current.getStore()
    if (scope) return scope.fail(error)
    // An error during the shutdown must not start the shutdown again.
    if (!isOver) onOurs(error)
    isOver = true
  }
  process.on('unhandledRejection', charge)
  process.on('uncaughtException', charge)
  const exit = process.exit.bind(process)
  process.exit = (code) => {
    if (current.getStore() === undefined) exit(code)
    throw new ExitInHandler(
      `process.exit(${code ?? ''}) in a handler: its process is that of all handlers; throw instead`,
    )
  }
}
