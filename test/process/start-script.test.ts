import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { findHolder } from '../../src/journal/lock.ts'
import { root } from '../support/docs.ts'
import { freePort, TOKEN, temporaryFolder, until } from '../support/receiver.ts'

test('npm start works in a folder whose name has a space, and names the compile cache by its whole path', async () => {
  const folder = join(temporaryFolder('start'), 'a checkout')
  mkdirSync(folder)
  for (const name of ['src', 'examples', 'node_modules', 'package.json'])
    symlinkSync(join(root, name), join(folder, name))
  const { NODE_COMPILE_CACHE: _, ...env } = process.env
  const child = spawn('npm', ['start'], {
    cwd: folder,
    env: { ...env, B24_APPLICATION_TOKEN: TOKEN, PORT: String(await freePort()), ADMIN_PORT: String(await freePort()) },
  })
  const closed = once(child, 'close')
  onTestFinished(async () => {
    child.kill('SIGTERM')
    await closed
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
  await until(
    () => `ready\n${output}`,
    () => output.includes('ready for events'),
  )
  const holder = findHolder(join(folder, 'data'), 'receiver')
  const variables = readFileSync(`/proc/${holder?.pid}/environ`, 'utf8').split('\0')
  expect(variables).toContain(`NODE_COMPILE_CACHE=${join(folder, 'node_modules/.cache/compile')}`)
})
