import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { publishedLists } from '../../src/intake/published-addresses.ts'
import { listSegments } from '../../src/journal/segments.ts'
import { blocksOf, blockWith, readText, root, tableOf } from '../support/docs.ts'
import { dealBody, readRecorded, recorder, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

const page = 'docs/operations.md'

test('the files that it names are those of a data folder, and its queries return what is there', async () => {
  const receiver = await startReceiver({
    handlers: {
      'ONCRMDEALUPDATE.mjs': `import { FinalError, RetryAfter } from 'bitrix24-webhook-receiver'
export default ({ object }) => {
  if (object === 'deal:2') throw new FinalError('no such deal')
  if (object === 'deal:3') throw new RetryAfter('1h')
}`,
    },
  })
  for (const id of [1, 2, 3]) await receiver.post(dealBody(id))
  await until('handled', () => receiver.logged('handled').length === 1)
  await until('dead', () => receiver.logged('failed for good: this delivery is dead').length === 1)
  await until('waiting', () => receiver.logged('failed, will be tried again').length === 1)

  const named = tableOf(page, 'in `DATA_DIR`', 'what').flatMap((cells) => [
    ...cells
      .join(' ')
      .matchAll(/`(dispatch\.db|events\.ndjson|journal\.json|loaded\.json|receiver\.lock|dispatcher\.lock)/g),
  ])
  const there = readdirSync(receiver.dataDir)
  expect(there).toEqual(expect.arrayContaining(named.map(([, name]) => name)))
  expect(
    there.filter(
      (name) =>
        !/^(dispatch\.db(-wal|-shm)?|events\.ndjson|(journal|loaded)\.json|(receiver|dispatcher)\.lock(-journal)?|journal)$/.test(
          name,
        ),
    ),
  ).toEqual([])

  const db = new DatabaseSync(join(receiver.dataDir, 'dispatch.db'), { readOnly: true })
  const queries = blocksOf(page).flatMap(({ text }) => [...text.matchAll(/dispatch\.db (['"])(SELECT .*)\1$/gm)])
  const [position, waiting, postponed, ...more] = queries.map(([, , query = '']) => db.prepare(query).all())
  db.close()
  expect(more).toEqual([])
  expect(position).toEqual([{ segment: 1 }])
  expect(postponed).toEqual([])
  expect(waiting).toMatchObject([{ handler: 'ONCRMDEALUPDATE', attempts: 1, error: 'RetryAfter: retry after 1h' }])
})

test('the messages it explains are messages of the source', () => {
  const source = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => readFileSync(join(root, 'src', name), 'utf8'))
    .join('\n')
  const messages = tableOf(page, '`msg`', 'level', 'what to do').map(([message = '']) => message.replaceAll('`', ''))
  expect(messages.filter((message) => !source.includes(`'${message}'`))).toEqual([])
})

test('the lists of addresses that it names are those that are read', () => {
  const named = readText(page).match(/https:[^`\s]*\/webhook\/[^`\s]+/g)
  expect([...new Set(named)].toSorted()).toEqual(publishedLists.toSorted())
})

test('its command shows the addresses that the events of the journal came from', async () => {
  const receiver = await startReceiver({ env: { TRUST_PROXY: '127.0.0.1' } })
  for (const address of ['203.0.113.7', '203.0.113.7', '198.51.100.1'])
    await receiver.post(dealBody(1), { 'x-forwarded-for': address })
  const [command = ''] = blockWith(page, '"remote"').split('\n')
  const shown = execFileSync('sh', ['-c', command.replace('data/', `${receiver.dataDir}/`)], { encoding: 'utf8' })
  expect(shown).toMatch(/^ *1 "remote":"198\.51\.100\.1"\n *2 "remote":"203\.0\.113\.7"\n$/)
})

test('a segment that was read may be deleted: its events are neither handled again nor missed', async () => {
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
  const [read] = await listSegments(first.dataDir)
  rmSync(read?.path ?? '')
  const third = await startReceiver({ dataDir: first.dataDir, handlers })
  await third.post(dealBody(3))
  await until('handled', () => third.logged('handled').length === 1)
  expect(readRecorded(seen).map(({ object }) => object)).toEqual(['deal:1', 'deal:2', 'deal:3'])
})
