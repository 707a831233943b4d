/** The time of one run. It stands still while the run waits for its turn at a portal. */
export interface RunTimer {
  /** Aborts when the run has taken its time. */
  readonly signal: AbortSignal
  /** Resolves when it has taken that twice: its handler ignores the signal. */
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
  let waits = 0
  /** `undefined` while it stands still. */
  let since: number | undefined
  let timer: NodeJS.Timeout | undefined
  let isOver = false

  function go(): void {
    since = performance.now()
    // It must not keep a process that has nothing else to do.
    timer = setTimeout(look, (taken < timeout ? timeout : 2 * timeout) - taken).unref()
  }

  function halt(): void {
    clearTimeout(timer)
    if (since !== undefined) taken += performance.now() - since
    since = undefined
  }

  function look(): void {
    halt()
    // As AbortSignal.timeout.
    if (taken >= timeout) late.abort(new DOMException('The operation was aborted due to timeout', 'TimeoutError'))
    if (taken >= 2 * timeout) overdue.resolve()
    else go()
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
