import { join } from 'node:path'
import { expect, test } from 'vitest'
import { openSqliteQueue } from '../../../../src/queue/sqlite/queue.ts'
import { temporaryFolder } from '../../../support/receiver.ts'
import { checkQueue } from '../queue-model.ts'

/** `npm run test:crash` does not run this one; ROUNDS=25 makes it long all the same. */
const rounds = Number(process.env['ROUNDS'] ?? 2)

test('whatever is delivered, fails or crashes, each object is in order and alone, and nothing is lost', async () => {
  const folder = temporaryFolder('queue')
  let files = 0
  const stores = await checkQueue((now) => {
    const path = join(folder, `${++files}.db`)
    return () => openSqliteQueue({ path, now })
  }, rounds * 50)
  expect(stores).toBeGreaterThanOrEqual(rounds * 50)
})
