import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { describe, expect, test } from 'vitest'
import { knownHandlers, openSqliteQueue, queuePath, settleFirstStart } from '../../../../src/queue/sqlite/queue.ts'
import { deliveryOf, describeQueue, eventOf, here, want } from '../queue-contract.ts'
import { temporaryFolder } from '../../../support/receiver.ts'

describeQueue('sqlite', (now) => {
  const path = queuePath(temporaryFolder('queue'))
  return { queue: openSqliteQueue({ path, now }), reopen: () => openSqliteQueue({ path, now }) }
})

describe('the file', () => {
  /** As the first version made it; never to be changed. */
  const version1 = `
    CREATE TABLE position (one INTEGER PRIMARY KEY CHECK (one = 1), segment INTEGER NOT NULL, offset INTEGER NOT NULL) STRICT;
    CREATE TABLE delivery (
      key INTEGER PRIMARY KEY AUTOINCREMENT,
      event_id TEXT NOT NULL,
      handler TEXT NOT NULL,
      lane TEXT,
      event TEXT,
      state TEXT NOT NULL CHECK (state IN ('blocked', 'ready', 'running', 'waiting', 'done', 'dead')),
      attempts INTEGER NOT NULL DEFAULT 0,
      created_at INTEGER NOT NULL,
      due INTEGER,
      error TEXT,
      UNIQUE (event_id, handler)
    ) STRICT;
    PRAGMA user_version = 1`

  function fileOfVersion1() {
    const dataDir = temporaryFolder('queue')
    const db = new DatabaseSync(queuePath(dataDir))
    db.exec(version1)
    db.exec('INSERT INTO position VALUES (1, 7, 4711)')
    const insert = db.prepare(
      'INSERT INTO delivery (event_id, handler, lane, event, state, attempts, created_at, due, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)',
    )
    const lane = (object: string) => JSON.stringify(['one', object])
    const put = (id: number, object: string, state: string, attempts = 0, due: number | null = null) =>
      insert.run(
        String(id),
        'h',
        lane(object),
        state === 'done' ? null : JSON.stringify(eventOf(id, object)),
        state,
        attempts,
        1_000,
        due,
        attempts > 0 ? 'it failed' : null,
      )
    put(1, 'deal:1', 'done', 1)
    put(2, 'deal:1', 'ready')
    put(3, 'deal:1', 'blocked')
    put(4, 'deal:2', 'waiting', 3, 9_000)
    put(5, 'deal:2', 'blocked')
    put(6, 'deal:3', 'dead', 9)
    put(7, 'deal:4', 'running', 2)
    db.close()
    return dataDir
  }

  test('of version 1 is migrated: position, order, attempts, retries, what was done and what is dead stay', async () => {
    const dataDir = fileOfVersion1()
    let now = 5_000
    const queue = openSqliteQueue({ path: queuePath(dataDir), now: () => now })
    expect(await queue.position()).toEqual({ segment: 7, offset: 4711 })
    expect(await queue.recover()).toMatchObject({ event: { id: '7' }, attempt: 2, spentMs: 0 })
    const ids = async () => (await queue.claim([want()], 10)).map(({ event }) => event.id)
    expect(await ids()).toEqual(['2'])
    expect(await queue.nextDue()).toBe(9_000)
    now = 9_000
    const [retried] = await queue.claim([want()], 10)
    expect(retried).toMatchObject({ event: { id: '4' }, attempt: 4, coalesced: 1 })
    if (retried) await queue.done(retried)
    expect(await ids()).toEqual(['5'])
    // What was done before is not done again when the journal is read again.
    await queue.add([deliveryOf(eventOf(1, 'deal:1')), deliveryOf(eventOf(6, 'deal:3'))], here)
    expect(await ids()).toEqual([])
  })

  test('of version 1 is migrated: its handlers are known, also before that, so that an empty folder is no accident', async () => {
    const dataDir = fileOfVersion1()
    expect(knownHandlers(dataDir)).toEqual(['h'])
    const queue = openSqliteQueue({ path: queuePath(dataDir) })
    expect(await queue.handlers()).toEqual(new Map([['h', 5]]))
    expect(knownHandlers(dataDir)).toEqual(['h'])
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
  test('settles the position on disk, in the database itself and not only beside it', async () => {
    const dataDir = temporaryFolder('queue')
    settleFirstStart(dataDir, true)
    const copy = queuePath(temporaryFolder('copy'))
    copyFileSync(queuePath(dataDir), copy)
    expect(await openSqliteQueue({ path: copy }).position()).toEqual({ segment: 0, offset: 0 })
  })

  test('that was killed half-way is made good by the next', async () => {
    const dataDir = temporaryFolder('queue')
    await openSqliteQueue({ path: queuePath(dataDir) }).close()
    settleFirstStart(dataDir, true)
    expect(await openSqliteQueue({ path: queuePath(dataDir) }).position()).toEqual({ segment: 0, offset: 0 })
  })

  test('is not held up by a file that cannot be used: that is for the dispatcher to say', () => {
    const dataDir = temporaryFolder('queue')
    writeFileSync(queuePath(dataDir), 'this is no database, but long enough to be taken for one'.repeat(20))
    settleFirstStart(dataDir, true)
    expect(() => openSqliteQueue({ path: queuePath(dataDir) })).toThrow('not a database')
  })

  test('is none where the journal holds events', async () => {
    const dataDir = temporaryFolder('queue')
    settleFirstStart(dataDir, false)
    expect(() => readFileSync(queuePath(dataDir))).toThrow('ENOENT')
    const queue = openSqliteQueue({ path: queuePath(dataDir) })
    await queue.add([], { segment: 3, offset: 14 })
    settleFirstStart(dataDir, false)
    expect(await queue.position()).toEqual({ segment: 3, offset: 14 })
  })

  test('on an empty journal begins at its start, whatever another journal left, and keeps what is owed', async () => {
    const dataDir = temporaryFolder('queue')
    const queue = openSqliteQueue({ path: queuePath(dataDir) })
    await queue.add([deliveryOf(eventOf(1))], { segment: 3, offset: 14 })
    settleFirstStart(dataDir, true)
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
    while (await queue.recover());
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
