import { type Logger, pino } from 'pino'
import type { Event } from '../events/event.ts'
import { messageOf } from '../lib/error-text.ts'
import { printableJson } from '../lib/printable.ts'
import { createBatchWriter } from './batch-writer.ts'
import { JournalUnavailable } from './journal-unavailable.ts'
import { openSegmentWriter, type SegmentWriterDeps } from './segment-writer.ts'
import { createStderrFallback } from './stderr-fallback.ts'

export interface Journal {
  /**
   * Resolves once the event would survive a power cut, so the caller may answer 200.
   *
   * Events that arrive while the disk is busy share the next fsync: the latency is that of one fsync, the throughput
   * that of many. If the disk is too slow an event waits, for 10 s at most.
   *
   * @throws {JournalUnavailable} if the disk refused or took too long; the event has gone to stderr
   */
  append(event: Event): Promise<void>
  /** Why the last events were refused; `undefined` if they were not. */
  readonly trouble: () => string | undefined
  /** When the last event was put on disk, in Unix milliseconds; `undefined` if there was none since the start. */
  readonly lastEventAt: () => number | undefined
  /** Resolves when everything appended before is on disk. Later events are refused. */
  close(): Promise<void>
}

/** The duration of an fsync, and the number of lines that shared it. */
export interface Sync {
  readonly lines: number
  readonly ms: number
}

export interface JournalOptions extends Pick<SegmentWriterDeps, 'dataDir' | 'segmentSize' | 'usedNumber'> {
  /** Milliseconds that an event may wait for the disk. */
  readonly timeoutMs?: number
}

export interface JournalDeps {
  readonly log: Logger
  readonly now?: () => Date
  readonly stderrFallback?: (lines: readonly string[]) => Promise<void>
  readonly onSync?: (sync: Sync) => void
}

/** A disk that refused is probed this often. */
const probeIntervalMs = 1_000

/** Opens the journal for writing, on a segment of its own. */
export async function openJournal({
  timeoutMs = 10_000,
  log,
  now = () => new Date(),
  stderrFallback = createStderrFallback(),
  onSync = () => undefined,
  ...options
}: JournalOptions & JournalDeps): Promise<Journal> {
  const segments = await openSegmentWriter({ ...options, log, now })
  let line = ''
  let trouble: { readonly reason: string; readonly isLogged: boolean } | undefined
  let lastEventAt: number | undefined
  let isClosed = false

  // pino makes the line and passes it on before `info()` returns.
  const formatter = pino(
    { base: null, timestamp: () => `,"time":"${now().toISOString()}"` },
    {
      write: (text) => {
        line = printableJson(text)
      },
    },
  )

  const batches = createBatchWriter({
    async write(lines) {
      const ms = await segments.append(Buffer.from(lines.join('')))
      onSync({ lines: lines.length, ms })
      lastEventAt = now().getTime()
      endTrouble()
    },
    async onFailure(error) {
      // This is logged once, because the log may be on the same full disk. Every refused event goes to stderr.
      if (!trouble?.isLogged) log.error({ err: error, segment: segments.path() }, 'the journal cannot be written')
      trouble = { reason: messageOf(error), isLogged: true }
      await segments.abandon()
    },
    onTimeout(events) {
      const reason = `the disk took longer than ${timeoutMs} ms`
      log.error({ events }, reason)
      trouble = { reason, isLogged: trouble?.isLogged ?? false }
    },
    stderrFallback,
    timeoutMs,
  })

  function endTrouble(): void {
    if (trouble !== undefined) log.info('the journal can be written again')
    trouble = undefined
  }

  // Posts may stay away while `/readyz` reports a failure, so the disk is also probed without posts.
  const probing = setInterval(() => {
    if (trouble !== undefined) batches.runIfIdle(() => segments.probe().then(endTrouble))
  }, probeIntervalMs).unref()

  return {
    append(event) {
      if (isClosed) return Promise.reject(new JournalUnavailable({ reason: 'closed' }))
      formatter.info(event, event.object === undefined ? event.event : `${event.event} ${event.object}`)
      return batches.add(line)
    },
    trouble: () => trouble?.reason,
    lastEventAt: () => lastEventAt,
    async close() {
      isClosed = true
      clearInterval(probing)
      await batches.flush()
      await segments.close()
    },
  }
}
