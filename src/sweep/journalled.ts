import type { Logger } from 'pino'
import { type Hook, isHookOf } from '../bitrix24/hook.ts'
import type { Form } from '../intake/form.ts'
import { follow, type JournalledEvent, oldest, positionBefore } from '../journal/follow.ts'

/** What the journal has of a portal. */
export interface Journalled {
  /** Unix seconds of the newest event about the object, by the portal's clock where it told; `undefined`: there is none. */
  readonly newest: (object: string) => number | undefined
  /** As the portal's events carry them, so that what is swept has the same order; `undefined`: no event of it is there. */
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

/** Reads the journal once. Of each object of these kinds one number stays in memory. */
export async function readJournalled({ dataDir, hook, kinds, since, log }: JournalledParts): Promise<Journalled> {
  const newest = new Map<string, number>()
  let origin: Journalled['origin']
  const from = since === undefined ? oldest : await positionBefore(dataDir, since)
  const signal = new AbortController().signal
  for await (const { entries } of follow({ dataDir, from, signal, wait: false, log }))
    for (const { event } of entries) {
      const domain = event.auth?.['domain']
      if (typeof domain !== 'string' || !isHookOf(hook, domain)) continue
      if (event.auth) origin = { webhook: event.webhook, auth: event.auth }
      const { object } = event
      if (object === undefined || !kinds.has(object.slice(0, object.indexOf(':')))) continue
      newest.set(object, Math.max(timeOf(event), newest.get(object) ?? 0))
    }
  return { newest: (object) => newest.get(object), origin }
}

function timeOf({ ts, time }: JournalledEvent): number {
  const told = Number(ts)
  return Number.isInteger(told) && told > 0 ? told : Math.floor(Date.parse(time) / 1000)
}
