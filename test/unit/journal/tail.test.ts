import { spawnSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { listSegments, stableName } from '../../../src/journal/segments.ts'
import { ensureWritable } from '../../../src/receiver/data-dir.ts'
import { feedJournal } from '../../support/journal.ts'
import { startReader } from '../../support/log-reader.ts'
import { temporaryFolder, until } from '../../support/receiver.ts'

/** `npm run test:crash` sets ROUNDS. */
const events = process.env['ROUNDS'] ? 100_000 : 12_000

/** busybox has a `tail` of its own, which opens the name again once a second. */
const isGnu = spawnSync('tail', ['--version'], { encoding: 'utf8' }).stdout?.includes('GNU coreutils')
const hasBusyBox = spawnSync('busybox', ['tail', '--help']).status === 0

const upTo = (count: number) => Array.from({ length: count }, (_, id) => id)

/** From the moment that the folder is there, over many segments and a restart. */
async function follow(count: number, lag: number, command: string, ...args: readonly string[]) {
  const dataDir = temporaryFolder('tail')
  await ensureWritable(dataDir)
  const tail = startReader(command, ...args, stableName(dataDir))
  await feedJournal({ dataDir, events: count, reader: { read: () => tail.ids.length, lag } })
  await until(
    () => `tail shows all\n${tail.said()}`,
    () => tail.ids.length >= count,
  )
  expect(tail.ids).toEqual(upTo(count))
  const segments = (await listSegments(dataDir)).length
  return { segments, said: tail.said() }
}

test.skipIf(!isGnu)(
  'GNU tail -F on the stable name misses no line and shows none twice, over many segments and a restart',
  async () => {
    const { segments, said } = await follow(events, 150, 'tail', '-n', '+1', '-F')
    // "cannot open": it found no file, and looks once a second for ever then.
    expect(segments).toBeGreaterThan(events / 300)
    expect(said).not.toMatch(/cannot open|truncated|inaccessible|untailable/)
    process.stdout.write(`tail -F: ${events} lines over ${segments} segments, none missed, none twice\n`)
  },
)

test.skipIf(!hasBusyBox)('BusyBox tail -F misses no line of segments that live for more than a second', async () => {
  // It looks once a second. Whatever it has shown was there then, so that no segment is over between two looks.
  const { segments } = await follow(800, 0, 'busybox', 'tail', '-n', '+1', '-F')
  expect(segments).toBeGreaterThan(4)
})
