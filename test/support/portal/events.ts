import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { httpBuildQuery, type PhpArray } from '../../../src/lib/php-query.ts'
import { post } from '../receiver.ts'
import type { Change, RecordType } from './records.ts'

/** An outgoing webhook: where the events of a portal go. */
export interface OutgoingWebhook {
  readonly url: string
  readonly token: string
  /**
   * Only these events; all of them by default, but for those with a type behind their name, such as
   * `ONCRMDYNAMICITEMADD_1220`, which come beside the plain ones.
   */
  readonly events?: readonly string[]
  /** Milliseconds between a write and its post. */
  readonly delay?: number
  /** How often each event is posted: 2 for a queue that delivers twice. */
  readonly copies?: number
}

/** A post that was answered; status 0 where no answer came. */
export interface FiredEvent {
  readonly event: string
  readonly id: number
  readonly status: number
}

const kinds: ReadonlyMap<RecordType, string> = new Map<RecordType, string>([
  [1, 'CRMLEAD'],
  [2, 'CRMDEAL'],
  [3, 'CRMCONTACT'],
  [4, 'CRMCOMPANY'],
  [5, 'CRMINVOICE'],
  [7, 'CRMQUOTE'],
  ['activity', 'CRMACTIVITY'],
  ['task', 'TASK'],
])

/** Posts an event for each change, in their order and each once: Bitrix24 does not try again. */
export function createEvents({ host, memberId, now }: { host: string; memberId: string; now: () => number }) {
  const fired: FiredEvent[] = []
  const webhooks: OutgoingWebhook[] = []
  const posting = new Set<Promise<void>>()
  const handlerIds = new Map<string, number>()

  function namesOf({ what, type }: Change, { events }: OutgoingWebhook): string[] {
    const name = `ON${kinds.get(type) ?? 'CRMDYNAMICITEM'}${what}`
    if (!events) return [name]
    return [name, `${name}_${type}`].filter((event) => events.includes(event))
  }

  function bodyOf(event: string, change: Change, token: string, at: number): string {
    if (!handlerIds.has(event)) handlerIds.set(event, 300 + handlerIds.size)
    const form: PhpArray = {
      event,
      event_handler_id: handlerIds.get(event) ?? 0,
      data: dataOf(change),
      ts: Math.floor(at / 1000),
      auth: {
        domain: host,
        client_endpoint: `https://${host}/rest/`,
        server_endpoint: 'https://oauth.bitrix.info/rest/',
        member_id: memberId,
        application_token: token,
      },
    }
    return httpBuildQuery(form)
  }

  async function postTo(webhook: OutgoingWebhook, change: Change, before: Promise<void>): Promise<void> {
    const { url, token, delay = 0, copies = 1 } = webhook
    const at = now()
    await Promise.all([before, delay > 0 && sleep(delay)])
    for (const event of namesOf(change, webhook)) {
      const body = bodyOf(event, change, token, at)
      for (let copy = 0; copy < copies; copy++) {
        const { status } = await post(url, body).catch(() => ({ status: 0 }))
        fired.push({ event, id: change.id, status })
      }
    }
  }

  /** Of each webhook, what must be posted before the next. */
  const last = new Map<OutgoingWebhook, Promise<void>>()

  return {
    fired,
    webhooks,
    fire(change: Change): void {
      for (const webhook of webhooks) {
        const done = postTo(webhook, change, last.get(webhook) ?? Promise.resolve())
        last.set(webhook, done)
        posting.add(done)
        void done.finally(() => posting.delete(done))
      }
    },
    /** Resolves when every event that was fired has its answer. */
    async answered(): Promise<void> {
      while (posting.size > 0) await Promise.all(posting)
    },
  }
}

/** As an outgoing webhook gets it: ids, and of a task the words that the portal writes for nothing. */
function dataOf({ what, type, id }: Change): PhpArray {
  if (type === 'task')
    return {
      FIELDS_BEFORE: what === 'ADD' ? 'undefined' : { ID: id },
      FIELDS_AFTER: what === 'DELETE' ? 'undefined' : { ID: id },
      IS_ACCESSIBLE_BEFORE: what === 'ADD' ? 'N' : 'undefined',
      IS_ACCESSIBLE_AFTER: what === 'DELETE' ? 'N' : 'undefined',
    }
  return { FIELDS: { ID: id, ...(!kinds.has(type) && { ENTITY_TYPE_ID: Number(type) }) } }
}

export function newMemberId(): string {
  return randomUUID().replaceAll('-', '')
}
