import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { timesOption } from '../../src/lib/times.ts'
import { startAlertTarget, urlSecret } from '../support/alert-target.ts'
import { deals, dispatcherOf, isGone, spawnDispatcher } from '../support/dispatcher.ts'
import { canMount, smallDisk } from '../support/faults.ts'
import { startPortal } from '../support/portal.ts'
import {
  dealBody,
  freePort,
  type Receiver,
  type ReceiverOptions,
  startReceiver,
  temporaryFolder,
  until,
} from '../support/receiver.ts'

/** In the alerter a minute passes within three seconds. */
const quickAlerter = { alerterSpeed: 20 }

async function startWithAlerts({ env, ...options }: ReceiverOptions = {}) {
  const target = await startAlertTarget()
  const receiver = await startReceiver({
    ...options,
    env: { ALERT_URL: target.url, ...env },
  })
  return { target, receiver }
}

const failing = {
  [deals]: `import { FinalError } from 'bitrix24-webhook-receiver'
export default () => { throw new FinalError('no such deal') }`,
}

/** Posts enough to be told of. */
async function postWrongTokens(receiver: Receiver): Promise<void> {
  for (let id = 0; id < 10; id++)
    expect((await receiver.post(dealBody(id, { token: `wrong${id}token` }))).status).toBe(403)
}

function discardDead({ dataDir }: Pick<Receiver, 'dataDir'>): void {
  const db = new DatabaseSync(join(dataDir, 'dispatch.db'), { timeout: 300_000 })
  db.exec("DELETE FROM delivery WHERE state = 'dead'")
  db.close()
}

/** Every byte that a receiver left behind. */
function leftBehind({ output, dataDir }: Receiver): string {
  const files = readdirSync(dataDir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
  return [output(), ...files.map(({ parentPath, name }) => readFileSync(join(parentPath, name), 'latin1'))].join('\n')
}

test('a dead delivery is reported with its reason, and when none is left, that it is over', async () => {
  const { target, receiver } = await startWithAlerts({ handlers: failing })
  await receiver.post(dealBody(662))
  const alert = await target.got('dead_delivery')
  const [event] = await receiver.journal()
  expect(alert).toMatchObject({
    text: `${alert.host}: a delivery is dead; the last: ONCRMDEALUPDATE gave up ONCRMDEALUPDATE deal:662 (${event?.id}): FinalError: no such deal`,
    details: { dead: 1, handler: 'ONCRMDEALUPDATE', object: 'deal:662', id: event?.id },
  })
  expect(alert.MESSAGE).toBe(alert.text)
  discardDead(receiver)
  expect(await target.got('dead_delivery', 'over')).toMatchObject({ since: alert.since })
  expect(target.took).toHaveLength(2)
})

test('a reason may be as long as a handler likes: the dispatcher lives, and the alert is short', async () => {
  const { target, receiver } = await startWithAlerts({
    handlers: { [deals]: failing[deals].replace(`'no such deal'`, `'no such deal '.repeat(6 * 1024 ** 2)`) },
  })
  const pid = await dispatcherOf(receiver)
  await receiver.post(dealBody(662))
  const { text } = await target.got('dead_delivery')
  expect(text).toContain('gave up ONCRMDEALUPDATE deal:662')
  expect(text).toContain('FinalError: no such deal no such deal')
  expect(text.length).toBeLessThan(2_000)
  expect(isGone(pid)).toBe(false)
})

test('a handler file that cannot be loaded is reported by name, because the dispatcher ends repeatedly', async () => {
  const { target } = await startWithAlerts({ handlers: { 'stages.mjs': 'export default (' } })
  const { text } = await target.got('dispatcher_restarting')
  expect(text).toMatch(/the dispatcher ended 3 times within 10 minutes, events wait: .*stages\.mjs.*SyntaxError/)
})

test('wrong tokens are reported from the tenth on, and no alert contains one', async () => {
  const { target, receiver } = await startWithAlerts()
  await postWrongTokens(receiver)
  const alert = await target.got('wrong_tokens')
  expect(alert.details).toEqual({ count: 10 })
  expect(JSON.stringify(alert)).not.toMatch(/wrong\dtoken|test0token/)
})

test('a journal that cannot be written is reported with the reason, and when it can again', async () => {
  const { target, receiver } = await startWithAlerts({ args: [timesOption(quickAlerter)], env: { DISPATCHER: 'off' } })
  const limitFiles = (limit: string) =>
    execFileSync('prlimit', ['--pid', String(receiver.child.pid), `--fsize=${limit}:unlimited`])
  limitFiles('100')
  expect((await receiver.post(dealBody(1))).status).toBe(503)
  expect((await target.got('journal_unavailable')).text).toContain('EFBIG')
  limitFiles('unlimited')
  await target.got('journal_unavailable', 'over')
  expect((await receiver.post(dealBody(2))).status).toBe(200)
})

test('a dead incoming webhook is reported with its portal, without its code, and when it works again', async () => {
  const portal = await startPortal({ limit: { rate: 1000, burst: 1000 } })
  const { target, receiver } = await startWithAlerts({
    handlers: { [deals]: "export default (event, { bitrix24 }) => bitrix24.call('profile')" },
    args: [timesOption({ ...quickAlerter, probes: { probeEvery: 300 } })],
    env: { ...portal.env, B24_HOOK: portal.incomingWebhook() },
  })
  portal.behaviour.dead = 'expired_token'
  await receiver.post(dealBody(1, { domain: portal.host }))
  const alert = await target.got('incoming_webhook_refused')
  expect(alert.text).toContain(`the incoming webhook of ${portal.host} is dead: expired_token`)
  portal.behaviour.dead = undefined
  await target.got('incoming_webhook_refused', 'over')
  expect(JSON.stringify(target.took)).not.toContain(portal.code())
})

test('silence counts from the last event of the journal, also of an earlier start, and ends with the next', async () => {
  const first = await startReceiver()
  await first.post(dealBody(1))
  const [last] = await first.journal()
  await first.stop()
  const { target, receiver } = await startWithAlerts({
    dataDir: first.dataDir,
    env: { ALERT_AFTER_SILENCE: '2s' },
  })
  const alert = await target.got('silence')
  expect(alert.details).toEqual({ last_event: Object(last).time })
  await receiver.post(dealBody(2))
  expect(await target.got('silence', 'over')).toMatchObject({ since: alert.since })
})

test.skipIf(!canMount)('a disk that is nearly full is reported while it can still be written (tmpfs)', async () => {
  const { target, receiver } = await startWithAlerts({ dataDir: smallDisk('8M') })
  writeFileSync(join(receiver.dataDir, 'filler'), Buffer.alloc(7.5 * 1024 ** 2))
  expect((await target.got('disk_nearly_full')).text).toMatch(/\d+ MB of 8 MB are free/)
  expect((await receiver.post(dealBody(1))).status).toBe(200)
  writeFileSync(join(receiver.dataDir, 'filler'), '')
  await target.got('disk_nearly_full', 'over')
})

test('a target that does not answer takes nothing from the receiver', async () => {
  const { target, receiver } = await startWithAlerts({ handlers: failing })
  target.answer(() => undefined)
  await receiver.post(dealBody(1))
  await until('it was asked', () => target.requests() > 0)
  const statuses = await Promise.all(Array.from({ length: 200 }, (_, id) => receiver.post(dealBody(id + 10))))
  expect(new Set(statuses.map(({ status }) => status))).toEqual(new Set([200]))
  expect(await receiver.readyz()).toMatchObject({ status: 'ready' })
  expect(await receiver.stop()).toEqual({ code: 0, signal: null })
})

test('after a restart an alert is sent again for what lasts', async () => {
  const { target, receiver } = await startWithAlerts({ handlers: failing })
  await receiver.post(dealBody(1))
  await target.got('dead_delivery')
  await receiver.stop()
  const again = await startWithAlerts({ dataDir: receiver.dataDir, handlers: failing })
  expect(await again.target.got('dead_delivery')).toMatchObject({ details: { dead: 1 } })
})

test('the URL is in nothing that a receiver leaves behind, whatever its target does', async () => {
  const { target, receiver } = await startWithAlerts({
    args: [timesOption(quickAlerter)],
    handlers: failing,
    env: { LOG_LEVEL: 'trace' },
  })
  const elsewhere = await startAlertTarget()
  const reasons = () => new Set(receiver.logged('an alert could not be sent').map((line) => line['reason']))
  target.answer((response) => response.writeHead(307, { location: elsewhere.url }).end())
  await receiver.post(dealBody(1))
  await until('a redirect is told', () => reasons().has(`${target.host} answered with 307`))
  target.answer((response) => response.writeHead(500).end(target.url))
  await until('an error is told', () => reasons().has(`${target.host} answered with 500`))
  target.answer((response) => response.destroy())
  const answered = / answered with /
  await until('a lost connection is told', () => [...reasons()].some((reason) => !answered.test(String(reason))))
  target.answer((response) => response.end())
  await target.got('dead_delivery')
  expect(elsewhere.requests()).toBe(0)
  await until('it is told', () => receiver.logged('alert sent').length === 1)
  await receiver.stop()
  expect(leftBehind(receiver)).not.toContain(urlSecret)
})

test('after a SIGHUP alerts go where ALERT_URL_FILE says by then', async () => {
  const file = join(temporaryFolder('alert'), 'url')
  const next = await startAlertTarget()
  writeFileSync(file, `http://127.0.0.1:${await freePort()}/nobody`)
  const { receiver } = await startWithAlerts({ handlers: failing, env: { ALERT_URL: '', ALERT_URL_FILE: file } })
  await receiver.post(dealBody(1))
  await until('it is tried', () => receiver.logged('an alert could not be sent').length > 0)
  expect(receiver.logged('an alert could not be sent')[0]?.['reason']).toMatch(/^127\.0\.0\.1:\d+: ECONNREFUSED$/)
  writeFileSync(file, next.url)
  receiver.child.kill('SIGHUP')
  await next.got('dead_delivery')
})

test('a dispatcher by itself reports what it knows, its receiver the rest, and nothing is reported twice', async () => {
  const { target, receiver } = await startWithAlerts({ env: { DISPATCHER: 'off' } })
  const dispatcher = await spawnDispatcher({
    dataDir: receiver.dataDir,
    handlers: failing,
    env: { ALERT_URL: target.url, B24_APPLICATION_TOKEN: '' },
  })
  await until('it follows', () => dispatcher.logged('handler loaded').length === 1)
  await receiver.post(dealBody(662))
  await postWrongTokens(receiver)
  await target.got('dead_delivery')
  await target.got('wrong_tokens')
  discardDead(receiver)
  await target.got('dead_delivery', 'over')
  expect(target.took).toHaveLength(3)
  expect(await dispatcher.stop()).toEqual({ code: 0, signal: null })
})
