import { rmSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { describe, expect, test } from 'vitest'
import { listSegments } from '../../../src/journal/segments.ts'
import { openSqliteDeliveries } from '../../../src/queue/sqlite/deliveries.ts'
import { openSqliteQueue, queuePath } from '../../../src/queue/sqlite/queue.ts'
import { linesOf, runCli } from '../../support/cli.ts'
import { idOf, writeJournal } from '../../support/journal.ts'
import { dealBody, startReceiver, until } from '../../support/receiver.ts'
import { deliveryOf, eventOf, want } from '../../unit/queue/queue-contract.ts'

const show = (dataDir: string, ...args: string[]) => runCli({ env: { DATA_DIR: dataDir } }, 'show', ...args)

/** What stands behind the event: a block for each delivery. */
const deliveriesIn = (stdout: string) => stdout.split('\n}\n\n').at(-1)?.trimEnd().split('\n\n') ?? []

describe('show', () => {
  test('prints an event and what became of it, beside a receiver that runs', async () => {
    const receiver = await startReceiver({
      handlers: {
        'ONCRMDEALUPDATE.mjs': `import { FinalError, RetryAfter } from 'bitrix24-webhook-receiver'
export default (_, { attempt }) => {
  if (attempt === 1) throw new RetryAfter('1ms')
  throw new FinalError('no such deal\\nat all \\u001b[2J')
}`,
      },
    })
    await receiver.post(dealBody(662))
    await until('it is dead', () => receiver.logged('failed for good: this delivery is dead').length === 1)
    const [event] = await receiver.journal()
    const { code, stdout, stderr } = await show(receiver.dataDir, event?.id ?? '')
    expect([code, stderr]).toEqual([0, ''])
    expect(stdout.startsWith(`${JSON.stringify(event, undefined, 2)}\n\n`)).toBe(true)
    const time = String.raw`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`
    expect(deliveriesIn(stdout)).toEqual([
      expect.stringMatching(
        new RegExp(
          [
            '^ONCRMDEALUPDATE: dead after 2 attempts',
            `  created    ${time}`,
            `  first run  ${time}`,
            `  ended      ${time}`,
            `  attempt 1  ${time}  RetryAfter: retry after 1ms`,
            `  attempt 2  ${time}  FinalError: no such deal`,
            String.raw`      at all \\u001b\[2J$`,
          ].join('\n'),
        ),
      ),
    ])
    const json = await show(receiver.dataDir, event?.id ?? '', '--json')
    const iso = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
    expect(JSON.parse(json.stdout)).toEqual({
      event,
      deliveries: [
        {
          handler: 'ONCRMDEALUPDATE',
          id: event?.id,
          event: 'ONCRMDEALUPDATE',
          object: event?.object,
          run: 1,
          state: 'dead',
          postponed: false,
          attempts: 2,
          createdAt: iso,
          firstRunAt: iso,
          endedAt: iso,
          error: 'FinalError: no such deal\nat all \u001b[2J',
          failures: [
            { attempt: 1, at: iso, error: 'RetryAfter: retry after 1ms' },
            { attempt: 2, at: iso, error: 'FinalError: no such deal\nat all \u001b[2J' },
          ],
        },
      ],
    })
    expect(linesOf(json.stdout)).toHaveLength(1)
  })

  /** Events 1 to 4 of one object in the journal, and a queue on which a test does what it likes. */
  async function start() {
    const dataDir = await writeJournal([{}, {}], [{}, {}])
    const clock = { now: Date.parse('2026-11-23T08:00:01.000Z') }
    const queue = openSqliteQueue({ path: queuePath(dataDir), now: () => clock.now })
    const event = (number: number) => ({ ...eventOf(0, 'deal:662'), id: idOf(number) })
    const states = async (number: number) => {
      await queue.close()
      const { stdout, code } = await show(dataDir, idOf(number))
      expect(code).toBe(0)
      return deliveriesIn(stdout).map((text) => text.split('\n'))
    }
    return { clock, dataDir, queue, event, states }
  }

  test('says which event was run for one that was coalesced, also over several', async () => {
    const { clock, queue, event, states } = await start()
    const merging = [want('h', { coalesce: true })]
    await queue.add(
      [1, 2].map((number) => deliveryOf(event(number))),
      { segment: 2, offset: 0 },
    )
    const [second] = await queue.claim(merging, 1)
    if (second) await queue.retry(second, { due: 0, error: 'not now' })
    await queue.add([deliveryOf(event(3))], { segment: 2, offset: 0 })
    clock.now += 60_000
    await queue.claim(merging, 1)
    expect((await states(1))[0]?.[0]).toBe(`h: coalesced: event ${idOf(3)} was run for it (running)`)
  })

  test('says what one that waits waits for', async () => {
    const { dataDir, queue, event, states } = await start()
    const handlers = ['retried', 'postponed', 'quiet', 'running', 'ready']
    await queue.add(
      [
        ...handlers.map((handler) => deliveryOf(event(1), { handler, debounce: handler === 'quiet' ? 30_000 : 0 })),
        deliveryOf(event(2), { handler: 'ready' }),
      ],
      { segment: 1, offset: 1 },
    )
    const claimed = await queue.claim(
      handlers.slice(0, 4).map((handler) => want(handler)),
      10,
    )
    for (const delivery of claimed) {
      const due = Date.parse('2026-11-23T09:00:00Z')
      if (delivery.handler === 'retried') await queue.retry(delivery, { due, error: 'Error: not now' })
      if (delivery.handler === 'postponed')
        await queue.postpone(delivery, { due, error: 'the incoming webhook is dead' })
    }
    const created = '  created    2026-11-23 08:00:01'
    const ran = '  first run  2026-11-23 08:00:01'
    expect(await states(1)).toEqual([
      [
        'retried: waiting for its next attempt, after 1 attempt',
        created,
        ran,
        '  due        2026-11-23 09:00:00',
        '  attempt 1  2026-11-23 08:00:01  Error: not now',
      ],
      [
        'postponed: waiting for what its handler needs',
        created,
        '  due        2026-11-23 09:00:00',
        '  because    the incoming webhook is dead',
      ],
      ['quiet: waiting until its object is quiet', created, '  due        2026-11-23 08:00:31'],
      ['running: running, attempt 1', created, ran],
      ['ready: ready: it runs as soon as there is room', created],
    ])
    expect(deliveriesIn((await show(dataDir, idOf(2))).stdout)[0]).toMatch(
      /^ready: blocked: another delivery of its object comes first\n/,
    )
  })

  test('shows each run of one that was dead and was retried', async () => {
    const { dataDir, queue, event, states } = await start()
    await queue.add([deliveryOf(event(1))], { segment: 1, offset: 1 })
    for (const delivery of await queue.claim([want()], 1)) await queue.dead(delivery, 'Error: no')
    const tool = openSqliteDeliveries({ path: queuePath(dataDir), mode: 'write' })
    await tool.retry(await tool.dead({}))
    await tool.close()
    for (const delivery of await queue.claim([want()], 1)) await queue.done(delivery)
    expect((await states(1)).map(([first]) => first)).toEqual([
      'h: dead after 1 attempt, and retried: run 2 (done)',
      'h, run 2: done after 1 attempt',
    ])
  })

  test('distinguishes an event that no handler took from one that was not followed yet', async () => {
    const { queue, states } = await start()
    const size = 200
    await queue.add([], { segment: 1, offset: size })
    expect(await states(1)).toEqual([['No deliveries: no handler was there for it when it was followed.']])
    expect(await states(3)).toEqual([['No deliveries yet: the journal was not followed so far.']])
  })

  test('shows an event that the retention removed, while a delivery of it is dead', async () => {
    const { dataDir, queue, event } = await start()
    await queue.add([deliveryOf(event(1))], { segment: 2, offset: 0 })
    for (const delivery of await queue.claim([want()], 1)) await queue.dead(delivery, 'Error: no')
    const [oldest] = await listSegments(dataDir)
    rmSync(oldest?.path ?? '')
    const { code, stdout, stderr } = await show(dataDir, idOf(1), '--json')
    expect([code, stderr]).toEqual([0, 'it is no longer in the journal: a delivery has kept it\n'])
    expect(JSON.parse(stdout)).toMatchObject({ event: event(1), deliveries: [{ state: 'dead' }] })
  })

  test('shows the event alone where dispatch.db is missing or of another version, and says so', async () => {
    const { dataDir, queue } = await start()
    await queue.close()
    const expectAlone = async (why: string) => {
      const { code, stdout, stderr } = await show(dataDir, idOf(1), '--json')
      expect([code, JSON.parse(stdout)]).toEqual([0, { event: expect.objectContaining({ id: idOf(1) }) }])
      expect(stderr).toBe(`the deliveries cannot be read: ${queuePath(dataDir)} ${why}\n`)
    }
    const db = new DatabaseSync(queuePath(dataDir))
    db.exec('PRAGMA user_version = 99')
    db.close()
    await expectAlone('was written by another version of the receiver: use its tools, or start this one')
    rmSync(queuePath(dataDir))
    await expectAlone('is not there: no handler has run yet')
  })
})

describe('an id', () => {
  test('may be its beginning where only one event has it, in upper case too', async () => {
    const dataDir = await writeJournal([{}], [{ at: '2026-11-23T12:00:00.000Z' }])
    const wanted = idOf(2, '2026-11-23T12:00:00.000Z')
    for (const word of [wanted, wanted.toUpperCase(), wanted.slice(0, 8)])
      expect(await show(dataDir, word)).toMatchObject({ code: 0, stdout: expect.stringContaining(`"id": "${wanted}"`) })
  })

  test('that several events have begins a list of them', async () => {
    const dataDir = await writeJournal(Array.from({ length: 25 }, () => ({})))
    const { code, stdout, stderr } = await show(dataDir, idOf(1).slice(0, 13))
    expect(code).toBe(1)
    expect(stderr).toBe(`25 events begin with ${idOf(1).slice(0, 13)}; these are the first 20: give more of the id\n`)
    expect(linesOf(stdout)).toHaveLength(21)
    expect(linesOf(stdout)[1]).toBe(`2026-11-23 08:00:00  ${idOf(1)}  ONCRMDEALUPDATE  deal:662`)
  })

  test('is found also where the clock was put back after it', async () => {
    const dataDir = await writeJournal([{ at: '2027-01-01T00:00:00.000Z' }], [{}])
    expect(await show(dataDir, idOf(1, '2027-01-01T00:00:00.000Z'))).toMatchObject({ code: 0 })
  })

  test('that an event has in its data is not its own', async () => {
    const dataDir = await writeJournal([{ data: { id: idOf(99) } }])
    expect(await show(dataDir, idOf(99))).toMatchObject({ code: 1 })
  })

  test('that no event has exits with 1 and one line', async () => {
    const dataDir = await writeJournal([{}])
    await openSqliteQueue({ path: queuePath(dataDir) }).close()
    expect(await show(dataDir, idOf(99))).toEqual({
      code: 1,
      stdout: '',
      stderr: 'b24-receiver show: no event has this id; RETENTION_DAYS may have removed it\n',
    })
  })

  test.each(['', '019aaf6', 'deal:662!', `${idOf(1)}0`])('that is none, "%s", exits with 64', async (word) => {
    const dataDir = await writeJournal([{}])
    expect(await show(dataDir, word)).toMatchObject({
      code: 64,
      stdout: '',
      stderr: 'b24-receiver show: show takes the id of an event, or how it begins, 8 characters or more\n',
    })
  })
})
