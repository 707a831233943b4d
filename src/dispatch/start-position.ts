import type { Logger } from 'pino'
import type { Config } from '../config/config.ts'
import { positionOfLast, positionOfTime } from '../journal/follow.ts'
import { oldest, type Position } from '../journal/position.ts'
import type { Engine } from '../queue/engine.ts'

/** The dispatcher does not follow the journal, because it would lose events. The message says what to fix. */
export class Waiting extends Error {
  override readonly name = 'Waiting'
}

/**
 * If the position is lost or belongs to another journal, the operator must choose one: a guess could lose or repeat
 * events.
 *
 * @throws {Waiting} if the operator has not chosen
 */
export async function startPosition(engine: Engine, { dispatchFrom, dataDir }: Config, log: Logger): Promise<Position> {
  const start = await engine.startPosition()
  if ('from' in start) return start.from
  if (dispatchFrom === undefined)
    throw new Waiting(
      `${start.lost}. Start with DISPATCH_FROM=oldest (all handlers run again for every event there is), DISPATCH_FROM=now (what was pending is dropped) or DISPATCH_FROM=2026-11-23T08:00:00Z`,
    )
  const from =
    dispatchFrom === 'oldest'
      ? oldest
      : dispatchFrom === 'now'
        ? await positionOfLast(dataDir, 0)
        : await positionOfTime(dataDir, new Date(dispatchFrom), log)
  log.warn({ ...from, dispatch_from: dispatchFrom }, 'following from where DISPATCH_FROM says')
  await engine.queue.add([], from)
  return from
}
