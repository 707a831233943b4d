import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { dealBody, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

test('dispose() of a handler file is called when its runs have ended, and awaited', async () => {
  const seen = join(temporaryFolder('seen'), 'seen')
  const receiver = await startReceiver({
    handlers: {
      'ONCRMDEALUPDATE.mjs': `import { appendFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
const note = (text) => appendFileSync(${JSON.stringify(seen)}, text + '\\n')
export default async () => { note('begins'); await sleep(300); note('ends') }
export const dispose = async () => { await sleep(100); note('disposed') }`,
    },
  })
  await receiver.post(dealBody(1))
  await until('it runs', () => existsSync(seen))
  expect(await receiver.stop()).toEqual({ code: 0, signal: null })
  expect(readFileSync(seen, 'utf8')).toBe('begins\nends\ndisposed\n')
})

test('a dispose() that fails is reported and does not delay the stop', async () => {
  const receiver = await startReceiver({
    handlers: { 'ONTASKADD.mjs': "export default () => {}\nexport const dispose = () => { throw new Error('no') }" },
  })
  await until('loaded', () => receiver.logged('handler loaded').length === 1)
  await until('following', async () => JSON.stringify(await receiver.readyz()).startsWith('{"status":"ready"'))
  expect(await receiver.stop()).toEqual({ code: 0, signal: null })
  expect(receiver.logged('dispose() failed')).toMatchObject([{ handler: 'ONTASKADD', err: { message: 'no' } }])
})
