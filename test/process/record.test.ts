import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { startAlertTarget } from '../support/alert-target.ts'
import { dispatcherOf } from '../support/dispatcher.ts'
import { type Portal, startPortal } from '../support/portal.ts'
import { dealBody, startReceiver, TOKEN, temporaryFolder, until } from '../support/receiver.ts'

const DEAL = 2
const plenty = { rate: 1000, burst: 1000 }

async function startAll(handlers: Record<string, string>, env: Record<string, string> = {}) {
  const portal = await startPortal({ limit: plenty })
  for (let id = 1; id <= 40; id++) portal.records.add(DEAL, { title: `Deal ${id}`, opportunity: 0 }, 7, id)
  const receiver = await startReceiver({
    handlers,
    env: { ...portal.env, B24_HOOK: portal.incomingWebhook(), B24_RATE: '1000', B24_BURST: '1000', ...env },
  })
  await until(
    'the handlers are loaded',
    () => receiver.logged('handler loaded').length === Object.keys(handlers).length,
  )
  return { portal, receiver }
}

const linesOf = (path: string) => (existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(0, -1) : [])
const deal = (portal: Portal, id: number | string) => dealBody(id, { domain: portal.host })

/** Writes down what its record says. */
const teller = (seen: string, options: string) => `import { appendFileSync } from 'node:fs'
import { defineHandler } from 'bitrix24-webhook-receiver'
export default defineHandler('ONCRMDEAL*', async (event, { record, coalesced }) => {
  const [one, two] = await Promise.all([record(), record()])
  if (one !== two) throw new Error('read twice')
  appendFileSync(${JSON.stringify(seen)}, \`\${event.object} \${one === null ? 'gone' : one.title} \${coalesced}\\n\`)
}, ${options})
`

/** Counts the deal's edits up by one, as often as it is run. */
const counter = (options: string) => `import { defineHandler } from 'bitrix24-webhook-receiver'
export default defineHandler('ONCRMDEALUPDATE', async (event, { record, bitrix24 }) => {
  const { id, opportunity } = await record()
  await bitrix24.call('crm.item.update', { entityTypeId: 2, id, fields: { opportunity: opportunity + 1 } })
}, ${options})
`

test('a handler gets the record of its event, and null for one that is gone, which is no failure', async () => {
  const seen = join(temporaryFolder('seen'), 'seen')
  const { portal, receiver } = await startAll({ 'teller.mjs': teller(seen, '{}') })
  await receiver.post(deal(portal, 5))
  await receiver.post(deal(portal, 999))
  await until('both were handled', () => linesOf(seen).length === 2)
  expect(linesOf(seen).sort()).toEqual(['deal:5 Deal 5 1', 'deal:999 gone 1'])
  await until('told', () => receiver.logged('handled').length === 1 && receiver.logged('gone').length === 1)
})

test('a run that fails because its record is gone is never dead; one for a deletion may be, like any other', async () => {
  const handler = `import { defineHandler, FinalError } from 'bitrix24-webhook-receiver'
export default defineHandler('ONCRMDEAL*', async (event, { record }) => {
  if ((await record()) === null) throw new FinalError('there is nothing to do this with')
})`
  const { portal, receiver } = await startAll({ 'strict.mjs': handler })
  await receiver.post(deal(portal, 999))
  await until('it ended', () => receiver.logged('gone').length === 1)
  expect(receiver.output()).not.toContain('this delivery is dead')
  await receiver.post(deal(portal, 999).replace('ONCRMDEALUPDATE', 'ONCRMDEALDELETE'))
  await until('the other ended', () => receiver.logged('failed for good: this delivery is dead').length === 1)
})

test('a thousand updates of 40 deals cost 40 or so runs and reads, and are all in the journal', async () => {
  const seen = join(temporaryFolder('seen'), 'seen')
  const options = "{ coalesce: true, debounce: '2s' }"
  const { portal, receiver } = await startAll({ 'teller.mjs': teller(seen, options) }, { HANDLER_STALL: '10m' })
  // It follows them when all are there, so that they are a burst on any machine.
  const dispatcher = await dispatcherOf(receiver)
  process.kill(dispatcher, 'SIGSTOP')
  const bodies = Array.from({ length: 1000 }, (_, index) => deal(portal, 1 + (index % 40)))
  for (let at = 0; at < bodies.length; at += 50)
    await Promise.all(bodies.slice(at, at + 50).map((body) => receiver.post(body)))
  process.kill(dispatcher, 'SIGCONT')
  const events = () => linesOf(seen).reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
  await until('all were handled', () => events() === 1000)
  expect(await receiver.journal()).toHaveLength(1000)
  expect(linesOf(seen).length).toBeGreaterThanOrEqual(40)
  expect(linesOf(seen).length).toBeLessThan(80)
  const commands = portal.requests.flatMap((request) => request.commands ?? []).length
  expect(commands).toBeLessThan(80)
  // 40 records travel in a few requests.
  expect(portal.requests.length).toBeLessThan(40)
})

test('with ignoreOwnChanges its own write does not run a handler again, and a person’s edit does', async () => {
  const { portal, receiver } = await startAll({ 'counter.mjs': counter('{ ignoreOwnChanges: true }') })
  portal.subscribe({ url: receiver.url, token: TOKEN })
  const opportunity = () => Number(portal.records.get(DEAL, 5)?.fields['opportunity'])
  portal.edit(DEAL, 5, { title: 'Edited' })
  await until('its own change came back', () => receiver.logged('own_change').length === 1)
  expect(opportunity()).toBe(1)
  portal.edit(DEAL, 5, { title: 'Edited again' })
  await until('it ran once more', () => receiver.logged('own_change').length === 2)
  await portal.eventsAnswered()
  expect(opportunity()).toBe(2)
  expect(receiver.logged('handled')).toHaveLength(2)
})

test('without it a handler that is run by its own writes is throttled, not dropped, and an alert says so', async () => {
  const target = await startAlertTarget()
  const { portal, receiver } = await startAll({ 'counter.mjs': counter('{}') }, { ALERT_URL: target.url })
  portal.subscribe({ url: receiver.url, token: TOKEN })
  portal.edit(DEAL, 5, { title: 'Edited' })
  const told = await until('it is held', () => {
    const lines = receiver.logged('throttled: perhaps a loop')
    return lines[0]
  })
  expect(told).toMatchObject({ handler: 'counter', object: 'deal:5' })
  expect(await target.got('handler_throttled')).toMatchObject({
    text: expect.stringMatching(
      /a handler is throttled: counter waits for deal:5 until .*: ONCRMDEALUPDATE \([\da-f-]{36}\)$/,
    ),
    details: { handler: 'counter', event: 'ONCRMDEALUPDATE', object: 'deal:5' },
  })
  await portal.eventsAnswered()
  expect(receiver.logged('handled').length).toBeLessThan(25)
  expect(receiver.output()).not.toContain('this delivery is dead')
})
