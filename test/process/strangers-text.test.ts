import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { open, request } from '../support/intake.ts'
import { freePort, post, startReceiver, TOKEN, temporaryFolder, until } from '../support/receiver.ts'
import { atTerminal, harmless, hasTerminals, screen } from '../support/terminal.ts'

const main = fileURLToPath(new URL('../../src/bin/receiver.ts', import.meta.url))
// In capitals, as the names of events are made.
const hostile = 'ON\u009b2J\u001b[8M\u202E\u2066\u2028X\nFAKE'

/** Repeats what the event brings, in its log and in what it throws. */
const parrot = `
import { defineHandler } from 'bitrix24-webhook-receiver'
export default defineHandler('*', (event, { log }) => {
  log.info({ [event.event]: event.event }, event.event)
  throw new Error(event.event)
})
`

/** Whatever a post can bring into a log: its event, its domain, and headers, which may hold any bytes but C0. */
async function postHostile(port: number): Promise<void> {
  const url = `http://127.0.0.1:${port}/bitrix24`
  const body = (token: string) =>
    new URLSearchParams({ event: hostile, 'auth[application_token]': token, 'auth[domain]': hostile }).toString()
  expect((await post(url, body(TOKEN))).status).toBe(200)
  expect((await post(url, body('wrong'))).status).toBe(403)
  using connection = open(port)
  const headers = ['Content-Encoding: x\u009b2J', 'X-Forwarded-For: y\u009b2J']
  connection.write(Buffer.from(request('', { headers }).toString(), 'latin1'))
  expect((await connection.answer())?.status).toBe(415)
}

const trusting = { TRUST_PROXY: '127.0.0.1' }

test('what strangers wrote is in the log and in the journal as escapes of JSON, and means what it meant', async () => {
  const receiver = await startReceiver({ handlers: { 'parrot.mjs': parrot }, env: trusting })
  await postHostile(receiver.port)
  await until(
    () => receiver.output(),
    () => receiver.output().includes('tried again') && receiver.logged('refused').length === 2,
  )
  expect(receiver.output()).toMatch(harmless)
  expect(receiver.logged('accepted')).toMatchObject([{ event: hostile }])
  expect(receiver.logged('refused')).toMatchObject([
    { event: hostile, domain: hostile },
    { content_encoding: 'x\u009b2J', remote: 'y\u009b2J' },
  ])
  // Each attempt logs it.
  expect(receiver.logged(hostile).length).toBeGreaterThan(0)
  const written = readFileSync(join(receiver.dataDir, 'events.ndjson'), 'utf8')
  expect(written).toMatch(harmless)
  expect(JSON.parse(written)).toMatchObject({ event: hostile, auth: { domain: hostile } })
})

describe.skipIf(!hasTerminals)('at a terminal', () => {
  test('what strangers wrote is shown, and the terminal does not obey it', async () => {
    const handlersDir = temporaryFolder('handlers')
    const [port, adminPort] = [await freePort(), await freePort()]
    const env = {
      ...{ B24_APPLICATION_TOKEN: TOKEN, DATA_DIR: temporaryFolder('data'), HANDLERS_DIR: handlersDir },
      ...{ HOST: '127.0.0.1', PORT: String(port), ADMIN_PORT: String(adminPort), DISPATCHER: 'off', ...trusting },
    }
    const { said } = atTerminal(env, main)
    await until('ready', () => said.stdout.includes('ready for events'))
    await postHostile(port)
    await until('all three', () => said.stdout.split('refused').length === 3)
    expect(screen(said.stdout).find((line) => line.includes('accepted'))).toContain(
      String.raw`ON\u009b2J\u001b[8M\u202e`,
    )
    expect(said.stdout).not.toContain('\u001b[8')
    expect(screen(said.stdout).join('\n')).toMatch(harmless)
  })
})
