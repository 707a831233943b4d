import { describe, expect, test } from 'vitest'
import { Bitrix24Error } from '../../../src/bitrix24/bitrix24-error.ts'
import { createClient } from '../../../src/bitrix24/client.ts'
import { parseIncomingWebhooks } from '../../../src/bitrix24/incoming-webhook.ts'
import { createLimits } from '../../../src/bitrix24/limits.ts'
import type { JournalledEvent } from '../../../src/events/event.ts'
import { realClock } from '../../../src/lib/clock.ts'
import type { OwnChanges } from '../../../src/queue/own-changes.ts'
import type { Awaitable } from '../../../src/queue/queue.ts'
import { type Portal, startPortal } from '../../support/portal.ts'

const DEAL = 2
const HOOK_USER = 17

function incomingWebhookOf(portal: Portal) {
  const [incomingWebhook] = parseIncomingWebhooks(portal.incomingWebhook())
  if (!incomingWebhook) throw new Error('no incoming webhook')
  return incomingWebhook
}

/** Opens a store of its own, and the next time the same one, as the next process sees it. */
export type OpenOwnWrites = (now: () => number) => Awaitable<() => Awaitable<OwnChanges>>

/**
 * What every engine must know of own writes.
 *
 * @param isForgetful requests that were not answered are forgotten with their process
 */
export function describeOwnChanges(engine: string, openStore: OpenOwnWrites, isForgetful: boolean): void {
  /** A portal, the client of a handler's run, and what that writes; one clock for all, in Unix milliseconds. */
  async function start() {
    const clock = { now: Date.UTC(2026, 10, 23, 8) }
    const portal = await startPortal({ now: () => clock.now, user: HOOK_USER })
    const open = await openStore(() => clock.now)
    let own = await open()
    const objects: string[] = []
    const clientOf = (handler: string) =>
      createClient({
        incomingWebhook: incomingWebhookOf(portal),
        limits: createLimits({ rate: 2, burst: 50, clock: realClock }),
        async onSend(commands) {
          const remember = await own.sending({ handler, event: eventOf('deal:1'), user: String(HOOK_USER) }, commands)
          return async (answered) => void objects.push(...(await remember(answered)))
        },
      })
    let lastId = 0
    function eventOf(object: string, more: Partial<JournalledEvent> = {}): JournalledEvent {
      return {
        level: 30,
        time: new Date(clock.now).toISOString(),
        msg: '',
        id: String(++lastId),
        event: 'ONCRMDEALUPDATE',
        object,
        event_handler_id: '312',
        auth: { member_id: portal.memberId, domain: portal.host },
        remote: '::1',
        ...more,
      }
    }
    const client = clientOf('h')
    return {
      clock,
      portal,
      objects,
      clientOf,
      client,
      eventOf,
      /** What becomes of an event of deal 662 that came just now. */
      arrive: (more: Partial<JournalledEvent> = {}, { handler = 'h', coalesced = 1 } = {}) =>
        own.judge({ handler, event: eventOf('deal:662', more), coalesced }, () =>
          client.call('crm.item.get', { entityTypeId: DEAL, id: 662 }),
        ),
      judge: (event: JournalledEvent, read: () => Promise<unknown>) =>
        own.judge({ handler: 'h', event, coalesced: 1 }, read),
      reopen: async () => {
        await own.close()
        own = await open()
      },
      title: (title: string) => client.call('crm.item.update', { entityTypeId: DEAL, id: 662, fields: { title } }),
    }
  }

  async function startWithDeal() {
    const all = await start()
    all.portal.records.add(DEAL, { title: 'Boat' }, 7, 662)
    all.clock.now += 60_000
    return all
  }

  describe(`own writes in ${engine}`, () => {
    describe('an event', () => {
      test('of a write of the handler is an own change, and the next one runs', async () => {
        const { title, arrive } = await startWithDeal()
        await title('Ship')
        expect(await arrive()).toBe('own_change')
        expect(await arrive()).toBe('run')
      })

      test('of an own write in a batch is one too, and of two to one object there is one', async () => {
        const { client, arrive, objects } = await startWithDeal()
        const update = (title: string) =>
          ['crm.item.update', { entityTypeId: DEAL, id: 662, fields: { title } }] as const
        await client.batch({ one: update('Ship'), two: update('Yacht'), read: ['crm.deal.get', { id: 662 }] })
        expect(objects).toEqual(['deal:662'])
        expect(await arrive()).toBe('own_change')
        expect(await arrive()).toBe('run')
      })

      test('of an added object is one', async () => {
        const { client, arrive, eventOf, judge } = await start()
        const id = await client.call<number>('crm.deal.add', { fields: { TITLE: 'Boat' } })
        const read = () => client.call('crm.item.get', { entityTypeId: DEAL, id })
        expect(await judge(eventOf(`deal:${id}`, { event: 'ONCRMDEALADD' }), read)).toBe('own_change')
        expect(await arrive()).toBe('run')
      })

      test('of a task is one', async () => {
        const { client, clock, eventOf, judge, portal } = await start()
        portal.records.add('task', { title: 'Call' }, 7, 17)
        clock.now += 5_000
        await client.call('tasks.task.update', { taskId: 17, fields: { TITLE: 'Call them' } })
        const read = () => client.call('tasks.task.get', { taskId: 17 })
        expect(await judge(eventOf('task:17', { event: 'ONTASKUPDATE' }), read)).toBe('own_change')
        expect(await judge(eventOf('task:17', { event: 'ONTASKUPDATE' }), read)).toBe('run')
      })

      test('that comes by two subscriptions is one by each', async () => {
        const { client, eventOf, judge, portal } = await start()
        portal.records.add(1032, { title: 'Boat' }, 7, 21)
        const params = { entityTypeId: 1032, id: 21 }
        await client.call('crm.item.update', { ...params, fields: { title: 'Ship' } })
        const come = (event: string, event_handler_id: string) =>
          judge(eventOf('item:1032:21', { event, event_handler_id }), () => client.call('crm.item.get', params))
        const verdicts = [
          await come('ONCRMDYNAMICITEMUPDATE', '312'),
          await come('ONCRMDYNAMICITEMUPDATE_1032', '313'),
          await come('ONCRMDYNAMICITEMUPDATE', '312'),
        ]
        expect(verdicts).toEqual(['own_change', 'own_change', 'run'])
      })

      test('of several writes within a second is one for each that changed something', async () => {
        const { title, arrive } = await startWithDeal()
        for (const text of ['Ship', 'Yacht', 'Yacht', 'Barge']) await title(text)
        expect([await arrive(), await arrive(), await arrive(), await arrive()]).toEqual([
          'own_change',
          'own_change',
          'own_change',
          'run',
        ])
      })

      test('of a write that changed nothing is not awaited', async () => {
        const { title, arrive, clock } = await startWithDeal()
        await title('Ship')
        expect(await arrive()).toBe('own_change')
        clock.now += 5_000
        await title('Ship')
        expect(await arrive()).toBe('run')
      })

      test('of a person within the same second runs', async () => {
        const { title, arrive, portal } = await startWithDeal()
        await title('Ship')
        portal.edit(DEAL, 662, { title: 'Mine' })
        expect([await arrive(), await arrive()]).toEqual(['run', 'run'])
      })

      test('of a person whose edit ours has overwritten: one of the two runs', async () => {
        const { title, arrive, portal } = await startWithDeal()
        portal.edit(DEAL, 662, { title: 'Mine' })
        await title('Ship')
        expect([await arrive(), await arrive()]).toEqual(['own_change', 'run'])
      })

      test('that stands for ours and for a person’s runs', async () => {
        const { title, arrive, portal } = await startWithDeal()
        portal.edit(DEAL, 662, { title: 'Mine' })
        await title('Ship')
        expect(await arrive({}, { coalesced: 2 })).toBe('run')
      })

      test('of a deal that is gone runs', async () => {
        const { title, arrive, portal } = await startWithDeal()
        await title('Ship')
        portal.records.remove(DEAL, 662)
        expect(await arrive()).toBe('run')
      })

      test('of another handler’s write runs: to this one that is news', async () => {
        const { title, arrive } = await startWithDeal()
        await title('Ship')
        expect(await arrive({}, { handler: 'other' })).toBe('run')
        expect(await arrive()).toBe('own_change')
      })

      test('of the same number on another portal runs', async () => {
        const { title, arrive } = await startWithDeal()
        await title('Ship')
        expect(await arrive({ auth: { member_id: 'another' } })).toBe('run')
      })

      test('that came before the write runs, and the one after it is the own change', async () => {
        const { title, eventOf, judge, arrive, clock, client } = await startWithDeal()
        const early = eventOf('deal:662')
        clock.now += 2_000
        await title('Ship')
        const read = () => client.call('crm.item.get', { entityTypeId: DEAL, id: 662 })
        expect(await judge(early, read)).toBe('run')
        expect(await arrive()).toBe('own_change')
      })

      test('that ran before its write was answered leaves nothing to come', async () => {
        const { title, arrive, portal, clock } = await startWithDeal()
        const held = Promise.withResolvers<void>()
        portal.behaviour.held = held.promise
        const writing = title('Ship')
        await expect.poll(() => portal.requests.length).toBe(1)
        expect(await arrive()).toBe('run')
        held.resolve()
        await writing
        clock.now += 5_000
        expect(await arrive()).toBe('run')
      })

      test('that comes after ten minutes runs', async () => {
        const { title, arrive, clock } = await startWithDeal()
        await title('Ship')
        clock.now += 600_000
        expect(await arrive()).toBe('run')
      })

      test('is an own change also in the next process', async () => {
        const { title, arrive, reopen } = await startWithDeal()
        await title('Ship')
        await reopen()
        expect(await arrive()).toBe('own_change')
        await reopen()
        expect(await arrive()).toBe('run')
      })

      test('about nothing runs', async () => {
        const { eventOf, judge } = await start()
        const { object: _, ...event } = eventOf('')
        expect(await judge(event, () => Promise.reject(new Error('not to be read')))).toBe('run')
      })
    })

    describe('the record', () => {
      test('is read only where the event may be an own change', async () => {
        const { title, arrive, portal, clock } = await startWithDeal()
        await arrive()
        expect(portal.called()).toEqual([])
        clock.now += 1
        await title('Ship')
        await arrive()
        await arrive()
        expect(portal.called()).toEqual(['crm.item.update', 'crm.item.get'])
      })

      test('that the portal does not give leaves it in doubt, so the event runs', async () => {
        const { title, arrive, portal } = await startWithDeal()
        await title('Ship')
        portal.behaviour.forbidden.add('crm.item.get')
        expect(await arrive()).toBe('run')
      })

      test('that a dead incoming webhook does not reach is the incoming webhook’s trouble', async () => {
        const { title, arrive, portal } = await startWithDeal()
        await title('Ship')
        portal.behaviour.dead = 'expired_token'
        await expect(arrive()).rejects.toThrow(Bitrix24Error)
        portal.behaviour.dead = undefined
        expect(await arrive()).toBe('own_change')
      })
    })

    test('a method that may have saved what was there is believed only where the record shows its change', async () => {
      const { client, arrive, clock } = await startWithDeal()
      const update = (TITLE: string) => client.call('crm.deal.update', { id: 662, fields: { TITLE } })
      await update('Ship')
      expect(await arrive()).toBe('own_change')
      clock.now += 5_000
      await update('Yacht')
      await update('Barge')
      // One of them at least has changed it, but which?
      expect([await arrive(), await arrive()]).toEqual(['run', 'run'])
    })

    test.runIf(isForgetful)(
      'it is not believed by the next process, which cannot know what else was under way',
      async () => {
        const { client, arrive, reopen } = await startWithDeal()
        await client.call('crm.deal.update', { id: 662, fields: { TITLE: 'Ship' } })
        await reopen()
        expect(await arrive()).toBe('run')
      },
    )

    test.runIf(!isForgetful)('it is believed by the next process, which knows what else was under way', async () => {
      const { client, arrive, reopen } = await startWithDeal()
      await client.call('crm.deal.update', { id: 662, fields: { TITLE: 'Ship' } })
      await reopen()
      expect(await arrive()).toBe('own_change')
    })

    test('while a request for the same deal is not answered, the change may be of that one', async () => {
      const { title, clientOf, arrive, portal } = await startWithDeal()
      const held = Promise.withResolvers<void>()
      portal.behaviour.held = held.promise
      const other = clientOf('other').call('crm.deal.update', { id: 662, fields: { TITLE: 'Ship' } })
      await expect.poll(() => portal.requests.length).toBe(1)
      portal.behaviour.held = undefined
      await title('Yacht')
      expect(await arrive()).toBe('run')
      held.resolve()
      await other
    })

    test('a refused request, and one that was sent again after a limit, leave no doubt', async () => {
      const { title, client, arrive, portal } = await startWithDeal()
      portal.behaviour.failing.set('crm.deal.update', ['insufficient_scope'])
      await expect(client.call('crm.deal.update', { id: 662, fields: {} })).rejects.toThrow(Bitrix24Error)
      portal.behaviour.failing.set('crm.item.update', ['QUERY_LIMIT_EXCEEDED'])
      await title('Ship')
      await title('Yacht')
      expect([await arrive(), await arrive()]).toEqual(['own_change', 'own_change'])
    })

    test('a portal that gives no time has no own changes', async () => {
      const { client, arrive, portal } = await startWithDeal()
      portal.behaviour.raw = { status: 200, headers: { 'content-type': 'application/json' }, body: '{"result":true}' }
      await client.call('crm.deal.update', { id: 662, fields: { TITLE: 'Ship' } })
      portal.behaviour.raw = undefined
      expect(await arrive()).toBe('run')
    })
  })
}
