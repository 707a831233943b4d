import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { startAlertTarget } from '../support/alert-target.ts'
import { type Portal, startPortal } from '../support/portal.ts'
import { quickProbes, type Receiver, startReceiver, TOKEN, temporaryFolder, until } from '../support/receiver.ts'

const DEAL = 2
const postponed = 'postponed until the incoming webhook works'

/** Portals of one account: that of its old name and that of its new one, with the same deals. */
async function startRenamed() {
  const memberId = 'a223c6b3710f85df22e9377d6c4f7553'
  const limit = { rate: 1000, burst: 1000 }
  const before = await startPortal({ memberId, limit })
  const after = await startPortal({ memberId, limit, address: '127.0.0.2' })
  for (const portal of [before, after])
    for (let id = 1; id <= 9; id++) portal.records.add(DEAL, { title: `Deal ${id}` }, 7, id)
  const redirect = (status: number) => {
    before.behaviour.raw = { status, headers: { location: `https://${after.host}/` }, body: '' }
  }
  return { before, after, redirect }
}

/** A receiver whose handler reads its deal, with an incoming webhook that comes out of a file; nothing is tried twice. */
async function startWith(
  portal: Portal,
  incomingWebhooks: string,
  { dataDir = temporaryFolder('data'), tokens = TOKEN, alertUrl = '' } = {},
) {
  const [file, seen] = [
    join(temporaryFolder('incoming_webhook'), 'incoming_webhook'),
    join(temporaryFolder('seen'), 'seen'),
  ]
  writeFileSync(file, incomingWebhooks)
  const receiver = await startReceiver({
    dataDir,
    args: quickProbes,
    handlers: {
      'ONCRMDEALUPDATE.mjs': `import { appendFileSync } from 'node:fs'
export default async ({ object, auth }, { bitrix24, attempt }) => {
  await bitrix24.call('crm.item.get', { entityTypeId: 2, id: object.slice('deal:'.length) })
  appendFileSync(${JSON.stringify(seen)}, JSON.stringify([object, auth.domain, attempt]) + '\\n')
}`,
    },
    env: {
      ...portal.env,
      ...(incomingWebhooks === '' ? {} : { B24_HOOK_FILE: file }),
      B24_APPLICATION_TOKEN: tokens,
      B24_RATE: '1000',
      B24_BURST: '1000',
      ALERT_URL: alertUrl,
      RETRY_FOR: '0s',
    },
  })
  await until('it follows', async () => JSON.stringify(await receiver.readyz()).includes('"ready"'))
  return {
    receiver,
    seen: () =>
      existsSync(seen)
        ? readFileSync(seen, 'utf8')
            .split('\n')
            .slice(0, -1)
            .map((line): [string, string, number] => JSON.parse(line))
        : [],
    give: async (text: string) => {
      writeFileSync(file, text)
      receiver.child.kill('SIGHUP')
      await until('it has it', () => receiver.logged('handlers were loaded again').length > 0)
    },
  }
}

const incomingWebhooksOf = async (receiver: Receiver) =>
  ((await receiver.readyz()) as { incoming_webhooks?: string[] }).incoming_webhooks ?? []

function deliveriesOf({ dataDir }: Receiver) {
  const db = new DatabaseSync(join(dataDir, 'dispatch.db'), { readOnly: true })
  try {
    return db.prepare('SELECT DISTINCT state, attempts FROM delivery').all()
  } finally {
    db.close()
  }
}

async function endsWell(receiver: Receiver): Promise<void> {
  await until(
    () => `all is done\n${receiver.output().slice(-3_000)}`,
    () => JSON.stringify(deliveriesOf(receiver)) === '[{"state":"done","attempts":1}]',
  )
  await until('all is well', async () => JSON.stringify(await receiver.readyz()).includes('"ready"'))
}

test.for([301, 302, 307])(
  'events of a renamed portal wait when its old address answers %i, and go on with the new URL',
  async (status) => {
    const { before, after, redirect } = await startRenamed()
    const { receiver, seen, give } = await startWith(before, before.incomingWebhook())
    for (const portal of [before, after]) portal.subscribe({ url: receiver.url, token: TOKEN })
    before.edit(DEAL, 1, { title: 'changed' })
    await until('handled', () => seen().length === 1)
    redirect(status)
    before.edit(DEAL, 2, { title: 'changed on its way' })
    for (let id = 3; id <= 6; id++) after.edit(DEAL, id, { title: 'changed' })
    await until('they wait', () => receiver.logged(postponed).length >= 5)
    // The member_id of the first event tells that it is the same portal.
    await expect
      .poll(() => incomingWebhooksOf(receiver))
      .toEqual([
        `the incoming webhook of ${before.host} is answered by something else than Bitrix24's REST: HTTP_${status} (a redirect to ${after.host}; if the portal was renamed, B24_HOOK needs its new address)`,
      ])
    await give(after.incomingWebhook())
    await until('all are handled', () => seen().length === 6)
    // Of the old name too: the events under the new one have told whose it is.
    expect(seen().map(([object, domain]) => [object, domain])).toContainEqual(['deal:2', before.host])
    expect(new Set(seen().map(([, , attempt]) => attempt))).toEqual(new Set([1]))
    await endsWell(receiver)
  },
)

test('of a renamed portal that was never known before the event waits, and is reported', async () => {
  const { before, after } = await startRenamed()
  const { receiver, seen, give } = await startWith(before, before.incomingWebhook())
  after.subscribe({ url: receiver.url, token: TOKEN })
  after.edit(DEAL, 1, { title: 'changed' })
  await until('it waits', () => receiver.logged(postponed).length > 0)
  await until('it is told', async () => (await incomingWebhooksOf(receiver)).length === 1)
  expect(await incomingWebhooksOf(receiver)).toEqual([
    `the incoming webhook of ${before.host} is not used for an event of ${after.host}: if the portal was renamed, B24_HOOK needs its new address`,
  ])
  expect(before.requests).toEqual([])
  await give(after.incomingWebhook())
  await until('handled', () => seen().length === 1)
  await endsWell(receiver)
})

test('with the new URL, events under the old name go on when the first event has identified the portal', async () => {
  const { before, after } = await startRenamed()
  const { receiver, seen, give } = await startWith(before, before.incomingWebhook())
  for (const portal of [before, after]) portal.subscribe({ url: receiver.url, token: TOKEN })
  before.behaviour.raw = { status: 404, headers: { 'content-type': 'text/html' }, body: '<h1>No such portal</h1>' }
  for (let id = 1; id <= 5; id++) before.edit(DEAL, id, { title: 'changed' })
  await until('they wait', () => receiver.logged(postponed).length === 5)
  await give(after.incomingWebhook())
  await until('they wait again', () => receiver.logged(postponed).length >= 10)
  await until('it is told', async () => (await incomingWebhooksOf(receiver)).length === 1)
  expect(await incomingWebhooksOf(receiver)).toEqual([
    expect.stringContaining(`the incoming webhook of ${after.host} is not used for an event of ${before.host}`),
  ])
  expect(seen()).toEqual([])
  after.edit(DEAL, 9, { title: 'changed' })
  await until('all are handled', () => seen().length === 6)
  await endsWell(receiver)
  // It is known from now on, in another process too.
  await receiver.stop()
  expect(JSON.parse(readFileSync(join(receiver.dataDir, 'portals.json'), 'utf8'))).toMatchObject({
    [after.host]: after.memberId,
  })
})

test.for<[what: string, wrong: (portal: Portal) => string, told: RegExp, warned: RegExp]>([
  ['is not set', () => '', /^B24_HOOK is not set$/, /B24_HOOK is not set: events wait/],
  [
    'has no URL for the name of the token',
    (portal) => `other=${portal.incomingWebhook()}`,
    /^B24_HOOK has no incoming webhook for the events of the token "sales"$/,
    /B24_HOOK has no URL of this name/,
  ],
])('where B24_HOOK %s events wait, which is reported, and go on with it', async ([, wrong, told, warned]) => {
  const portal = await startPortal()
  for (let id = 1; id <= 5; id++) portal.records.add(DEAL, { title: `Deal ${id}` }, 7, id)
  const dataDir = temporaryFolder('data')
  const tokens = `sales=${TOKEN}`
  const alerts = await startAlertTarget()
  const { receiver } = await startWith(portal, wrong(portal), { dataDir, tokens, alertUrl: alerts.url })
  expect(receiver.output()).toMatch(warned)
  portal.subscribe({ url: receiver.url, token: TOKEN })
  for (let id = 1; id <= 5; id++) portal.edit(DEAL, id, { title: 'changed' })
  await until('they wait', () => receiver.logged(postponed).length === 5)
  await until('it is told', async () => (await incomingWebhooksOf(receiver)).length === 1)
  expect(await receiver.readyz()).toMatchObject({
    status: 'degraded',
    incoming_webhooks: [expect.stringMatching(told)],
  })
  await until('it is alerted', () => alerts.took.length > 0)
  expect(alerts.took[0]).toMatchObject({ kind: 'incoming_webhook_refused', text: expect.stringContaining('B24_HOOK') })
  await receiver.stop()
  const next = await startWith(portal, `sales=${portal.incomingWebhook()}`, { dataDir, tokens })
  await until('all are handled', () => next.seen().length === 5)
  expect(next.receiver.output()).not.toMatch(warned)
  await endsWell(next.receiver)
})
