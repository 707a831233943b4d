import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { createServer } from 'node:http'
import { type AddressInfo, createServer as createListener } from 'node:net'
import { tmpdir } from 'node:os'
import { expect, onTestFinished, test } from 'vitest'
import { runCli } from '../../support/cli.ts'
import { temporaryFolder } from '../../support/receiver.ts'

/** A port that somebody else has. */
async function takePort(): Promise<number> {
  const server = createListener().listen(0, '127.0.0.1')
  onTestFinished(() => void server.close())
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

test('the demo shows the way of four posts, and leaves nothing of itself behind', async () => {
  const temp = temporaryFolder('demo')
  const { code, stdout, stderr } = await runCli({ env: { TMPDIR: temp } }, 'demo')
  expect(stderr).toBe('')
  expect(code).toBe(0)
  expect(stdout.match(/^\d{3} \{.*\}$/gm)).toEqual([
    ...Array.from({ length: 3 }, () => '200 {"status":"ok","message":"event accepted"}'),
    '403 {"status":"error","error":"invalid_application_token"}',
  ])
  expect(stdout).toMatch(/handled/)
  expect(stdout.match(/^\{"level":30,.*"msg":"ONCRMDEALUPDATE deal:662"\}$/m)).not.toBeNull()
  expect(readdirSync(temp)).toEqual([])
})

test('the demo touches nothing that the settings are for: portal, database, ports and files', async () => {
  const asked: string[] = []
  const portal = createServer((request, response) => {
    asked.push(request.url ?? '')
    response.end('{}')
  }).listen(0, '127.0.0.1')
  onTestFinished(() => void portal.close())
  await once(portal, 'listening')
  const origin = `http://127.0.0.1:${(portal.address() as AddressInfo).port}`
  const { code, stdout } = await runCli(
    {
      env: {
        TMPDIR: tmpdir(),
        B24_APPLICATION_TOKEN_FILE: '/does/not/exist',
        B24_HOOK: `${origin}/rest/1/abcdefghijklmnop/`,
        BACKFILL_ON_START: 'deal',
        DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none',
        ADMIN_PORT: String(await takePort()),
        ROBOT_PATH: '/short',
        B24_ALLOWED_IPS: '203.0.113.7',
        ALERT_URL: `${origin}/alerts`,
        ALERT_AFTER_SILENCE: '1ms',
        DISPATCHER: 'off',
        LOG_LEVEL: 'silent',
        BODY_LIMIT: 'nonsense',
      },
    },
    'demo',
  )
  expect(stdout).toMatch(/handled/)
  expect(code).toBe(0)
  expect(asked).toEqual([])
})
