import { JournalUnavailable } from './journal-unavailable.ts'

export interface BatchWriterDeps {
  /** Puts the lines on disk. */
  readonly write: (lines: readonly string[]) => Promise<void>
  /** Called after a failed write, before its lines are refused. */
  readonly onFailure: (error: unknown) => Promise<void>
  /** Called when this many lines have waited too long, before they are refused. */
  readonly onTimeout: (lines: number) => void
  readonly stderrFallback: (lines: readonly string[]) => Promise<void>
  /** Milliseconds that a line may wait for the disk. */
  readonly timeoutMs: number
}

/**
 * The maximum number of characters in lines that wait for the disk: some 20,000 ordinary events, or several seconds
 * of the fastest sender.
 */
const maxWaitingSize = 10 * 1024 ** 2

/** The first line of a batch waits this long for others: a fraction of the time that Bitrix24's post needs to arrive. */
const maxGatherMs = 3

/**
 * The timeout is counted in this many steps. A step during which this process itself stood still, as in a frozen
 * container, does not count against the disk.
 */
const timeoutSteps = 10

/** The lines that wait for one fsync. */
interface Batch {
  readonly lines: string[]
  /** Characters of all lines. */
  size: number
  readonly durable: PromiseWithResolvers<void>
  timer: NodeJS.Timeout | undefined
  isRefused: boolean
}

/** Makes one write of all lines that wait: the latency is that of one fsync, the throughput that of many. */
export function createBatchWriter({ write, onFailure, onTimeout, stderrFallback, timeoutMs }: BatchWriterDeps) {
  let batch = newBatch()
  let writing: Promise<void> | undefined
  let waitingSize = 0

  async function writeBatches(): Promise<void> {
    for (await gather(); batch.lines.length > 0; await gather()) {
      const current = batch
      batch = newBatch()
      let failure: JournalUnavailable | undefined
      try {
        await write(current.lines)
      } catch (error) {
        await onFailure(error)
        failure = new JournalUnavailable({}, { cause: error })
      }
      clearTimeout(current.timer)
      waitingSize -= current.size
      if (failure) await refuse(current, failure)
      else current.durable.resolve()
    }
    writing = undefined
  }

  /**
   * Lets more lines join the batch. An fsync costs the same for one line as for fifty. Bitrix24 opens a connection
   * for each post, and the event loop accepts one connection in a turn. While every turn brings another line, it is
   * worth waiting for the next; a single line waits for one turn.
   */
  function gather(): Promise<void> {
    const end = performance.now() + maxGatherMs
    let seen = 0
    return new Promise((resolve) => {
      const check = () => {
        const { length } = batch.lines
        if (length === seen || performance.now() >= end) return resolve()
        seen = length
        setImmediate(check)
      }
      check()
    })
  }

  /** Writes the lines to stderr, and rejects the waiting calls only afterwards. */
  async function refuse(refused: Batch, error: JournalUnavailable): Promise<void> {
    // The batch timed out first and failed afterwards.
    if (refused.isRefused) return
    refused.isRefused = true
    await stderrFallback(refused.lines)
    refused.durable.reject(error)
  }

  function startTimeout(current: Batch, steps = timeoutSteps): void {
    const next = () => (steps > 1 ? startTimeout(current, steps - 1) : giveUp(current))
    current.timer = setTimeout(next, timeoutMs / timeoutSteps)
  }

  /** Rejects the waiting calls. A batch that is being written may still reach the disk. */
  function giveUp(late: Batch): void {
    onTimeout(late.lines.length)
    if (late === batch) {
      batch = newBatch()
      waitingSize -= late.size
    }
    void refuse(late, new JournalUnavailable({ reason: 'timeout' }))
  }

  return {
    /**
     * Resolves when the line is on disk.
     *
     * @throws {JournalUnavailable} if the disk refused or took too long; the line has gone to stderr
     */
    add(line: string): Promise<void> {
      if (waitingSize >= maxWaitingSize)
        return stderrFallback([line]).then(() => {
          throw new JournalUnavailable({ reason: 'too much waits for the disk' })
        })
      batch.lines.push(line)
      batch.size += line.length
      waitingSize += line.length
      if (batch.timer === undefined) startTimeout(batch)
      writing ??= writeBatches()
      return batch.durable.promise
    },
    /** Runs this before the next batch, unless a batch is being written. A failure is ignored. */
    runIfIdle(task: () => Promise<void>): void {
      writing ??= task()
        .catch(() => undefined)
        // Lines may have arrived meanwhile.
        .then(writeBatches)
    },
    /** Resolves when no line waits. */
    flush: async (): Promise<void> => writing,
  }
}

function newBatch(): Batch {
  const durable = Promise.withResolvers<void>()
  // The callers of `add` await it. A batch without waiting callers must not cause an unhandled rejection.
  durable.promise.catch(() => undefined)
  return { lines: [], size: 0, durable, timer: undefined, isRefused: false }
}
