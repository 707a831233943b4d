import { mkdirSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pino } from 'pino'
import { expect, test } from 'vitest'
import { readJournalled } from '../../../src/backfill/journalled.ts'
import { parseIncomingWebhooks } from '../../../src/bitrix24/incoming-webhook.ts'
import { journalDir } from '../../../src/journal/segments.ts'
import { temporaryFolder } from '../../support/receiver.ts'

const [incomingWebhook] = parseIncomingWebhooks('https://one.bitrix24.com/rest/1/abc/')
const kinds = new Set(['deal', 'task', 'item'])
const log = pino({ level: 'silent' })

interface Line {
  readonly event?: string
  readonly object?: string
  readonly ts?: string
  readonly webhook?: string
  readonly domain?: string
}

/** Each segment was written to until so many hours ago. */
function journal(...segments: { readonly hours: number; readonly lines: readonly Line[] }[]): string {
  const dataDir = temporaryFolder('journalled')
  mkdirSync(journalDir(dataDir))
  for (const [at, { hours, lines }] of segments.entries()) {
    const path = join(journalDir(dataDir), `${String(at + 1).padStart(12, '0')}-2026-11-23.ndjson`)
    const texts = lines.map(({ event = 'ONCRMDEALUPDATE', domain = 'one.bitrix24.com', ...line }, number) =>
      JSON.stringify({
        level: 30,
        time: '2026-11-23T08:00:00.000Z',
        id: `${at}-${number}`,
        event,
        ...line,
        auth: { domain, member_id: domain === 'one.bitrix24.com' ? 'm1' : 'm2' },
        remote: '::1',
        msg: '',
      }),
    )
    writeFileSync(path, texts.map((text) => `${text}\n`).join(''))
    const then = Date.now() / 1000 - hours * 3600
    utimesSync(path, then, then)
  }
  return dataDir
}

function read(dataDir: string, hours?: number) {
  if (incomingWebhook === undefined) throw new Error('no incoming webhook')
  const since = hours === undefined ? undefined : new Date(Date.now() - hours * 3_600_000)
  return readJournalled({ dataDir, incomingWebhook, kinds, since, log })
}

test('a portal that was silent for longer than the backfill covers is known, so its objects keep order', async () => {
  const dataDir = journal(
    { hours: 60, lines: [{ domain: 'two.bitrix24.com' }, { webhook: 'sales', object: 'deal:1', ts: '5' }] },
    { hours: 0, lines: [{ domain: 'two.bitrix24.com' }] },
  )
  const { origin } = await read(dataDir, 1)
  expect(origin).toEqual({ webhook: 'sales', auth: { domain: 'one.bitrix24.com', member_id: 'm1' } })
})

test('a record is known by the events of its changes, not by a robot, a comment or a move about it', async () => {
  const dataDir = journal({
    hours: 0,
    lines: [
      { event: 'ONCRMDEALADD', object: 'deal:1', ts: '1736405800' },
      { event: 'ONTASKUPDATE', object: 'task:2', ts: '1736405801', webhook: 'sales' },
      { event: 'ONTASKCOMMENTADD', object: 'task:2', ts: '1736405900' },
      { event: 'ONCRMDEALMOVETOCATEGORY', object: 'deal:1', ts: '1736405900' },
      { event: 'ONTASKCOMMENTUPDATE', object: 'task:3', ts: '1736405900', webhook: 'sales' },
      { event: 'ROBOT', object: 'deal:1' },
    ],
  })
  const { newest, origin } = await read(dataDir)
  expect(['deal:1', 'task:2', 'task:3'].map(newest)).toEqual([1736405800, 1736405801, undefined])
  // A robot's post has no token.
  expect(origin?.webhook).toBe('sales')
})

test('of an item what comes under the name of its type counts, too', async () => {
  const dataDir = journal({
    hours: 0,
    lines: [{ event: 'ONCRMDYNAMICITEMUPDATE_1032', object: 'item:1032:9', ts: '1736405800' }],
  })
  expect((await read(dataDir)).newest('item:1032:9')).toBe(1736405800)
})

test('what has no time of the portal counts from when it was journalled', async () => {
  const dataDir = journal({ hours: 0, lines: [{ object: 'deal:1' }, { object: 'deal:2', ts: 'x' }] })
  const { newest } = await read(dataDir)
  const journalled = Date.parse('2026-11-23T08:00:00.000Z') / 1000
  expect(['deal:1', 'deal:2'].map(newest)).toEqual([journalled, journalled])
})
