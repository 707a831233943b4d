import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { queuePath } from '../../../src/queue/sqlite/queue.ts'
import { envOf, jsonLines, runCli } from '../../support/cli.ts'
import { createCluster } from '../../support/cluster.ts'
import { deals, linesOf, scripted } from '../../support/dispatcher.ts'
import { type Postgres, startPostgres } from '../../support/postgres.ts'
import { dealBody, type ReceiverOptions, temporaryFolder, until } from '../../support/receiver.ts'

let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres()
})
afterAll(() => postgres.remove())

/** A receiver whose handler marks what it runs, and throws for good while the file `refuse` is there. */
async function start(options: ReceiverOptions = {}) {
  const folder = temporaryFolder('marks')
  const handler = scripted(
    folder,
    `mark('ran', event.object)
     if (has('refuse')) throw Object.assign(new Error('the CRM said no'), { [Symbol.for('bitrix24-webhook-receiver.final')]: true })`,
  )
  const cluster = await createCluster({ postgres, handlers: { [deals]: handler } })
  const receiver = await cluster.startReceiver({ ...options, env: { RUN_HANDLERS: 'on', ...options.env } })
  const env = { ...envOf(receiver), DATABASE_URL: cluster.url }
  return {
    cluster,
    receiver,
    cli: (...args: string[]) => runCli({ env }, ...args),
    ran: () => linesOf(folder, 'ran'),
    refuse: () => writeFileSync(join(folder, 'refuse'), ''),
    allow: () => rmSync(join(folder, 'refuse')),
    put: (name: string, source: string) => writeFileSync(join(receiver.handlersDir, name), source),
  }
}

test('dead deliveries in Postgres are listed, retried and dropped as in dispatch.db; events are replayed', async () => {
  const { receiver, cli, ran, refuse, allow } = await start()
  refuse()
  for (const id of [1, 2, 3]) expect((await receiver.post(dealBody(id))).status).toBe(200)
  const died = () => receiver.logged('failed for good: this delivery is dead').length
  await until('all are dead', () => died() === 3)
  expect(existsSync(queuePath(receiver.dataDir))).toBe(false)
  allow()

  expect(jsonLines((await cli('status', '--json')).stdout)).toMatchObject([
    { journal: { behind: 0 }, deliveries: { ready: 0, running: 0, waiting: 0, blocked: 0, dead: 3 } },
  ])
  expect((await cli('events')).stdout.match(/ dead$/gm)).toHaveLength(3)
  const [first, second, third] = jsonLines((await cli('dead', '--json')).stdout)
  expect([first, second, third]).toMatchObject(
    [1, 2, 3].map((id) => ({ object: `deal:${id}`, attempts: 1, error: 'Error: the CRM said no' })),
  )
  const shown = await cli('show', String(first?.['id']))
  expect(shown.stdout).toMatch(/ONCRMDEALUPDATE: dead after 1 attempt\n[\s\S]* attempt 1 .* Error: the CRM said no/)

  expect((await cli('dead', 'retry', String(first?.['id']))).stdout).toBe('1 tried again\n')
  await until('it ran again', () => ran().filter((object) => object === 'deal:1').length === 2)
  expect((await cli('dead', 'drop', String(second?.['id']))).stdout).toBe('1 dropped\n')
  expect(jsonLines((await cli('dead', '--json')).stdout)).toMatchObject([{ object: 'deal:3' }])

  expect(await cli('replay', '--object', 'deal:2', '--yes')).toMatchObject({
    code: 0,
    stdout: '1 delivery was added\n',
  })
  await until('it ran again', () => ran().filter((object) => object === 'deal:2').length === 2)
  expect(await cli('verify')).toMatchObject({ code: 0, stdout: expect.stringContaining('no trouble') })
  expect((await cli('doctor')).stdout).toMatch(/^ok +queue +the database of DATABASE_URL is of this version; 1 dead$/m)
})

test('erase drops in Postgres what is dead about one object, and overwrites it in the journal', async () => {
  const { cluster, receiver, cli, refuse } = await start()
  refuse()
  for (const id of [4711, 2]) await receiver.post(`${dealBody(id)}&data[FIELDS][TITLE]=person-${id}`)
  await until('both are dead', () => receiver.logged('failed for good: this delivery is dead').length === 2)
  expect(await cli('erase', '--object', 'deal:4711', '--yes')).toMatchObject({
    code: 1,
    stdout: expect.stringMatching(/ ONCRMDEALUPDATE: dead\n$/),
  })
  expect(await cli('erase', '--object', 'deal:4711', '--yes', '--force')).toMatchObject({
    code: 0,
    stdout: 'deal:4711: 1 line was overwritten, 1 pending or dead delivery was dropped\n',
  })
  expect(jsonLines((await cli('dead', '--json')).stdout)).toMatchObject([{ object: 'deal:2' }])
  const rows = await cluster.query('SELECT event FROM b24_receiver.delivery')
  expect(JSON.stringify(rows)).not.toContain('person-4711')
  expect(JSON.stringify(await receiver.journal())).not.toContain('person-4711')
  expect(JSON.stringify(await receiver.journal())).toContain('person-2')
  expect(await cli('verify')).toMatchObject({ code: 0, stdout: expect.stringContaining('no trouble') })
})

test('a reload says what it made of the handlers of this machine, also when others have loaded theirs', async () => {
  const { cluster, receiver, cli, put } = await start()
  await until('it is at work', () => receiver.logged('handler loaded').length === 1)
  const states = async () =>
    Object.fromEntries(jsonLines((await cli('handlers', '--json')).stdout).map(({ name, state }) => [name, state]))
  put('fresh.mjs', 'export default 3')
  const worker = await cluster.startWorker()
  const broken = await cli('reload')
  expect(broken.code).toBe(1)
  expect(broken.stdout).toMatch(/fresh\.mjs: TypeError: its default export must be a function/)
  expect(await states()).toEqual({ ONCRMDEALUPDATE: 'loaded', fresh: 'broken' })

  put('fresh.mjs', 'export default () => {}')
  expect(await cli('reload')).toMatchObject({ code: 0, stdout: 'loaded: ONCRMDEALUPDATE, fresh\n' })
  expect(await states()).toEqual({ ONCRMDEALUPDATE: 'loaded', fresh: 'loaded' })

  // A worker has no folder by which it could be found: it takes the signals.
  for (const [count, signal] of [
    [1, 'SIGUSR2'],
    [2, 'SIGHUP'],
  ] as const) {
    worker.child.kill(signal)
    await until(
      () => `loaded again\n${worker.output()}`,
      () => worker.logged('handlers were loaded again').length === count,
    )
  }
  expect(await worker.stop()).toMatchObject({ code: 0 })
})
