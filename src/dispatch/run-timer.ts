/** The time of one run. It stands still while the run waits for its turn at a portal. */
export interface RunTimer {
  /** Aborts when the run has taken its time. */
  readonly signal: AbortSignal
  /** Resolves when it has taken as long again after the signal: its handler ignores it. */
  readonly overdue: Promise<void>
  /** Waits that overlap count once. */
  readonly whileWaiting: <T>(wait: Promise<T>) => Promise<T>
  readonly stop: () => void
}

/**
 * @param timeout milliseconds; half a Node timer's 24 days at most
 * @param interrupt aborts the run's signal before its time
 */
export function createRunTimer(timeout: number, interrupt?: AbortSignal): RunTimer {
  const late = new AbortController()
  const overdue = Promise.withResolvers<void>()
  let taken = 0
  let isLate = false
  let waits = 0
  /** `undefined` while it stands still. */
  let since: number | undefined
  let timer: NodeJS.Timeout | undefined
  let isOver = false

  function go(): void {
    since = performance.now()
    // It must not keep a process that has nothing else to do.
    timer = setTimeout(look, (isLate ? 2 * timeout : timeout) - taken).unref()
  }

  function halt(): void {
    clearTimeout(timer)
    if (since !== undefined) taken += performance.now() - since
    since = undefined
  }

  function look(): void {
    halt()
    if (isLate && taken >= 2 * timeout) overdue.resolve()
    else {
      if (!isLate && taken >= timeout) tellLate()
      go()
    }
  }

  function tellLate(): void {
    isLate = true
    // It has taken much longer where the whole process stood still, and could not know.
    taken = timeout
    // As AbortSignal.timeout.
    late.abort(new DOMException('The operation was aborted due to timeout', 'TimeoutError'))
  }

  interrupt?.addEventListener('abort', () => late.abort(interrupt.reason), { once: true })
  go()
  return {
    signal: late.signal,
    overdue: overdue.promise,
    async whileWaiting(wait) {
      if (waits++ === 0) halt()
      try {
        return await wait
      } finally {
        if (--waits === 0 && !isOver) go()
      }
    },
    stop() {
      isOver = true
      halt()
    },
  }
}
