import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { listSegments } from '../../src/journal/segments.ts'
import { blocksOf, root, tableOf } from '../support/docs.ts'
import { dealBody, readSeen, recorder, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

const page = 'docs/operations.md'

test('the files it names are those of a data folder, and its queries say what is there', async () => {
  const receiver = await startReceiver({
    handlers: {
      'ONCRMDEALUPDATE.mjs': `import { FinalError } from 'bitrix24-webhook-receiver'
export default ({ object }) => {
  if (object === 'deal:2') throw new FinalError('no such deal')
  if (object === 'deal:3') throw new Error('not now')
}`,
    },
  })
  for (const id of [1, 2, 3]) await receiver.post(dealBody(id))
  await until('handled', () => receiver.logged('handled').length === 1)
  await until('dead', () => receiver.logged('failed for good: this delivery is dead').length === 1)
  await until('waiting', () => receiver.logged('failed, will be tried again').length === 1)

  const named = tableOf(page, 'in `DATA_DIR`', 'what').flatMap((cells) => [
    ...cells.join(' ').matchAll(/`(dispatch\.db|events\.ndjson|receiver\.lock|dispatcher\.lock)/g),
  ])
  const there = readdirSync(receiver.dataDir)
  expect(there).toEqual(expect.arrayContaining(named.map(([, name]) => name)))
  expect(
    there.filter(
      (name) =>
        !/^(dispatch\.db(-wal|-shm)?|events\.ndjson|(receiver|dispatcher)\.lock(-journal)?|journal)$/.test(name),
    ),
  ).toEqual([])

  const db = new DatabaseSync(join(receiver.dataDir, 'dispatch.db'), { readOnly: true })
  const queries = blocksOf(page).flatMap(({ text }) => [...text.matchAll(/dispatch\.db (['"])(SELECT .*)\1$/gm)])
  const [position, states, waiting, postponed, dead, ...more] = queries.map(([, , query = '']) =>
    db.prepare(query).all(),
  )
  db.close()
  expect(more).toEqual([])
  expect(position).toEqual([{ segment: 1 }])
  expect(states).toHaveLength(3)
  expect(postponed).toEqual([])
  expect(waiting).toMatchObject([{ handler: 'ONCRMDEALUPDATE', attempts: 1, error: 'Error: not now' }])
  expect(dead).toMatchObject([{ handler: 'ONCRMDEALUPDATE', attempts: 1, error: 'FinalError: no such deal' }])
})

test('the messages it explains are messages of the source', () => {
  const source = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => readFileSync(join(root, 'src', name), 'utf8'))
    .join('\n')
  const messages = tableOf(page, '`msg`', 'level', 'what to do').map(([message = '']) => message.replaceAll('`', ''))
  expect(messages.filter((message) => !source.includes(`'${message}'`))).toEqual([])
})

test('a segment that was followed may be deleted, and what it said is neither handled again nor missed', async () => {
  const seen = join(temporaryFolder('seen'), 'seen')
  const handlers = { 'ONCRMDEALUPDATE.mjs': recorder(seen) }
  const first = await startReceiver({ handlers })
  await first.post(dealBody(1))
  await until('handled', () => first.logged('handled').length === 1)
  await first.stop()
  const second = await startReceiver({ dataDir: first.dataDir, handlers })
  await second.post(dealBody(2))
  await until('handled', () => second.logged('handled').length === 1)
  await second.stop()
  const [followed] = await listSegments(first.dataDir)
  rmSync(followed?.path ?? '')
  const third = await startReceiver({ dataDir: first.dataDir, handlers })
  await third.post(dealBody(3))
  await until('handled', () => third.logged('handled').length === 1)
  expect(readSeen(seen).map(({ object }) => object)).toEqual(['deal:1', 'deal:2', 'deal:3'])
})
