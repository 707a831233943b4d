import { spawn, spawnSync } from 'node:child_process'
import { pino } from 'pino'
import { expect, onTestFinished, test } from 'vitest'
import { openJournal } from '../../src/journal/journal.ts'
import { listSegments, stableName } from '../../src/journal/segments.ts'
import { temporaryFolder, until } from '../support/receiver.ts'

/** `npm run test:crash` sets ROUNDS. */
const events = process.env['ROUNDS'] ? 100_000 : 12_000
const batch = 50

/** busybox has a `tail` of its own, which opens the name again once a second. */
const isGnu = spawnSync('tail', ['--version'], { encoding: 'utf8' }).stdout?.includes('GNU coreutils')

test.skipIf(!isGnu)(
  'GNU tail -F on the stable name misses no line and shows none twice, over many segments and a restart',
  async () => {
    const dataDir = temporaryFolder('tail')
    // Some ten lines to a kilobyte: a new segment every 200 lines.
    const parts = { dataDir, segmentSize: 20 * 1024, log: pino({ level: 'silent' }) }
    let journal = await openJournal(parts)
    const tail = spawn('tail', ['-n', '+1', '-F', stableName(dataDir)])
    onTestFinished(() => void tail.kill('SIGKILL'))
    const shown: number[] = []
    let rest = ''
    let said = ''
    tail.stdout.setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) shown.push(Number(JSON.parse(line).id))
    })
    tail.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text
    })

    for (let id = 0; id < events; id += batch) {
      const ids = Array.from({ length: batch }, (_, index) => String(id + index))
      await Promise.all(ids.map((one) => journal.append({ id: one, event: 'E', remote: '203.0.113.7' })))
      // A name cannot show what came and went between two looks: no follower of a name may lag by a whole segment. Of 64 MB
      // that is seconds; of these little ones it is waited for.
      await until(`tail shows ${id}`, () => shown.length > id - 2 * batch)
      if (id === events / 2) {
        await journal.close()
        journal = await openJournal(parts)
      }
    }
    await until(
      () => `tail shows all\n${said}`,
      () => shown.length >= events,
    )
    await journal.close()
    expect(shown).toEqual(Array.from({ length: events }, (_, id) => id))
    const segments = (await listSegments(dataDir)).length
    expect(segments).toBeGreaterThan(events / 300)
    expect(said).not.toMatch(/truncated|inaccessible|untailable/)
    process.stdout.write(`tail -F: ${shown.length} lines over ${segments} segments, none missed, none twice\n`)
  },
)
