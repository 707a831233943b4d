import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createCluster, idsByObject, marking, marksIn, violationsOf } from '../../support/cluster.ts'
import { type Postgres, startPostgres } from '../../support/postgres.ts'
import { dealBody, type Receiver, startReceiver, temporaryFolder, until } from '../../support/receiver.ts'

let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres()
})
afterAll(() => postgres.remove())

const cli = fileURLToPath(new URL('../../../src/bin/cli.ts', import.meta.url))

test('from dispatch.db to Postgres and back no delivery of any state is lost, and the order is kept', async () => {
  const folder = temporaryFolder('move')
  const dataDir = temporaryFolder('data')
  // Until there is a file of this name nothing succeeds.
  const handlers = (open: string) => ({
    'ONCRMDEALUPDATE.mjs': `import { existsSync } from 'node:fs'
import { FinalError, RetryAfter } from 'bitrix24-webhook-receiver'
${marking(
  folder,
  `if (event.object === 'deal:9') throw new FinalError('no such deal')
   if (event.object === 'deal:8' && !existsSync('${folder}/${open}')) await new Promise((resolve) => signal.addEventListener('abort', resolve))
   if (!existsSync('${folder}/${open}')) throw new RetryAfter('1s')`,
)}`,
  })
  const url = (await createCluster({ postgres, handlers: {} })).url
  const move = (to: string) =>
    execFileSync(process.execPath, [cli, 'migrate', to], {
      env: { PATH: process.env['PATH'], DATA_DIR: dataDir, DATABASE_URL: url },
      encoding: 'utf8',
    })
  const start = (open: string, env: Record<string, string> = {}) =>
    startReceiver({ dataDir, handlers: handlers(open), env: { SHUTDOWN_GRACE: '3s', ...env } })
  /** Resolves when so much waits, with what was there before. */
  const postAll = async (receiver: Receiver, expected: { readonly pending: number; readonly dead: number }) => {
    for (const deal of [1, 2, 1, 2, 1, 8, 9, 8]) expect((await receiver.post(dealBody(deal))).status).toBe(200)
    await until('failures', () => receiver.logged('failed, will be tried again').length > 1)
    await until('a death', () => receiver.logged('failed for good: this delivery is dead').length > 0)
    // Answered is not yet followed.
    await expect.poll(receiver.readyz).toMatchObject({ backlog: expected })
  }

  const embedded = await start('never')
  await postAll(embedded, { pending: 7, dead: 1 })
  await embedded.stop()

  const refused = await start('never', { DATABASE_URL: url })
  await expect.poll(refused.readyz).toMatchObject({
    dispatcher: expect.stringContaining('still has the deliveries: run "b24-receiver migrate postgres" first'),
  })
  expect((await refused.post(dealBody(1))).status).toBe(200)
  await refused.stop()

  expect(move('postgres')).toMatch(/8 deliveries moved, 7 of them to be run/)
  expect(existsSync(join(dataDir, 'dispatch.db'))).toBe(false)
  const distributed = await start('never', { DATABASE_URL: url })
  await until('all are there', async () => {
    const [row] = await postgres.query(
      'SELECT count(*) AS count FROM b24_receiver.delivery',
      new URL(url).pathname.slice(1),
    )
    return Number(row?.['count']) === 9
  })
  await postAll(distributed, { pending: 15, dead: 2 })
  await distributed.stop()

  const lost = await start('never')
  await expect.poll(lost.readyz).toMatchObject({
    dispatcher: expect.stringContaining('the deliveries are in Postgres: set DATABASE_URL, or run'),
  })
  await lost.stop()

  expect(move('embedded')).toMatch(/17 deliveries moved, 15 of them to be run/)
  const back = await start('open')
  await until('the way open', async () => {
    const { appendFileSync } = await import('node:fs')
    appendFileSync(join(folder, 'open'), '')
    return true
  })
  const events = idsByObject((await back.journal()).filter(({ object }) => object !== 'deal:9'))
  await until(
    () => `all of them\n${back.output()}`,
    () =>
      [...events.values()].flat().every((id) => marksIn(folder).some((mark) => mark.what === 'end' && mark.id === id)),
  )
  expect(violationsOf(marksIn(folder), events)).toEqual({ lost: [], overlaps: [], disordered: [] })
})
