import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createCluster } from '../../support/cluster.ts'
import { type Portal, type PortalOptions, startPortal } from '../../support/portal.ts'
import { type Postgres, startPostgres } from '../../support/postgres.ts'
import { dealBody, type Receiver, temporaryFolder, until } from '../../support/receiver.ts'

const DEAL = 2
const deals = 45

let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres()
})
afterAll(() => postgres.remove())

const reads = `export default async ({ object }, { bitrix24 }) => {
  await bitrix24.call('crm.item.get', { entityTypeId: 2, id: object.slice('deal:'.length) })
}
`

async function startFull(options: PortalOptions): Promise<Portal> {
  const portal = await startPortal(options)
  for (let id = 1; id <= deals; id++) portal.records.add(DEAL, { title: `Deal ${id}` }, 7, id)
  return portal
}

/** What every process needs that is to call the portal. */
const envOf = (portal: Portal, { rate = 5, burst = 10 } = {}) => ({
  ...portal.env,
  B24_HOOK: portal.incomingWebhook(),
  B24_RATE: String(rate),
  B24_BURST: String(burst),
})

async function postAll(receiver: Receiver, portal: Portal): Promise<void> {
  for (let id = 1; id <= deals; id++) await receiver.post(dealBody(id, { domain: portal.host }))
}

test('three workers with a backlog for one portal are never refused: together they keep to its limit', async () => {
  // Their burst is half of what the portal lets in: requests arrive closer together than they were sent.
  const portal = await startFull({ limit: { rate: 5, burst: 20 } })
  const cluster = await createCluster({ postgres, handlers: { 'ONCRMDEALUPDATE.mjs': reads }, env: envOf(portal) })
  const receiver = await cluster.startReceiver()
  await Promise.all([1, 2, 3].map(() => cluster.startWorker()))
  await postAll(receiver, portal)
  await cluster.drained(deals)
  expect(portal.requests.filter(({ status }) => status === 503)).toHaveLength(0)
  expect(portal.called()).toHaveLength(deals)
})

test('a run that calls while Postgres is away is not delayed: its worker keeps to a limit of its own', async () => {
  const go = join(temporaryFolder('rate'), 'go')
  const portal = await startFull({ limit: { rate: 1000, burst: 1000 } })
  const cluster = await createCluster({
    postgres,
    handlers: {
      'ONCRMDEALUPDATE.mjs': `import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
export default async (event, { bitrix24 }) => {
  await bitrix24.call('crm.item.get', { entityTypeId: 2, id: 1 })
  while (!existsSync(${JSON.stringify(go)})) await sleep(20)
  for (let id = 2; id <= 6; id++) await bitrix24.call('crm.item.get', { entityTypeId: 2, id })
}
`,
    },
    env: envOf(portal),
  })
  const receiver = await cluster.startReceiver({ env: { RUN_HANDLERS: 'on' } })
  await receiver.post(dealBody(1, { domain: portal.host }))
  await until('its first call', () => portal.requests.length === 1)
  await postgres.end('SIGINT')
  writeFileSync(go, '')
  await until('its other calls', () => portal.requests.length === 6)
  expect(existsSync(join(postgres.dataDir, 'postmaster.pid'))).toBe(false)
  await postgres.start()
  await cluster.drained(1)
  await expect
    .poll(() => receiver.logged('the limit of all workers cannot be kept; this one keeps to one of its own'))
    .toHaveLength(1)
})
