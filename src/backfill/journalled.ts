import type { Logger } from 'pino'
import { type IncomingWebhook, isIncomingWebhookOf } from '../bitrix24/incoming-webhook.ts'
import type { JournalledEvent } from '../events/event.ts'
import type { Form } from '../events/form.ts'
import { robotEvent } from '../events/robot.ts'
import { positionBefore, readJournal } from '../journal/follow.ts'
import { oldest, type Position } from '../journal/position.ts'

/** The facts about a portal that are in the journal. */
export interface Journalled {
  /**
   * Unix seconds of the newest event about the object, by the portal's clock if the event
   * has its time; `undefined` if there is none.
   */
  readonly newest: (object: string) => number | undefined
  /**
   * Copied from the portal's events, so that backfilled events get the same ordering key; `undefined` if it has no event.
   */
  readonly origin: { readonly webhook: string | undefined; readonly auth: Form } | undefined
}

export interface JournalledDeps {
  readonly dataDir: string
  readonly incomingWebhook: IncomingWebhook
  /** Kinds of objects, such as `deal`. */
  readonly kinds: ReadonlySet<string>
  /** Older events are skipped; `undefined`: none is skipped. */
  readonly since: Date | undefined
  readonly log: Logger
}

/** Matches events that prove a change of the record. A comment on a task or a robot on a deal does not. */
const change = /^ON(?!TASKCOMMENT).*(?:ADD|UPDATE)(?:_\d+)?$/

/**
 * Reads the journal once, and again from its beginning if the newer part has no event of the portal. Memory use is one
 * number for each object of these kinds.
 */
export async function readJournalled({ since, kinds, ...deps }: JournalledDeps): Promise<Journalled> {
  const newest = new Map<string, number>()
  let origin: Journalled['origin']
  const from = since === undefined ? oldest : await positionBefore(deps.dataDir, since)
  for await (const event of eventsOfPortal(deps, from)) {
    const { object, webhook, auth, handler } = event
    if (auth && isByWebhook(event)) origin = { webhook, auth }
    // The other handlers did not get this event.
    if (handler !== undefined) continue
    if (object === undefined || !change.test(event.event) || !kinds.has(object.slice(0, object.indexOf(':')))) continue
    newest.set(object, Math.max(timeOf(event), newest.get(object) ?? 0))
  }
  if (origin === undefined)
    for await (const event of eventsOfPortal(deps, oldest)) {
      const { webhook, auth, source } = event
      if (auth && source !== 'backfill') origin = { webhook, auth }
      if (isByWebhook(event)) break
    }
  return { newest: (object) => newest.get(object), origin }
}

/** A robot's event has no token, so no name. A backfilled event only repeats what was known about the portal then. */
function isByWebhook({ event, source }: JournalledEvent): boolean {
  return event !== robotEvent && source !== 'backfill'
}

async function* eventsOfPortal(
  { dataDir, incomingWebhook, log }: Omit<JournalledDeps, 'kinds' | 'since'>,
  from: Position,
): AsyncGenerator<JournalledEvent> {
  for await (const { entries } of readJournal({ dataDir, from, log }))
    for (const { event } of entries) {
      const domain = event.auth?.['domain']
      if (typeof domain === 'string' && isIncomingWebhookOf(incomingWebhook, domain)) yield event
    }
}

function timeOf({ ts, time }: JournalledEvent): number {
  const sent = Number(ts)
  return Number.isInteger(sent) && sent > 0 ? sent : Math.floor(Date.parse(time) / 1000)
}
