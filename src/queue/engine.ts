import type { Logger } from 'pino'
import type { OpenBudget } from '../bitrix24/budget.ts'
import type { Config } from '../config/config.ts'
import type { Position } from '../journal/position.ts'
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
