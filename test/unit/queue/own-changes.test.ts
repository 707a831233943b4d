import { openOwnWrites } from '../../../src/queue/own-changes.ts'
import { openSqliteQueue, queuePath } from '../../../src/queue/sqlite/queue.ts'
import { describeOwnWrites } from './own-changes-contract.ts'
import { temporaryFolder } from '../../support/receiver.ts'

async function openStore(now: () => number) {
  const path = queuePath(temporaryFolder('own-writes'))
  await openSqliteQueue({ path }).close()
  return () => openOwnWrites({ path, now })
}

describeOwnWrites('sqlite', openStore, true)
