import type { Logger } from 'pino'
import { type Hook, isHookOf } from '../bitrix24/incoming-webhook.ts'
import { robotEvent } from '../events/robot.ts'
import type { Form } from '../intake/form.ts'
import { follow, type JournalledEvent, oldest, type Position, positionBefore } from '../journal/follow.ts'

/** What the journal has of a portal. */
export interface Journalled {
  /** Unix seconds of the newest event about the object, by the portal's clock where it told; `undefined`: there is none. */
  readonly newest: (object: string) => number | undefined
  /** As the portal's events carry them, so that what is backfilled has the same order; `undefined`: no event of it is there. */
  readonly origin: { readonly webhook: string | undefined; readonly auth: Form } | undefined
}

export interface JournalledParts {
  readonly dataDir: string
  readonly hook: Hook
  /** Kinds of objects, such as `deal`. */
  readonly kinds: ReadonlySet<string>
  /** Older events are of no interest; `undefined`: all are. */
  readonly since: Date | undefined
  readonly log: Logger
}

/** A comment on a task, or a robot at a deal, tells nothing of how the record was changed before. */
const change = /^ON(?!TASKCOMMENT).*(?:ADD|UPDATE)(?:_\d+)?$/

/**
 * Reads the journal once, and its older part where the newer has no event of the portal. Of each object of these kinds one
 * number stays in memory.
 */
export async function readJournalled({ since, kinds, ...parts }: JournalledParts): Promise<Journalled> {
  const newest = new Map<string, number>()
  let origin: Journalled['origin']
  const from = since === undefined ? oldest : await positionBefore(parts.dataDir, since)
  for await (const event of eventsOfPortal(parts, from)) {
    const { object, webhook, auth, handler } = event
    if (auth && isByWebhook(event)) origin = { webhook, auth }
    // The other handlers were not told of it.
    if (handler !== undefined) continue
    if (object === undefined || !change.test(event.event) || !kinds.has(object.slice(0, object.indexOf(':')))) continue
    newest.set(object, Math.max(timeOf(event), newest.get(object) ?? 0))
  }
  if (origin === undefined)
    for await (const event of eventsOfPortal(parts, oldest)) {
      const { webhook, auth, source } = event
      if (auth && source !== 'backfill') origin = { webhook, auth }
      if (isByWebhook(event)) break
    }
  return { newest: (object) => newest.get(object), origin }
}

/** A robot has no token, so no name; and what was backfilled says of its portal what we knew then. */
function isByWebhook({ event, source }: JournalledEvent): boolean {
  return event !== robotEvent && source !== 'backfill'
}

async function* eventsOfPortal(
  { dataDir, hook, log }: Omit<JournalledParts, 'kinds' | 'since'>,
  from: Position,
): AsyncGenerator<JournalledEvent> {
  const signal = new AbortController().signal
  for await (const { entries } of follow({ dataDir, from, signal, wait: false, log }))
    for (const { event } of entries) {
      const domain = event.auth?.['domain']
      if (typeof domain === 'string' && isHookOf(hook, domain)) yield event
    }
}

function timeOf({ ts, time }: JournalledEvent): number {
  const told = Number(ts)
  return Number.isInteger(told) && told > 0 ? told : Math.floor(Date.parse(time) / 1000)
}
