import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { createRandom } from '../support/random.ts'
import {
  dealBody,
  type Receiver,
  readJournal,
  readRecorded,
  recorder,
  startReceiver,
  temporaryFolder,
  until,
} from '../support/receiver.ts'

/** `npm run test:crash` sets 25; the suite runs a short form. */
const rounds = Number(process.env['ROUNDS'] ?? 2)

const victims = {
  'the receiver': (receiver: Receiver) => void receiver.child.kill('SIGKILL'),
  'the dispatcher': (receiver: Receiver) => {
    const children = execFileSync('pgrep', ['-P', String(receiver.child.pid)], { encoding: 'utf8' })
    for (const pid of children.trim().split('\n')) process.kill(Number(pid), 'SIGKILL')
  },
  both: (receiver: Receiver) => receiver.killGroup('SIGKILL'),
}

test.for(Object.keys(victims) as (keyof typeof victims)[])(
  'when %s is killed under load, what was acknowledged is journalled once and handled',
  async (victim) => {
    const random = createRandom()
    const dataDir = temporaryFolder('data')
    const seen = join(temporaryFolder('seen'), 'seen')
    const handlers = { 'ONCRMDEALUPDATE.mjs': recorder(seen) }
    const acknowledged: string[] = []
    let id = 0
    for (let round = 0; round < rounds; round++) {
      const receiver = await startReceiver({ dataDir, handlers })
      await until('the dispatcher runs', () => receiver.logged('handler loaded').length > 0)
      let isLoading = true
      const clients = Array.from({ length: 16 }, async () => {
        while (isLoading) {
          const object = `deal:${++id}`
          const answer = await receiver.post(dealBody(object.slice(5))).catch(() => undefined)
          if (answer?.status === 200) acknowledged.push(object)
        }
      })
      const enough = acknowledged.length + 30 + random(200)
      await until('it is under load', () => acknowledged.length >= enough)
      // At a random moment, not a wait for a state.
      await sleep(random(20))
      victims[victim](receiver)
      await sleep(random(200))
      isLoading = false
      await Promise.all(clients)
      receiver.killGroup('SIGKILL')
      await receiver.exited
    }

    const last = await startReceiver({ dataDir, handlers })
    const handled = () => new Set(readRecorded(seen).map((event) => event.object))
    await until(`all ${acknowledged.length} handled`, () => {
      const done = handled()
      return acknowledged.every((object) => done.has(object))
    })
    await last.stop()
    const times = new Map<unknown, number>()
    for (const { object } of await readJournal(dataDir)) times.set(object, (times.get(object) ?? 0) + 1)
    const lost = acknowledged.filter((object) => !times.has(object))
    const doubled = acknowledged.filter((object) => (times.get(object) ?? 0) > 1)
    const runs = readRecorded(seen).length
    // What `npm run test:crash` is run for: the figures.
    process.stdout.write(
      `${victim}: ${acknowledged.length} acknowledged over ${rounds} kills, ${lost.length} lost, ` +
        `${doubled.length} journalled twice, ${runs - handled().size} handled twice\n`,
    )
    expect(acknowledged.length).toBeGreaterThan(20 * rounds)
    expect({ lost, doubled }).toEqual({ lost: [], doubled: [] })
  },
)
