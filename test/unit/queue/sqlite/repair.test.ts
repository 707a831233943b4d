import { copyFileSync, existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { pino } from 'pino'
import { describe, expect, test } from 'vitest'
import { readJournal } from '../../../../src/journal/follow.ts'
import { oldest } from '../../../../src/journal/position.ts'
import { checkQueueFile } from '../../../../src/queue/sqlite/integrity.ts'
import { openSqliteQueue, queuePath } from '../../../../src/queue/sqlite/queue.ts'
import { planRebuild } from '../../../../src/queue/sqlite/rebuild.ts'
import { prepareRepair } from '../../../../src/queue/sqlite/repair.ts'
import { writeJournal } from '../../../support/journal.ts'
import { createRandom } from '../../../support/random.ts'
import { eventOf, known, want } from '../queue-contract.ts'

const log = pino({ level: 'silent' })
const count = 240

/** A journal of `count` events, followed by two handlers; a third of what is pending for them is done, some is dead or waits. */
async function start() {
  const dataDir = await writeJournal(Array.from({ length: count }, (_, at) => ({ object: `deal:${at % 50}` })))
  const path = queuePath(dataDir)
  const queue = openSqliteQueue({ path })
  await queue.registerHandlers([known('a'), known('b', { order: 'none' })])
  for await (const { entries, position } of readJournal({ dataDir, from: oldest, log }))
    await queue.add(
      entries.flatMap(({ event, at: { segment } }) => [
        { handler: 'a', event, segment, order: 'object' as const, debounce: 0 },
        { handler: 'b', event, segment, order: 'none' as const, debounce: 0 },
      ]),
      position,
    )
  for (let ended = 0; ended < count / 2; ) {
    for (const delivery of await queue.claim([want('a'), want('b')], 40)) {
      ended++
      if (ended % 20 === 1) await queue.dead(delivery, 'Error: no')
      else if (ended % 20 === 2) await queue.retry(delivery, { due: Date.now() + 3_600_000, error: 'Error: wait' })
      else await queue.done(delivery)
    }
  }
  await queue.prune(0)
  await queue.close()
  return { dataDir, path, before: read(path) }
}

const read = (path: string) => {
  const db = new DatabaseSync(path)
  try {
    const rows = db.prepare('SELECT event_id, handler, state FROM delivery ORDER BY key').all()
    return new Map(
      rows.map(({ event_id, handler, state }) => [`${String(event_id)} ${String(handler)}`, String(state)]),
    )
  } finally {
    db.close()
  }
}

async function isDamaged(path: string): Promise<boolean> {
  return checkQueueFile(path).then(
    () => false,
    () => true,
  )
}

/** What SQLite promises of an ordering key: one at its head at most, the rest blocked, and never only blocked ones. */
function orderingKeysAreRight(path: string): boolean {
  const db = new DatabaseSync(path)
  try {
    const wrong = db
      .prepare(`SELECT handler, ordering_key, sum(state <> 'blocked') AS heads FROM delivery
        WHERE ordering_key IS NOT NULL AND state IN ('blocked', 'ready', 'running', 'waiting') GROUP BY handler, ordering_key HAVING heads <> 1`)
      .all()
    return wrong.length === 0
  } finally {
    db.close()
  }
}

/** Nothing that was pending is done now or gone without a word, and what is done was done. */
function expectNothingSilent(
  before: ReadonlyMap<string, string>,
  path: string,
  gone: readonly { event: string; handler: string }[],
) {
  const after = read(path)
  const named = new Set(gone.map(({ event, handler }) => `${event} ${handler}`))
  const silent = [...before].filter(([id]) => !after.has(id) && !named.has(id))
  const guessed = [...after].filter(([id, state]) => state === 'done' && before.get(id) !== 'done')
  expect({ silent, guessed }).toEqual({ silent: [], guessed: [] })
  expect(orderingKeysAreRight(path)).toBe(true)
}

const rounds = Number(process.env['ROUNDS'] ?? 10) * 3

describe('repair', () => {
  test.for(['a byte', 'a page', 'half a page', 'the end'] as const)(
    'after damage of %s nothing that was pending is done or gone without a word',
    async (kind) => {
      const random = createRandom()
      const { dataDir, path, before } = await start()
      const good = `${path}.good`
      copyFileSync(path, good)
      let repaired = 0
      for (let round = 0; round < rounds; round++) {
        const bytes = readFileSync(good)
        const at = random(bytes.length)
        const page = Math.floor(at / 4096) * 4096
        if (kind === 'a byte') bytes[at] = random(256)
        if (kind === 'a page') bytes.fill(0, page, page + 4096)
        if (kind === 'half a page') bytes.fill(random(256), page + 2048, page + 4096)
        writeFileSync(path, kind === 'the end' ? bytes.subarray(0, Math.max(4096, at)) : bytes)
        // Only what an event itself says may differ then, see stored.ts.
        if (!(await isDamaged(path))) continue
        const { plan, write } = await prepareRepair({ path, dataDir, log })
        const kept = write()
        expect(existsSync(kept)).toBe(true)
        if (plan === undefined) {
          if (existsSync(path)) throw new Error('a file of which nothing is readable was left in its place')
          continue
        }
        repaired++
        expect(await isDamaged(path), `round ${round}`).toBe(false)
        expectNothingSilent(before, path, plan.gone)
      }
      process.stdout.write(`${kind}: ${repaired} of ${rounds} files repaired\n`)
    },
  )

  test.for([
    ['that has a row of its own', true],
    ['that has no row', false],
  ] as const)('a row whose index names another delivery, %s, is not gone without a word', async ([, hasRow]) => {
    const row = (key: number, id: string) => ({
      ...{
        key,
        event_id: id,
        handler: 'a',
        run: 1,
        ordering_key: null,
        name: 'E',
        event: null,
        segment: 1,
        state: 'done',
      },
      ...{ attempts: 1, created_at: 1 },
    })
    const events = ['one', 'two'].map((id, order) => ({
      ...{ order, at: { segment: 1, offset: order } },
      event: { ...eventOf(order, 'deal:1'), id, event: 'E' },
    }))
    const plan = await planRebuild(
      {
        ...{ lost: [], position: { segment: 1, offset: 2 }, failures: [], snapshots: [] },
        isWhole: true,
        handlers: [{ name: 'a', events: '["E"]' }],
        deliveries: new Map([[1, row(1, 'one')], ...(hasRow ? ([[2, row(2, 'two')]] as const) : [])]),
        named: new Map(
          [1, 2].filter((key) => hasRow || key === 1).map((key) => [key, { event: 'two', handler: 'a', run: 1 }]),
        ),
      },
      {
        places: new Map(events.map(({ event, at, order }) => [event.id, { order, at, name: 'E' }])),
        read: (orders) =>
          Promise.resolve(new Map(events.filter(({ order }) => orders.has(order)).map((one) => [one.order, one]))),
        isPlace: () => Promise.resolve(true),
      },
    )
    const found = plan.rows.map(({ values }) => `${String(values['event_id'])} ${String(values['state'])}`)
    // A delivery that is made again keeps the order of its object.
    expect(found.toSorted()).toEqual(hasRow ? ['one done', 'two done'] : ['one ready', 'two blocked'])
    expect(plan.again.map(({ event }) => event).toSorted()).toEqual(hasRow ? [] : ['one', 'two'])
  })

  test('a header that is damaged costs nothing', async () => {
    const { dataDir, path, before } = await start()
    const bytes = readFileSync(path)
    bytes.fill(0xff, 0, 90)
    writeFileSync(path, bytes)
    const { plan, write } = await prepareRepair({ path, dataDir, log })
    write()
    expect(plan).toMatchObject({ again: [], gone: [], isPositionRead: true })
    expect(read(path)).toEqual(before)
  })

  test('of a file that only begins nothing is guessed: it is moved away, and DISPATCH_FROM is needed', async () => {
    const { dataDir, path } = await start()
    truncateSync(path, 50)
    const { plan, write } = await prepareRepair({ path, dataDir, log })
    expect(plan).toBeUndefined()
    write()
    expect(
      readdirSync(dataDir)
        .filter((name) => name.startsWith('dispatch.db'))
        .join(),
    ).toMatch(/^dispatch\.db\.damaged-[\dTZ-]+$/)
  })

  test('a position that is in the middle of a line is not taken', async () => {
    const { dataDir, path } = await start()
    const db = new DatabaseSync(path)
    db.exec('UPDATE position SET offset = offset - 7')
    db.close()
    const { plan } = await prepareRepair({ path, dataDir, log })
    expect(plan).toMatchObject({ isPositionRead: false, again: [], gone: [] })
    expect(plan?.position?.offset).toBeGreaterThan(0)
  })

  test('the damaged file and its -wal stay beside the new one, byte for byte', async () => {
    const { dataDir, path } = await start()
    const bytes = readFileSync(path)
    bytes.fill(0, 8192, 12288)
    writeFileSync(path, bytes)
    writeFileSync(`${path}-wal`, 'no wal')
    const { write } = await prepareRepair({ path, dataDir, log })
    const kept = write()
    expect(readFileSync(kept).equals(bytes)).toBe(true)
    expect(readFileSync(`${kept}-wal`, 'utf8')).toBe('no wal')
    expect(readdirSync(join(dataDir)).filter((name) => /salvage|new/.test(name))).toEqual([])
  })
})
