import { openSqliteOwnChanges } from '../../../src/queue/sqlite/own-changes.ts'
import { openSqliteQueue, queuePath } from '../../../src/queue/sqlite/queue.ts'
import { temporaryFolder } from '../../support/receiver.ts'
import { describeOwnChanges } from './own-changes-contract.ts'

async function openStore(now: () => number) {
  const path = queuePath(temporaryFolder('own-writes'))
  await openSqliteQueue({ path }).close()
  return () => openSqliteOwnChanges({ path, now })
}

describeOwnChanges('sqlite', openStore, true)
