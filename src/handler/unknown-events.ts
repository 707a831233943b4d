import { isDocumented } from '../events/catalogue.ts'
import { candidates, nearestName } from '../events/nearest.ts'
import { robotEvent } from '../events/robot.ts'
import { not, toRegExp } from '../lib/pattern.ts'
import type { LoadedHandler } from './loader.ts'

function matchesAny(event: string): boolean {
  const pattern = toRegExp(event)
  return candidates(event).some((name) => pattern.test(name))
}

/**
 * Returns event names that the documentation does not know, each with the name that it may mean. They are
 * new in Bitrix24 or misspelt. A pattern may be meant for future events, so it is returned only if it
 * matches no event but nearly matches one.
 */
export function unknownEvents(
  handler: Pick<LoadedHandler, 'events'>,
): { event: string; nearest: string | undefined }[] {
  return handler.events
    .map((event) => (event.startsWith(not) ? event.slice(1) : event))
    .filter((event) => (event.includes('*') ? !matchesAny(event) : !isDocumented(event) && event !== robotEvent))
    .map((event) => ({ event, nearest: nearestName(event) }))
    .filter(({ event, nearest }) => nearest !== undefined || !event.includes('*'))
}
