import { expect, test } from 'vitest'
import { backfill } from '../../../src/backfill/backfill.ts'
import { parseTargets } from '../../../src/backfill/targets.ts'
import { parseIncomingWebhooks } from '../../../src/bitrix24/incoming-webhook.ts'
import type { Event } from '../../../src/events/event.ts'

test('a portal that gives the same page again and again is not journalled without end', async () => {
  const [incomingWebhook] = parseIncomingWebhooks('https://one.bitrix24.com/rest/1/abc/')
  if (incomingWebhook === undefined) throw new Error('no incoming webhook')
  const time = '2026-11-23T08:00:00+00:00'
  const items = Array.from({ length: 50 }, (_, at) => ({ id: at + 1, createdTime: time, updatedTime: time }))
  const journalled: Event[] = []
  let calls = 0
  const backfilled = backfill({
    client: {
      call: <T>() => {
        if (++calls > 5) throw new Error('it asks without end')
        return Promise.resolve({ items } as T)
      },
    },
    incomingWebhook,
    targets: parseTargets('deal'),
    since: undefined,
    journalled: { newest: () => undefined, origin: undefined },
    append: (events) => Promise.resolve(void journalled.push(...events)),
    onPage: () => undefined,
  })
  await expect(backfilled).rejects.toThrow('one.bitrix24.com gives no pages of deal in the order of ids')
  expect(journalled).toHaveLength(50)
})
