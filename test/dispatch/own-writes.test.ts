import { openOwnWrites } from '../../src/dispatch/own-writes.ts'
import { openSqliteQueue, queuePath } from '../../src/dispatch/sqlite-queue.ts'
import { describeOwnWrites } from '../support/own-writes-contract.ts'
import { temporaryFolder } from '../support/receiver.ts'

async function openStore(now: () => number) {
  const path = queuePath(temporaryFolder('own-writes'))
  await openSqliteQueue({ path }).close()
  return () => openOwnWrites({ path, now })
}

describeOwnWrites('sqlite', openStore, true)
