import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { json } from 'node:stream/consumers'
import { expect, onTestFinished, test } from 'vitest'
import type { Alert } from '../../src/alerts/alerts.ts'
import { blockWith, filesOf, readText, root } from '../support/docs.ts'
import { hasPhp, startPhp } from '../support/php-server.ts'
import { startPortal } from '../support/portal.ts'
import { dealBody, startReceiver, TOKEN, temporaryFolder, until } from '../support/receiver.ts'

const page = 'docs/recipes.md'
const [LEAD, DEAL, CONTACT, COMPANY] = [1, 2, 3, 4]

test('the recipes have the types that an editor finds', () => {
  const folder = temporaryFolder('recipes')
  const config = blockWith('docs/handlers.md', '"compilerOptions"')
  writeFileSync(join(folder, 'tsconfig.json'), config.replaceAll('/srv/bitrix24-webhook-receiver', root))
  for (const [name, source] of Object.entries(filesOf(page))) writeFileSync(join(folder, name), source)
  // As `npm install @bitrix24/b24jssdk` there would.
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  expect(execFileSync(join(root, 'node_modules/.bin/tsc'), ['-p', folder], { encoding: 'utf8' })).toBe('')
})

const sdk = import.meta.resolve('@bitrix24/b24jssdk')

async function startRecipe(name: string, env: Record<string, string> = {}) {
  const portal = await startPortal({ limit: { rate: 1000, burst: 1000 } })
  const receiver = await startReceiver({
    handlers: { [name]: (filesOf(page)[name] ?? '').replace("'@bitrix24/b24jssdk'", `'${sdk}'`) },
    env: { ...portal.env, B24_HOOK: portal.incomingWebhook(), B24_RATE: '1000', B24_BURST: '1000', ...env },
  })
  await until('it is loaded', () => receiver.logged('handler loaded').length === 1)
  portal.subscribe({ url: receiver.url, token: TOKEN })
  const handled = (count: number) =>
    until(
      () => `${count} handled\n${receiver.output()}`,
      () => {
        const ended = ['handled', 'gone', 'remembered'].flatMap((outcome) => receiver.logged(outcome))
        return ended.length === count
      },
    )
  return {
    portal,
    receiver,
    handled,
    open: (file: string) => new DatabaseSync(join(receiver.dataDir, file), { readOnly: true }),
  }
}

test('a new lead is sent to the chat', async () => {
  const { portal, handled } = await startRecipe('lead-to-chat.ts', { LEADS_CHAT: '42' })
  portal.records.add(
    LEAD,
    { title: 'Garden shed', fm: [{ id: 1, typeId: 'PHONE', valueType: 'WORK', value: '+371' }] },
    7,
  )
  await handled(1)
  expect(JSON.stringify(portal.messages)).toContain('New lead: Garden shed, +371')
})

test('a change of stage sends one message, another edit sends none', async () => {
  const { portal, receiver, handled } = await startRecipe('stage-changes.ts')
  portal.records.add(DEAL, { title: 'Garden shed', stageId: 'NEW', assignedById: 7 }, 7, 5)
  await handled(1)
  portal.edit(DEAL, 5, { title: 'Garden house' })
  await until('nothing is to be done', () => receiver.logged('unchanged').length === 1)
  expect(portal.messages).toEqual([])
  portal.edit(DEAL, 5, { stageId: 'WON' })
  await handled(2)
  portal.edit(DEAL, 5, { title: 'Garden shed' })
  await until('nothing is to be done', () => receiver.logged('unchanged').length === 2)
  expect(receiver.logged('deal:5 has moved')).toMatchObject([{ from: 'NEW', to: 'WON' }])
  expect(JSON.stringify(portal.messages)).toContain('has moved from NEW to WON')
  expect(portal.messages).toHaveLength(1)
})

test('the official SDK calls through context.bitrix24, which has the only connection to the portal', async () => {
  const { portal, receiver, handled } = await startRecipe('company-contacts.ts')
  for (let id = 1; id <= 120; id++) portal.records.add(CONTACT, { name: `Contact ${id}`, companyId: 9 }, 7)
  portal.records.add(COMPANY, { title: 'Yard' }, 7, 9)
  portal.edit(COMPANY, 9, { title: 'Boatyard' })
  await handled(1)
  expect(receiver.logged('company:9 has contacts')).toMatchObject([{ count: 120 }])
  expect(new Set(portal.called())).toEqual(new Set(['crm.item.list']))
})

test('the mirror has what the portal has: added, updated, deleted', async () => {
  const { portal, handled, open } = await startRecipe('deals-mirror.ts')
  portal.records.add(DEAL, { title: 'Garden shed', stageId: 'NEW', opportunity: 100 }, 7, 5)
  await handled(1)
  portal.edit(DEAL, 5, { stageId: 'WON', opportunity: 90 })
  await handled(2)
  portal.records.add(DEAL, { title: 'A mistake', stageId: 'NEW', opportunity: 1 }, 7, 6)
  await handled(3)
  portal.records.remove(DEAL, 6)
  await handled(4)
  const db = open('mirror.db')
  const deals = db.prepare('SELECT id, title, stage, amount FROM deal').all()
  expect(deals).toEqual([{ id: 5, title: 'Garden shed', stage: 'WON', amount: 90 }])
  expect(
    db
      .prepare('SELECT object FROM applied ORDER BY event')
      .all()
      .map(({ object }) => object),
  ).toEqual(['deal:5', 'deal:5', 'deal:6', 'deal:6'])
  db.close()
})

test('a deal is updated once for each edit, and the handler does not run for its own change', async () => {
  const { portal, receiver, handled } = await startRecipe('deal-numbers.ts')
  portal.records.add(DEAL, { title: 'Garden shed' }, 7, 5)
  await handled(1)
  await until('its own change came back', () => receiver.logged('own_change').length === 1)
  portal.edit(DEAL, 5, { title: 'Garden house' })
  await handled(2)
  await until('its own change came back', () => receiver.logged('own_change').length === 2)
  expect(portal.records.get(DEAL, 5)?.fields).toMatchObject({ title: '#5 Garden house' })
})

test.skipIf(!hasPhp)('a PHP handler gets the post as Bitrix24 wrote it (php)', async () => {
  const php = await startPhp()
  const { receiver, handled } = await startRecipe('old-php.ts', { OLD_PHP_URL: php.url, OLD_PHP_TOKEN: TOKEN })
  await receiver.post(dealBody(5))
  await handled(1)
  expect(php.posts().map(({ body }) => body)).toEqual([dealBody(5)])
  expect(php.log()).toContain(`[application_token] => ${TOKEN}`)
})

test('n8n gets the chosen events as JSON, and gets them again after a failure', async () => {
  const bodies: unknown[] = []
  const server = createServer((request, response) => {
    void json(request).then((body) => {
      response.writeHead(bodies.push(body) === 1 ? 500 : 200).end()
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  const address = server.address()
  const port = typeof address === 'object' ? address?.port : undefined
  const { receiver, handled } = await startRecipe('n8n.ts', { N8N_URL: `http://127.0.0.1:${port}/webhook/secret` })
  await receiver.post(dealBody(5))
  await handled(1)
  const deal = { event: 'ONCRMDEALUPDATE', data: { FIELDS: { ID: '5' } } }
  expect(bodies).toMatchObject([deal, deal])
})

test('alerts arrive in the chat that ALERT_URL names, which is the URL of a method of the portal', async () => {
  const [, url = ''] = /ALERT_URL='(.*)'/.exec(blockWith(page, 'im.message.add?DIALOG_ID')) ?? []
  const portal = await startPortal()
  const receiver = await startReceiver({
    env: { ...portal.env, ALERT_URL: url.replace('https://example.bitrix24.com/rest/1/…/', portal.incomingWebhook()) },
  })
  const command = blockWith(page, 'for i in').replace('localhost:8080', `127.0.0.1:${receiver.port}`)
  expect(execFileSync('sh', ['-c', command], { encoding: 'utf8' })).toContain('invalid_application_token')
  await until(
    () => `the alert arrives\n${receiver.output()}`,
    () => portal.messages.length > 0,
  )
  expect(portal.messages).toEqual([
    { dialogId: 'chat42', from: 1, text: expect.stringContaining('10 posts with a wrong token were refused') },
  ])
})

/** What each chat accepts by its documentation; every other post is refused here. */
const chats = {
  'hooks.slack.com': (_url: URL, { text }: Alert) => text,
  'api.telegram.org': (url: URL, { text }: Alert) =>
    /^\/bot.+\/sendMessage$/.test(url.pathname) && url.searchParams.get('chat_id') === '-1001234567890' && text,
  // The result of the expression triggerBody()?['text'].
  'logic.azure.com': (url: URL, { text }: Alert) => url.searchParams.has('sig') && text,
}

test.each(Object.entries(chats))(
  'alerts arrive in the chat of %s by the URL of the recipe',
  async (host, messageOf) => {
    const [, given = ''] = new RegExp(`ALERT_URL='(https://[^/]*${host}.*)'`).exec(readText(page)) ?? []
    const messages: string[] = []
    const server = createServer((request, response) => {
      void json(request).then((body) => {
        const message = messageOf(new URL(request.url ?? '', given), body as Alert)
        if (message) messages.push(message)
        response.writeHead(message && request.headers['content-type'] === 'application/json' ? 200 : 400).end('ok')
      })
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => void server.close())
    const { port } = server.address() as AddressInfo
    const url = given.replace(/^https:\/\/[^/]+/, `http://127.0.0.1:${port}`)
    const receiver = await startReceiver({ env: { ALERT_URL: url } })
    for (let post = 0; post < 10; post++) await receiver.post('event=TEST&auth[application_token]=wrong')
    await until(
      () => `the alert arrives\n${receiver.output()}`,
      () => receiver.logged('alert sent').length > 0,
    )
    expect(messages).toEqual([expect.stringContaining('10 posts with a wrong token were refused')])
  },
)
