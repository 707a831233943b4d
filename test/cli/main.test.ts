import { expect, test } from 'vitest'
import { jsonLines, runCli } from '../support/cli.ts'
import { writeJournal } from '../support/journal.ts'

test('a command that there is not exits with 64, whatever its name', async () => {
  for (const name of ['nothing', 'constructor', '__proto__', '../cli/tail']) {
    const { code, stderr } = await runCli({}, name)
    expect(code).toBe(64)
    expect(stderr).toBe(`b24-receiver: there is no command "${name}"; see b24-receiver --help\n`)
  }
})

test('what came from the wire moves no cursor, and is JSON all the same', async () => {
  const [object, data] = ['deal:\u009b2J', { '\u007f': '\u001b[2J\u0085' }]
  const env = { DATA_DIR: await writeJournal([{ object, data }]) }
  const said = async (...args: string[]) => (await runCli({ env }, ...args)).stdout
  const [event] = jsonLines(await said('tail', '--json'))
  expect(event).toMatchObject({ object, data })
  const commands = [['tail'], ['events'], ['show', String(event?.['id'])], ['tail', '--json'], ['events', '--json']]
  for (const args of commands) {
    const text = await said(...args)
    expect(text, args.join(' ')).toContain('deal:\\u009b2J')
    expect(text, args.join(' ')).toMatch(/^(\P{Cc}|\n)*$/u)
  }
})
