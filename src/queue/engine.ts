import type { Logger } from 'pino'
import type { OpenBudget } from '../bitrix24/budget.ts'
import type { Config } from '../config/config.ts'
import { misfitOf } from '../journal/fit.ts'
import { oldest, type Position } from '../journal/position.ts'
import { isJournalEmpty } from '../journal/segments.ts'
import type { LoopBreaker } from './loop-breaker.ts'
import type { OwnChanges } from './own-changes.ts'
import type { Awaitable, Queue } from './queue.ts'

/** Stores the deliveries, and the data that is kept per object. */
export interface Engine {
  readonly queue: Queue
  readonly ownChanges: OwnChanges
  readonly loopBreaker: LoopBreaker
  /** The budget is shared by all workers of the engine. */
  readonly openBudget: OpenBudget
  startPosition(): Promise<Start>
  close(): Awaitable<void>
}

/** Where to start following the journal, or why this position is unknown. */
export type Start = { readonly from: Position } | { readonly lost: string }

export interface EngineDeps {
  readonly config: Config
  readonly log: Logger
  /** Why the engine cannot be used; `undefined` once it can. */
  readonly onTrouble: (reason: string | undefined) => void
}

/**
 * @param isNew nothing of this journal was followed yet, whatever position is stored
 * @param lost why the position is unknown, or that it does not fit the journal
 */
export async function findStart(
  { queue, dataDir, isNew = false }: { readonly queue: Queue; readonly dataDir: string; readonly isNew?: boolean },
  lost: (misfit: string | undefined) => string,
): Promise<Start> {
  const position = isNew ? undefined : await queue.position()
  const misfit = position && (await misfitOf(dataDir, position))
  if (position && misfit === undefined) return { from: position }
  if (!isNew && !(await isJournalEmpty(dataDir))) return { lost: lost(misfit) }
  await queue.add([], oldest)
  return { from: oldest }
}
