import { readFileSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { openSqliteQueue, queuePath } from '../../../../src/queue/sqlite/queue.ts'
import { temporaryFolder } from '../../../support/receiver.ts'
import { deliveryOf, eventOf, here, want } from '../queue-contract.ts'

/** A queue with as many running deliveries, each of an object of its own. */
async function running(count: number) {
  const path = queuePath(temporaryFolder('ends'))
  const queue = openSqliteQueue({ path })
  const events = Array.from({ length: count }, (_, id) => eventOf(id, `deal:${id}`))
  await queue.add(
    events.map((event) => deliveryOf(event)),
    here,
  )
  return { path, queue, claimed: await queue.claim([want('h', { limit: count })], count) }
}

/** How often the file was committed since the last checkpoint: the last page of a commit has the size of the file. */
function commitsOf(path: string): number {
  const wal = readFileSync(`${path}-wal`)
  const frame = 24 + wal.readUInt32BE(8)
  let commits = 0
  for (let at = 32; at + frame <= wal.length; at += frame) if (wal.readUInt32BE(at + 4) > 0) commits++
  return commits
}

function statesOf(path: string): unknown[] {
  const db = new DatabaseSync(path, { readOnly: true })
  const states = db.prepare('SELECT state FROM delivery ORDER BY key').all()
  db.close()
  return states.map(({ state }) => state)
}

test('ends of one turn are one commit, and each call resolves when its end can be read', async () => {
  const { path, queue, claimed } = await running(8)
  const before = commitsOf(path)
  await Promise.all(claimed.map(async (delivery) => queue.done(delivery)))
  expect(commitsOf(path)).toBe(before + 1)
  expect(statesOf(path)).toEqual(Array(8).fill('done'))
  await queue.close()
})

test('an end of a delivery that is not running fails alone, and the others of its turn are stored', async () => {
  const { path, queue, claimed } = await running(3)
  const [one, two, three] = claimed as [(typeof claimed)[0], (typeof claimed)[0], (typeof claimed)[0]]
  await queue.done(two)
  const ends = [queue.done(one), queue.retry(two, { due: Date.now(), error: 'again' }), queue.dead(three, 'no')].map(
    async (end) => end,
  )
  const results = await Promise.allSettled(ends)
  expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
  expect(results[1]).toMatchObject({
    reason: { message: expect.stringMatching(/^the delivery 2 of 1 to h is not running/) },
  })
  expect(statesOf(path)).toEqual(['done', 'done', 'dead'])
  await queue.close()
})

test('a file that cannot be written fails every end of the turn, and none is stored', async () => {
  const { path, queue, claimed } = await running(2)
  const other = new DatabaseSync(path)
  other.exec(
    "CREATE TRIGGER full BEFORE UPDATE ON delivery WHEN NEW.key = 2 BEGIN SELECT RAISE(FAIL, 'disk full'); END",
  )
  const results = await Promise.allSettled(claimed.map(async (delivery) => queue.done(delivery)))
  expect(results).toMatchObject([
    { status: 'rejected', reason: { message: 'disk full' } },
    { status: 'rejected', reason: { message: 'disk full' } },
  ])
  expect(statesOf(path)).toEqual(['running', 'running'])
  other.close()
  await queue.close()
})

test('an end that waits for its turn is stored when the queue is closed', async () => {
  const { path, queue, claimed } = await running(1)
  const ended = Promise.all(claimed.map(async (delivery) => queue.done(delivery)))
  await queue.close()
  await ended
  expect(statesOf(path)).toEqual(['done'])
})
