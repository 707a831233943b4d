import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { describe, expect, test } from 'vitest'
import { initFirstStart, knownHandlers, openSqliteQueue, queuePath } from '../../../../src/queue/sqlite/queue.ts'
import { temporaryFolder } from '../../../support/receiver.ts'
import {
  deliveryOf,
  describeQueue,
  eventOf,
  here,
  known,
  runEveryState,
  runsOfEveryState,
  want,
} from '../queue-contract.ts'

describeQueue('sqlite', (now) => {
  const path = queuePath(temporaryFolder('queue'))
  return { queue: openSqliteQueue({ path, now }), reopen: () => openSqliteQueue({ path, now }) }
})

describe('the file', () => {
  /** As the first version made it; never to be changed. */
  /** See the first line of the fixture. */
  function fileOfVersion10() {
    const dataDir = temporaryFolder('queue')
    const db = new DatabaseSync(queuePath(dataDir))
    db.exec(readFileSync(new URL('../../../fixtures/dispatch-10.sql', import.meta.url), 'utf8'))
    db.close()
    return dataDir
  }

  test('of version 10 is migrated: nothing is lost, nothing that ended runs again, and the order stays', async () => {
    const path = queuePath(fileOfVersion10())
    let now = 1_700_000_001_000
    const queue = openSqliteQueue({ path, now: () => now })
    const ran = await runEveryState(queue, (ms) => {
      now += ms
    })
    expect(ran).toEqual(runsOfEveryState)
    await queue.close()
    const [table] = new DatabaseSync(path).prepare("SELECT sql FROM sqlite_master WHERE name = 'delivery'").all()
    expect(String(table?.['sql'])).not.toMatch(/lane|suspect|settle/)
  })

  test('of version 10 and a new one have the same tables', () => {
    const tables = (path: string) => {
      void openSqliteQueue({ path }).close()
      const db = new DatabaseSync(path)
      const names = db
        .prepare("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name")
        .all()
      const columns = (name: unknown) =>
        db
          .prepare(
            `SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_info('${String(name)}') ORDER BY name`,
          )
          .all()
      return names.map((one) => ({ ...one, columns: columns(one['name']) }))
    }
    expect(tables(queuePath(fileOfVersion10()))).toEqual(tables(queuePath(temporaryFolder('queue'))))
  })

  test('of version 10 is migrated: its handlers are known, so that an empty folder is no accident', async () => {
    const dataDir = fileOfVersion10()
    expect(knownHandlers(dataDir)).toEqual(['h', 'quiet', 'watch'])
    const queue = openSqliteQueue({ path: queuePath(dataDir) })
    expect(await queue.handlers()).toMatchObject(
      [known('h'), known('quiet', { debounce: 5_000 }), known('watch')].map(({ name, events, order, debounce }) => ({
        ...{ name, events, order, debounce },
      })),
    )
    expect(knownHandlers(dataDir)).toEqual(['h', 'quiet', 'watch'])
  })

  test('of a newer version is refused and left as it is', () => {
    const path = queuePath(temporaryFolder('queue'))
    new DatabaseSync(path).exec('PRAGMA user_version = 99; CREATE TABLE newer (x)')
    expect(() => openSqliteQueue({ path })).toThrow(/newer version of the receiver \(99; this one knows \d+\)/)
    expect(new DatabaseSync(path).prepare('SELECT name FROM sqlite_master').all()).toEqual([{ name: 'newer' }])
  })

  test('is opened again and again without a change', async () => {
    const path = queuePath(temporaryFolder('queue'))
    for (let start = 0; start < 3; start++) {
      const queue = openSqliteQueue({ path })
      await queue.add([deliveryOf(eventOf(start))], here)
      await queue.close()
    }
    expect(await openSqliteQueue({ path }).claim([want()], 10)).toHaveLength(3)
  })

  test('that is not there knows no handlers and is not made by asking', () => {
    const dataDir = temporaryFolder('queue')
    expect(knownHandlers(dataDir)).toEqual([])
    expect(() => readFileSync(queuePath(dataDir))).toThrow('ENOENT')
  })
})

describe('the first start', () => {
  test('keeps the position on disk, in the database itself and not only beside it', async () => {
    const dataDir = temporaryFolder('queue')
    initFirstStart(dataDir, true)
    const copy = queuePath(temporaryFolder('copy'))
    copyFileSync(queuePath(dataDir), copy)
    expect(await openSqliteQueue({ path: copy }).position()).toEqual({ segment: 0, offset: 0 })
  })

  test('that was killed half-way is made good by the next', async () => {
    const dataDir = temporaryFolder('queue')
    await openSqliteQueue({ path: queuePath(dataDir) }).close()
    initFirstStart(dataDir, true)
    expect(await openSqliteQueue({ path: queuePath(dataDir) }).position()).toEqual({ segment: 0, offset: 0 })
  })

  test('does not fail on a file that cannot be used: the dispatcher reports that', () => {
    const dataDir = temporaryFolder('queue')
    writeFileSync(queuePath(dataDir), 'this is no database, but long enough to be taken for one'.repeat(20))
    initFirstStart(dataDir, true)
    expect(() => openSqliteQueue({ path: queuePath(dataDir) })).toThrow('not a database')
  })

  test('is none where the journal holds events', async () => {
    const dataDir = temporaryFolder('queue')
    initFirstStart(dataDir, false)
    expect(() => readFileSync(queuePath(dataDir))).toThrow('ENOENT')
    const queue = openSqliteQueue({ path: queuePath(dataDir) })
    await queue.add([], { segment: 3, offset: 14 })
    initFirstStart(dataDir, false)
    expect(await queue.position()).toEqual({ segment: 3, offset: 14 })
  })

  test('on an empty journal begins at its start, whatever another journal left, and keeps what is pending', async () => {
    const dataDir = temporaryFolder('queue')
    const queue = openSqliteQueue({ path: queuePath(dataDir) })
    await queue.add([deliveryOf(eventOf(1))], { segment: 3, offset: 14 })
    initFirstStart(dataDir, true)
    expect(await queue.position()).toEqual({ segment: 0, offset: 0 })
    expect(await queue.claim([want()], 10)).toHaveLength(1)
  })
})

describe('rows that were revived without their event', () => {
  /** As the version before the triggers left it, after handlers that were done were charged with a failure of the queue. */
  function damagedFile() {
    const dataDir = temporaryFolder('queue')
    const db = new DatabaseSync(queuePath(dataDir))
    db.exec(readFileSync(new URL('../../../fixtures/dispatch-7.sql', import.meta.url), 'utf8'))
    db.close()
    return dataDir
  }

  test('are claimed as unreadable, so that the journal is asked; what waited behind goes on', async () => {
    const queue = openSqliteQueue({ path: queuePath(damagedFile()), now: () => 5_000 })
    while (await queue.reclaim());
    const seen: string[] = []
    for (let some = await queue.claim([want()], 10); some.length > 0; some = await queue.claim([want()], 10))
      for (const delivery of some) {
        seen.push(`${delivery.event.id} ${delivery.unreadable === undefined ? 'whole' : 'unreadable'}`)
        await queue.done(delivery)
      }
    expect(seen.toSorted()).toEqual(['1 unreadable', '2 whole', '3 whole', '4 unreadable', '6 unreadable'])
    expect(await queue.state()).toMatchObject({ ready: 0, waiting: 0, blocked: 0, dead: 0 })
    await queue.close()
  })

  test('cannot be made any more', () => {
    const dataDir = damagedFile()
    void openSqliteQueue({ path: queuePath(dataDir) }).close()
    const db = new DatabaseSync(queuePath(dataDir))
    expect(() => db.exec("UPDATE delivery SET state = 'dead' WHERE state = 'done'")).toThrow('does not begin again')
    expect(() => db.exec("UPDATE delivery SET event = NULL WHERE state = 'blocked'")).toThrow('needs its event')
    db.exec("UPDATE delivery SET state = 'dead', event = NULL WHERE state = 'waiting'")
    expect(() => db.exec("UPDATE delivery SET state = 'ready' WHERE state = 'dead'")).toThrow('needs its event')
    db.close()
  })
})
