import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { pino } from 'pino'
import { expect, test } from 'vitest'
import type { Event } from '../../src/intake/event.ts'
import { openJournal } from '../../src/journal/journal.ts'
import { createSegment, listSegments, pointStableName, stableName } from '../../src/journal/segments.ts'
import { readJournal, temporaryFolder } from '../support/receiver.ts'

const log = pino({ level: 'silent' })
const event = (id: number): Event => ({ id: String(id), event: 'ONCRMDEALUPDATE', object: `deal:${id}`, remote: '::1' })

test('an event is in the journal when its append resolves', async () => {
  const dataDir = temporaryFolder('journal')
  const journal = await openJournal({ dataDir, log })
  await journal.append(event(1))
  expect((await readJournal(dataDir)).map(({ id }) => id)).toEqual(['1'])
  await journal.close()
})

test('events are kept in the order in which they were appended, however many wait together', async () => {
  const dataDir = temporaryFolder('journal')
  const journal = await openJournal({ dataDir, log })
  const ids = Array.from({ length: 2000 }, (_, index) => index)
  await Promise.all(ids.map((id) => journal.append(event(id))))
  expect((await readJournal(dataDir)).map(({ id }) => Number(id))).toEqual(ids)
  await journal.close()
})

test('a close keeps what was appended before and refuses what comes after', async () => {
  const dataDir = temporaryFolder('journal')
  const journal = await openJournal({ dataDir, log })
  const appended = [1, 2, 3].map((id) => journal.append(event(id)))
  await journal.close()
  await Promise.all(appended)
  await expect(journal.append(event(4))).rejects.toMatchObject({ code: 'journal_unavailable' })
  expect(await readJournal(dataDir)).toHaveLength(3)
})

test('the stable name is the same file as the segment being written, also when it already was', async () => {
  const dataDir = temporaryFolder('journal')
  const first = await createSegment(dataDir, 1, new Date('2026-11-23T23:59:59Z'))
  const second = await createSegment(dataDir, 2, new Date('2026-11-24T00:00:00Z'))
  for (const segment of [first, second, second, first]) {
    await pointStableName(dataDir, segment)
    expect(statSync(stableName(dataDir)).ino).toBe(statSync(segment.path).ino)
  }
  expect((await listSegments(dataDir)).map(({ path }) => path)).toEqual([
    join(dataDir, 'journal', '000000000001-2026-11-23.ndjson'),
    join(dataDir, 'journal', '000000000002-2026-11-24.ndjson'),
  ])
})

test('a line is what pino-pretty and log shippers read: level, time, message', async () => {
  const dataDir = temporaryFolder('journal')
  const journal = await openJournal({ dataDir, log })
  await journal.append({ ...event(7), data: { NAME: 'Анна\r\n"quoted"' } })
  const text = readFileSync(stableName(dataDir), 'utf8')
  expect(text.endsWith('"msg":"ONCRMDEALUPDATE deal:7"}\n')).toBe(true)
  expect(text.split('\n')).toHaveLength(2)
  expect(JSON.parse(text)).toMatchObject({ level: 30, data: { NAME: 'Анна\r\n"quoted"' } })
  await journal.close()
})
