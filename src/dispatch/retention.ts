import { rm, stat } from 'node:fs/promises'
import type { Logger } from 'pino'
import { listSegments } from '../journal/segments.ts'
import type { Queue } from '../queue/queue.ts'

export interface RetentionDeps {
  readonly dataDir: string
  readonly retentionDays: number
  readonly queue: Pick<Queue, 'prune'>
  readonly log: Logger
  /** Returns the number of the segment that is being followed; `undefined` if another process follows the journal. */
  readonly followedSegment: () => number | undefined
  /** Receives why segments older than the retention are still there; `undefined` if there are none. */
  readonly onRetained: (trouble: string | undefined) => void
  readonly signal: AbortSignal
}

const day = 86_400_000

export async function removeOldSegments(deps: RetentionDeps): Promise<void> {
  const { dataDir, retentionDays, queue, log, followedSegment, onRetained, signal } = deps
  const segments = await listSegments(dataDir)
  const kept = new Map<string, unknown>()
  for (const { number, path } of segments.slice(0, -1)) {
    const followed = followedSegment()
    if (signal.aborted || followed === undefined || number >= followed) break
    try {
      if ((await stat(path)).mtimeMs > Date.now() - retentionDays * day) break
    } catch (error) {
      kept.set(path, error)
      continue
    }
    await queue.prune(number)
    try {
      await rm(path, { force: true })
      log.info({ segment: path }, 'a segment was followed and is older than RETENTION_DAYS: removed')
    } catch (error) {
      // A segment that cannot be removed costs disk space but loses no event, so handlers keep running.
      kept.set(path, error)
    }
  }
  for (const [segment, err] of kept)
    log.error({ segment, err }, 'a segment is older than RETENTION_DAYS and cannot be removed')
  const [first] = kept
  onRetained(first && `${kept.size} segments are older than RETENTION_DAYS and cannot be removed: ${String(first[1])}`)
}
