import { AsyncLocalStorage } from 'node:async_hooks'

/** A run, for whoever meets something of it outside of the handler's own promise. */
export interface RunScope {
  /** Something that the handler started has failed, and nobody awaits it. */
  readonly fail: (error: unknown) => void
}

const current = new AsyncLocalStorage<RunScope>()

/** Runs a handler so that whatever it starts, now or later, is known to be its. */
export function inScope<T>(scope: RunScope, run: () => T): T {
  return current.run(scope, run)
}

/** A handler ended the process that is everybody's; the error's stack has its line. */
class ExitInHandler extends Error {
  override readonly name = 'ExitInHandler'
}

/**
 * From now on a rejection that nobody handles, an error that a timer or a stream throws, and `process.exit()` are charged
 * to the run that they belong to: Node would end the process of all handlers for each.
 *
 * @param onOurs called with what belongs to no run: this process is not to be trusted any more
 */
export function chargeStrays(onOurs: (error: unknown) => void): void {
  let isOver = false
  const charge = (error: unknown) => {
    const scope = current.getStore()
    if (scope) return scope.fail(error)
    // What fails on the way to the end must not begin it again.
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
