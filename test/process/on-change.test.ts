import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { openSqliteDeliveries } from '../../src/queue/sqlite/deliveries.ts'
import { queuePath } from '../../src/queue/sqlite/queue.ts'
import { dispatcherOf, linesOf } from '../support/dispatcher.ts'
import { type Portal, startPortal } from '../support/portal.ts'
import { quickProbes, type Receiver, startReceiver, TOKEN, temporaryFolder, until } from '../support/receiver.ts'

const DEAL = 2
const dead = 'failed for good: this delivery is dead'

/**
 * A handler that marks each run, `deal:5 NEW WON`, in `begun` and then in `done`; while there is a file `hold` it waits
 * in between, and a file `fail` makes it fail once.
 */
const mover = (folder: string, options: string, events = 'ONCRMDEALUPDATE') => `
import { appendFileSync, existsSync, rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { defineHandler } from 'bitrix24-webhook-receiver'
const path = (name) => ${JSON.stringify(folder)} + '/' + name
export default defineHandler(${JSON.stringify(events)}, async (event, { record, previous, coalesced, bitrix24 }) => {
  const deal = await record()
  const line = [event.object, previous ? previous.stageId : 'first', deal ? deal.stageId : 'gone', coalesced].join(' ')
  appendFileSync(path('begun'), line + '\\n')
  while (existsSync(path('hold'))) await sleep(20)
  if (existsSync(path('fail'))) {
    rmSync(path('fail'))
    throw new Error('told to')
  }
  if (existsSync(path('write')))
    await bitrix24.call('crm.item.update', { entityTypeId: 2, id: deal.id, fields: { stageId: 'OWN' } })
  appendFileSync(path('done'), line + '\\n')
}, ${options})
`

async function start(handlersOf: (folder: string) => Record<string, string>, env: Record<string, string> = {}) {
  const folder = temporaryFolder('seen')
  const portal = await startPortal({ limit: { rate: 1000, burst: 1000 } })
  for (const id of [5, 6]) portal.records.add(DEAL, { title: 'Boat', stageId: 'NEW', closedate: null }, 7, id)
  const handlers = handlersOf(folder)
  const receiver = await startReceiver({
    args: quickProbes,
    handlers,
    env: {
      ...portal.env,
      B24_HOOK: portal.incomingWebhook(),
      B24_RATE: '1000',
      B24_BURST: '1000',
      ...env,
    },
  })
  const { length } = Object.keys(handlers)
  await until(
    () => `loaded\n${receiver.output()}`,
    () => receiver.logged('handler loaded').length === length,
  )
  portal.subscribe({ url: receiver.url, token: TOKEN })
  return {
    portal,
    receiver,
    mark: (name: string) => writeFileSync(join(folder, name), ''),
    unmark: (name: string) => rmSync(join(folder, name)),
    begun: () => linesOf(folder, 'begun'),
    done: () => linesOf(folder, 'done'),
    /** So many runs, or none, ended so. */
    ended: (outcome: string, count: number) =>
      until(
        () => `${count} ${outcome}\n${receiver.output()}`,
        () => receiver.logged(outcome).length === count,
      ),
  }
}

function rowsOf({ dataDir }: Receiver): unknown[] {
  const db = new DatabaseSync(queuePath(dataDir), { readOnly: true })
  try {
    return db
      .prepare('SELECT handler, ordering_key ->> 1 AS object, fields, dirty FROM snapshot ORDER BY handler, object')
      .all()
  } finally {
    db.close()
  }
}

const stage = (portal: Portal, stageId: string, id = 5) => portal.edit(DEAL, id, { stageId })

test('a handler runs only when the stage has changed; a failed run and SIGKILL do not move the snapshot', async () => {
  const { portal, receiver, mark, unmark, begun, done, ended } = await start((folder) => ({
    'mover.mjs': mover(folder, "{ onChange: ['stageId'] }"),
  }))
  let title = 0
  const retitle = () => portal.edit(DEAL, 5, { title: `Boat ${++title}` })
  const kill = async () => {
    const loaded = receiver.logged('handler loaded').length
    process.kill(await dispatcherOf(receiver), 'SIGKILL')
    await until('the next one', () => receiver.logged('handler loaded').length > loaded)
  }
  stage(portal, 'WON')
  await ended('handled', 1)
  retitle()
  await ended('unchanged', 1)
  expect(receiver.logged('unchanged')).toMatchObject([{ level: 30, handler: 'mover', object: 'deal:5', attempt: 1 }])

  // Killed in the middle of the run.
  mark('hold')
  stage(portal, 'LOSE')
  await until('it runs', () => begun().length === 2)
  await kill()
  unmark('hold')
  await ended('handled', 2)
  // Killed while nothing runs.
  retitle()
  await ended('unchanged', 2)
  await kill()
  retitle()
  await ended('unchanged', 3)

  // The failed run is followed by another, although the stage is what it was before.
  for (const name of ['hold', 'fail']) mark(name)
  stage(portal, 'NEW')
  await until('it runs', () => begun().length === 4)
  stage(portal, 'LOSE')
  unmark('hold')
  // The one that was killed counts too.
  await ended('failed, will be tried again', 2)
  await ended('unchanged', 4)
  expect(begun().map((line) => line.slice(7, -2))).toEqual([
    'first WON',
    'WON LOSE',
    'WON LOSE',
    'LOSE NEW',
    'LOSE LOSE',
  ])
  expect(done().map((line) => line.slice(7, -2))).toEqual(['first WON', 'WON LOSE', 'LOSE LOSE'])
  // The record was read once in each run, whoever wanted it.
  expect(portal.called().filter((method) => method === 'crm.item.get')).toHaveLength(5 + 4)
})

test('with coalesce a burst that ends where it began is no change, and one that does not is one', async () => {
  const { portal, receiver, mark, unmark, begun, done, ended } = await start((folder) => ({
    'mover.mjs': mover(folder, "{ onChange: ['stageId'], coalesce: true }"),
  }))
  const queue = openSqliteDeliveries({ path: queuePath(receiver.dataDir), mode: 'read' })
  /** The first is run for, and the others wait behind it. */
  const burst = async (first: string, ...others: string[]) => {
    mark('hold')
    const runs = begun().length
    stage(portal, first)
    await until('one runs', () => begun().length > runs)
    for (const to of others) stage(portal, to)
    // Answered is not yet followed.
    await until('they wait', async () => (await queue.state()).blocked === others.length)
    unmark('hold')
  }
  await burst('WON', 'LOSE', 'NEW', 'WON')
  await ended('unchanged', 1)
  await burst('LOSE', 'WON', 'LOSE', 'NEW')
  await ended('handled', 3)
  expect(receiver.logged('unchanged')).toMatchObject([{ coalesced: 3 }])
  expect(done()).toEqual(['deal:5 first WON 1', 'deal:5 WON LOSE 1', 'deal:5 LOSE NEW 3'])
  await queue.close()
})

test('what is kept goes with the deal, whether a handler hears of the deletion or not', async () => {
  const { portal, receiver, done, ended } = await start((folder) => ({
    'a.mjs': mover(folder, "{ onChange: ['stageId'] }", 'ONCRMDEALUPDATE'),
    'b.mjs': mover(folder, "{ onChange: ['stageId', 'closedate'] }", 'ONCRMDEAL*'),
  }))
  stage(portal, 'WON', 5)
  stage(portal, 'WON', 6)
  await ended('handled', 4)
  const kept = rowsOf(receiver)
  expect(kept).toEqual([
    { handler: 'a', object: 'deal:5', fields: '{"stageId":"\\"WON\\""}', dirty: 0 },
    { handler: 'a', object: 'deal:6', fields: '{"stageId":"\\"WON\\""}', dirty: 0 },
    { handler: 'b', object: 'deal:5', fields: '{"stageId":"\\"WON\\"","closedate":"null"}', dirty: 0 },
    { handler: 'b', object: 'deal:6', fields: '{"stageId":"\\"WON\\"","closedate":"null"}', dirty: 0 },
  ])
  portal.records.remove(DEAL, 5)
  await ended('handled', 5)
  expect(done().at(-1)).toBe('deal:5 WON gone 1')
  expect(rowsOf(receiver)).toEqual([kept[1], kept[3]])
})

test('nothing is kept of a deal that was deleted while a handler ran for it, as by the handler itself', async () => {
  const { portal, receiver, mark, unmark, begun, ended } = await start((folder) => ({
    'a.mjs': mover(folder, "{ onChange: ['stageId'] }"),
    'witness.mjs': `import { defineHandler } from 'bitrix24-webhook-receiver'
export default defineHandler('ONCRMDEALDELETE', () => undefined)`,
  }))
  stage(portal, 'WON')
  stage(portal, 'WON', 6)
  await ended('handled', 2)
  mark('hold')
  stage(portal, 'LOSE')
  await until('it runs', () => begun().length === 3)
  portal.records.remove(DEAL, 5)
  await ended('handled', 3)
  unmark('hold')
  await ended('handled', 4)
  expect(rowsOf(receiver)).toMatchObject([{ object: 'deal:6' }])
})

test('an update of a deal that is gone runs nothing, and a forgotten handler sees all for the first time', async () => {
  const { portal, receiver, begun, ended } = await start((folder) => ({
    'mover.mjs': mover(folder, "{ onChange: ['stageId'] }"),
  }))
  stage(portal, 'WON')
  stage(portal, 'WON', 6)
  await ended('handled', 2)
  portal.behaviour.held = new Promise(() => undefined)
  portal.edit(DEAL, 5, { title: 'Ship' })
  await portal.eventsAnswered()
  portal.records.remove(DEAL, 5)
  await portal.eventsAnswered()
  process.kill(await dispatcherOf(receiver), 'SIGKILL')
  portal.behaviour.held = undefined
  await ended('gone', 1)
  expect(begun()).toHaveLength(2)
  expect(rowsOf(receiver)).toMatchObject([{ object: 'deal:6' }])
  const tool = openSqliteDeliveries({ path: queuePath(receiver.dataDir), mode: 'write' })
  await tool.forget('mover')
  await tool.close()
  expect(rowsOf(receiver)).toEqual([])
})

test('a replayed event runs only if its change was not dealt with; one that was given up always runs', async () => {
  const { portal, receiver, mark, done, ended } = await start((folder) => ({
    'mover.mjs': mover(folder, "{ onChange: ['stageId'], retryFor: '0s' }"),
  }))
  const tool = openSqliteDeliveries({ path: queuePath(receiver.dataDir), mode: 'write' })
  stage(portal, 'WON')
  await ended('handled', 1)
  const [event] = await receiver.journal()
  const replay = async () => {
    if (event === undefined) throw new Error('it is not in the journal')
    const whole = { level: 30, time: new Date().toISOString(), msg: '', ...event }
    await tool.replay([{ handler: 'mover', event: whole, segment: 1, order: 'object', debounce: 0 }])
  }
  await replay()
  await ended('unchanged', 1)
  mark('fail')
  stage(portal, 'LOSE')
  await ended(dead, 1)
  await replay()
  await ended('handled', 2)
  await tool.retry(await tool.dead({}))
  await ended('unchanged', 2)
  await tool.close()
  expect(done()).toEqual(['deal:5 first WON 1', 'deal:5 WON LOSE 1'])
})

test('beside ignoreOwnChanges its own change does not run it, and shows as previous in the next edit', async () => {
  const { portal, receiver, mark, unmark, done, ended } = await start((folder) => ({
    'mover.mjs': mover(folder, "{ onChange: ['stageId'], ignoreOwnChanges: true }"),
  }))
  mark('write')
  stage(portal, 'WON')
  await ended('own_change', 1)
  unmark('write')
  portal.edit(DEAL, 5, { title: 'Ship' })
  await ended('handled', 2)
  portal.edit(DEAL, 5, { title: 'Boat' })
  await ended('unchanged', 1)
  expect(done()).toEqual(['deal:5 first WON 1', 'deal:5 WON OWN 1'])
  expect(receiver.logged('handled')).toHaveLength(2)
})

test('beside ignoreOwnChanges: who takes back what the handler has written to a field makes it run', async () => {
  const { portal, mark, unmark, done, ended } = await start((folder) => ({
    'mover.mjs': mover(folder, "{ onChange: ['stageId'], ignoreOwnChanges: true }"),
  }))
  mark('write')
  stage(portal, 'WON')
  await ended('own_change', 1)
  unmark('write')
  stage(portal, 'WON')
  await ended('handled', 2)
  portal.edit(DEAL, 5, { title: 'Ship' })
  await ended('unchanged', 1)
  expect(done()).toEqual(['deal:5 first WON 1', 'deal:5 WON WON 1'])
})

test('a field that the deal lacks ends a delivery at its first run; without B24_HOOK it waits', async () => {
  const { portal, receiver, begun, ended } = await start((folder) => ({
    'mover.mjs': mover(folder, "{ onChange: ['stageid', 'title'] }"),
  }))
  stage(portal, 'WON')
  await ended(dead, 1)
  expect(receiver.logged(dead)).toMatchObject([
    {
      attempt: 1,
      err: { message: 'onChange names "stageid", and deal:5 has no such field; near it: stageId' },
    },
  ])
  const without = await start((folder) => ({ 'mover.mjs': mover(folder, "{ onChange: ['stageId'] }", 'ONCRMDEAL*') }), {
    B24_HOOK: '',
  })
  stage(without.portal, 'WON')
  const postponed = 'postponed until the incoming webhook works'
  await until('it waits', () => without.receiver.logged(postponed).length === 1)
  expect(without.receiver.logged(postponed)).toMatchObject([{ attempt: 1, reason: 'B24_HOOK is not set' }])
  expect([...begun(), ...without.begun()]).toEqual([])
})

test('while the incoming webhook is down it waits, uncharged, and the change is found afterwards', async () => {
  const { portal, receiver, done, ended } = await start((folder) => ({
    'mover.mjs': mover(folder, "{ onChange: ['stageId'], retryFor: '0s' }"),
  }))
  portal.behaviour.dead = 'expired_token'
  stage(portal, 'WON')
  await until('postponed', () => receiver.logged('postponed until the incoming webhook works').length > 0)
  portal.edit(DEAL, 5, { title: 'Ship' })
  portal.behaviour.dead = undefined
  await ended('unchanged', 1)
  expect(done()).toEqual(['deal:5 first WON 1'])
  expect(receiver.logged('handled')).toMatchObject([{ attempt: 1 }])
  expect(receiver.output()).not.toContain(dead)
})
