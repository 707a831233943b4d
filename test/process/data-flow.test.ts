import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  dealBody,
  makeFolder,
  readRecorded,
  recorder,
  startReceiver,
  TOKEN,
  temporaryFolder,
  until,
} from '../support/receiver.ts'

const samplesDir = new URL('../fixtures/samples/', import.meta.url)
const samples = readdirSync(samplesDir, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.body'))
  .map((name) => name.slice(0, -'.body'.length))
  .sort()
  .map((name) => ({
    name,
    body: readFileSync(new URL(`${name}.body`, samplesDir), 'utf8'),
    php: JSON.parse(readFileSync(new URL(`${name}.json`, samplesDir), 'utf8')),
  }))

const credential = /^(access_token|refresh_token|application_token)$/i

/** Every credential of a sample, wherever it stands. */
function secretsOf(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, item]) => (credential.test(key) ? [String(item)] : secretsOf(item)))
}

/** PHP's reading of `data` less the secrets, by the rules of the journal written again, independently. */
function lessSecrets(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(lessSecrets)
  return Object.fromEntries(
    Object.entries(value)
      .filter(([key, item]) => !credential.test(key) && !(/^auth$/i.test(key) && typeof item === 'object'))
      .map(([key, item]) => [key, lessSecrets(item)]),
  )
}

const tokens = [
  ...new Set(samples.map(({ php }) => php.auth?.application_token).filter((token) => token !== undefined)),
]

describe('every sample of what Bitrix24 sends', () => {
  test('travels the whole way: 200, one line in the journal, the handler has the same, no secret anywhere', async () => {
    const seen = join(temporaryFolder('seen'), 'seen.ndjson')
    const receiver = await startReceiver({
      env: { B24_APPLICATION_TOKEN: tokens.join(',') },
      handlers: { 'every.mjs': recorder(seen) },
    })
    const withToken = samples.filter(({ php }) => php.auth?.application_token !== undefined)
    expect(samples.length - withToken.length).toBe(1) // ONAPPPAYMENT's example in the documentation has none
    for (const { name, body } of withToken)
      expect(await receiver.post(body), name).toEqual({
        status: 200,
        body: '{"status":"ok","message":"event accepted"}',
      })

    const journal = await receiver.journal()
    expect(journal).toHaveLength(withToken.length)
    for (const [index, { name, php }] of withToken.entries()) {
      const { event, event_handler_id, ts, data } = journal[index] ?? { event: 'missing' }
      expect(JSON.stringify({ event, event_handler_id, ts, data }), name).toBe(
        JSON.stringify({
          event: php.event.toUpperCase(),
          event_handler_id: php.event_handler_id,
          ts: php.ts,
          data: lessSecrets(php.data),
        }),
      )
    }

    await until('every event was handled', () => readRecorded(seen).length === withToken.length)
    const byId = new Map(readRecorded(seen).map((event) => [event.id, event]))
    for (const event of journal) expect(byId.get(event.id)).toEqual(event)

    await receiver.stop()
    const secrets = [...new Set(samples.flatMap(({ php }) => secretsOf(php)))].filter((secret) => secret.length > 8)
    expect(secrets.length).toBeGreaterThan(20)
    const bytes = `${bytesUnder(receiver.dataDir)}${receiver.output()}`
    for (const secret of secrets) expect(bytes.includes(secret)).toBe(false)
  })

  test('without a token is refused and leaves nothing', async () => {
    const receiver = await startReceiver({ env: { B24_APPLICATION_TOKEN: tokens.join(',') } })
    for (const { body } of samples.filter(({ php }) => php.auth?.application_token === undefined))
      expect((await receiver.post(body)).status).toBe(403)
    expect(await receiver.journal()).toEqual([])
  })
})

test('an event is on disk in the documented shape when its post is answered', async () => {
  const receiver = await startReceiver({ env: { B24_APPLICATION_TOKEN: `sales=${TOKEN}` } })
  await receiver.post(dealBody(662))
  const line = readFileSync(join(receiver.dataDir, 'events.ndjson'), 'utf8')
  expect(line.replace(/"time":"[^"]+"/, '"time":"…"').replace(/"id":"[0-9a-f-]{36}"/, '"id":"…"')).toBe(
    '{"level":30,"time":"…","id":"…","webhook":"sales","event":"ONCRMDEALUPDATE","object":"deal:662",' +
      '"event_handler_id":"312","ts":"1736405807","data":{"FIELDS":{"ID":"662"}},' +
      '"auth":{"domain":"example.bitrix24.com","client_endpoint":"https://example.bitrix24.com/rest/",' +
      '"server_endpoint":"https://oauth.bitrix.info/rest/","member_id":"a223c6b3710f85df22e9377d6c4f7553"},' +
      '"remote":"127.0.0.1","msg":"ONCRMDEALUPDATE deal:662"}\n',
  )
})

describe('a handlers folder from anywhere', () => {
  test('imports our package and packages of its own, in TypeScript', async () => {
    const seen = join(temporaryFolder('seen'), 'seen')
    const receiver = await startReceiver({ env: { DISPATCHER: 'off' } })
    await receiver.post(dealBody(1))
    await receiver.stop()

    const folder = temporaryFolder('anywhere')
    const own = makeFolder(folder, 'node_modules', 'own-package')
    writeFileSync(join(own, 'package.json'), '{"name":"own-package","main":"index.js"}')
    writeFileSync(join(own, 'index.js'), 'module.exports = (text) => "own " + text')
    writeFileSync(join(folder, '_shared.ts'), 'export const mark: string = "shared"\n')
    writeFileSync(
      join(folder, 'deals.ts'),
      `import { appendFileSync } from 'node:fs'
import { defineHandler, type Event } from 'bitrix24-webhook-receiver'
import own from 'own-package'
import { mark } from './_shared.ts'
export default defineHandler(['ONCRMDEAL*'], (event: Event): void => appendFileSync(${JSON.stringify(seen)}, own(mark + ' ' + event.object)))
`,
    )
    const again = await startReceiver({ dataDir: receiver.dataDir, env: { HANDLERS_DIR: folder } })
    await until(
      () => `handled\n${again.output()}`,
      () => again.logged('handled').length === 1,
    )
    expect(readFileSync(seen, 'utf8')).toBe('own shared deal:1')
  })
})

function bytesUnder(folder: string): string {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => readFileSync(join(entry.parentPath, entry.name), 'latin1'))
    .join('\n')
}
