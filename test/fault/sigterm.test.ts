import { join } from 'node:path'
import { expect, test } from 'vitest'
import { lostOrDoubled, startLoad } from '../support/load.ts'
import { createRandom } from '../support/random.ts'
import { readJournal, readRecorded, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

/** `npm run test:crash` sets 25; the suite runs a short form. */
const rounds = Number(process.env['ROUNDS'] ?? 2)

/** Writes down each event once it has handled it, a moment later, so that some wait when the signal comes. */
const slowly = (seen: string) => `import { appendFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
export default async (event) => {
  await sleep(Math.random() * 40)
  appendFileSync(${JSON.stringify(seen)}, JSON.stringify(event) + '\\n')
}`

test('at SIGTERM under load what was acknowledged is journalled, handled or waiting, and the exit is 0', async () => {
  const random = createRandom()
  const dataDir = temporaryFolder('data')
  const seen = join(temporaryFolder('seen'), 'seen')
  const handlers = { 'ONCRMDEALUPDATE.mjs': slowly(seen) }
  const acknowledged: string[] = []
  let posted = 0
  let handledInTime = 0
  for (let round = 0; round < rounds; round++) {
    // A slow machine needs more than the default to answer what was on its way.
    const receiver = await startReceiver({ dataDir, handlers, env: { SHUTDOWN_GRACE: '60s' } })
    await until('the dispatcher runs', () => receiver.logged('handler loaded').length > 0)
    const load = startLoad(receiver.url, { from: posted + 1 })
    const enough = 30 + random(200)
    await until('it is under load', () => load.acknowledged().length >= enough)
    receiver.child.kill('SIGTERM')
    await until('stopping', () => receiver.logged('stopping').length === 1)
    await load.stop()
    // With 1 it would say that the grace was not enough.
    expect(await receiver.exited).toEqual({ code: 0, signal: null })
    posted += load.total()
    acknowledged.push(...load.acknowledged())
    expect([...load.statuses()].filter((status) => status !== 200 && status !== 0)).toEqual([])
    handledInTime = readRecorded(seen).length
  }

  const journalled = (await readJournal(dataDir)).map((event) => event.object)
  const { lost, doubled } = lostOrDoubled(acknowledged, journalled)
  const unacknowledged = journalled.length - acknowledged.length
  const last = await startReceiver({ dataDir, handlers })
  await until('all handled', () => new Set(readRecorded(seen).map(({ id }) => id)).size === journalled.length)
  await last.stop()
  const runs = readRecorded(seen).length
  // What `npm run test:crash` is run for: the figures.
  process.stdout.write(
    `SIGTERM: ${acknowledged.length} acknowledged over ${rounds} stops, ${lost.length} lost, ${doubled.length} journalled twice, ` +
      `${unacknowledged} journalled though not acknowledged, ${journalled.length - handledInTime} waited for the next start at the end, ` +
      `${runs - journalled.length} handled twice\n`,
  )
  expect({ lost, doubled, unacknowledged }).toEqual({ lost: [], doubled: [], unacknowledged: 0 })
  expect(runs).toBe(journalled.length)
  expect(acknowledged.length).toBeGreaterThan(20 * rounds)
})
