/** Measures the time of one run. It pauses while the run waits for its turn at a portal. */
export interface RunTimer {
  /** Aborts when the timeout has passed. */
  readonly signal: AbortSignal
  /** Resolves when the timeout has passed a second time after the signal: the handler ignores the signal. */
  readonly overdue: Promise<void>
  /** Pauses the timer during `wait`. Waits that overlap count once. */
  readonly whileWaiting: <T>(wait: Promise<T>) => Promise<T>
  readonly stop: () => void
}

/**
 * @param timeout milliseconds, at most half of a Node timer's 24 days
 * @param interrupt aborts the run's signal before the timeout
 */
export function createRunTimer(timeout: number, interrupt?: AbortSignal): RunTimer {
  const late = new AbortController()
  const overdue = Promise.withResolvers<void>()
  let taken = 0
  let isLate = false
  let waits = 0
  /** `undefined` while the timer is paused. */
  let since: number | undefined
  let timer: NodeJS.Timeout | undefined
  let isOver = false

  function go(): void {
    since = performance.now()
    // The timer must not keep a process alive that has nothing else to do.
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
      if (!isLate && taken >= timeout) abortLate()
      go()
    }
  }

  function abortLate(): void {
    isLate = true
    // The run took much longer if the whole process was suspended. The handler must still get its time after the signal.
    taken = timeout
    // The same error as AbortSignal.timeout.
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
