import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { jsonLines, runCli } from '../../support/cli.ts'
import { writeJournal } from '../../support/journal.ts'
import { harmless } from '../../support/terminal.ts'

test('a command that there is not exits with 64, whatever its name', async () => {
  for (const name of ['nothing', 'constructor', '__proto__', '../cli/tail']) {
    const { code, stderr } = await runCli({}, name)
    expect(code).toBe(64)
    expect(stderr).toBe(`b24-receiver: there is no command "${name}"; see b24-receiver --help\n`)
  }
})

test('what came from the wire steers no terminal, and is JSON all the same', async () => {
  const [object, data] = ['deal:\u009b2J\u202e', { '\u007f': '\u001b[2J\u0085\u2066\u200f\u2028' }]
  const env = { DATA_DIR: await writeJournal([{ event: 'ON\u061c\nX\u001b[8m', object, data }]) }
  const said = async (...args: string[]) => (await runCli({ env }, ...args)).stdout
  const [event] = jsonLines(await said('tail', '--json'))
  expect(event).toMatchObject({ object, data })
  const commands = [
    ...[['tail'], ['events'], ['show', String(event?.['id'])], ['status']],
    ...[
      ['tail', '--json'],
      ['events', '--json'],
      ['status', '--json'],
      ['tail', '--object', object],
    ],
  ]
  for (const args of commands) {
    const text = await said(...args)
    expect(text, args.join(' ')).toContain('deal:\\u009b2J\\u202e')
    expect(text, args.join(' ')).toMatch(harmless)
    expect(text, args.join(' ')).not.toMatch(/^X/m)
  }
})

test('an event of an older journal, whose line holds such characters as they are, is found by its object', async () => {
  const object = 'deal:\u202e7'
  const dataDir = await writeJournal([{ object }, {}])
  const file = join(dataDir, 'events.ndjson')
  writeFileSync(file, readFileSync(file, 'utf8').replaceAll('\\u202e', '\u202e'))
  const { stdout } = await runCli({ env: { DATA_DIR: dataDir } }, 'tail', '--json', '--object', object)
  expect(jsonLines(stdout)).toEqual([expect.objectContaining({ object })])
})
