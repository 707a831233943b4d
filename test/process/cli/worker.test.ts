import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { createServer } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { runCli } from '../../support/cli.ts'
import { temporaryFolder } from '../../support/receiver.ts'

test('a worker whose ADMIN_PORT is taken says so and ends: it runs no handlers, and leaves nothing behind', async () => {
  const holder = createServer().listen(0, '127.0.0.1')
  onTestFinished(() => void holder.close())
  await once(holder, 'listening')
  const address = holder.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  const folder = temporaryFolder('work')
  const env = {
    TMPDIR: folder,
    DATABASE_URL: 'postgres://nobody:nothing@127.0.0.1:1/nowhere',
    HANDLERS_DIR: temporaryFolder('handlers'),
    ADMIN_PORT: String(port),
  }
  const { code, stdout, stderr } = await runCli({ env }, 'worker')
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
  expect(stderr).toBe(`b24-receiver worker: listen EADDRINUSE: address already in use 127.0.0.1:${port}\n`)
  expect(readdirSync(folder)).toEqual([])
})
