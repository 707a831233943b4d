import { join } from 'node:path'
import { expect, test } from 'vitest'
import { findCommand, helpOf, loadCommands } from '../../src/cli/commands.ts'
import { exitCodes } from '../../src/cli/exit-codes.ts'
import { blocksOf, pages, readText, root, tableOf } from '../support/docs.ts'

const commands = await loadCommands()
const page = 'docs/cli.md'
const mark = '<!-- What follows is written by `npx vitest run test/docs/cli.test.ts -u`. -->\n'

test('docs/cli.md holds the help of every command', async () => {
  const [prose, ...rest] = readText(page).split(mark)
  expect(rest).toHaveLength(1)
  const sections = commands.map(({ name, help }) => `\n## ${name}\n\n\`\`\`text\n${help}\`\`\`\n`)
  await expect(`${prose}${mark}${sections.join('')}`).toMatchFileSnapshot(join(root, page))
})

test('the exit codes are those of the source, in the help too', () => {
  const codes = tableOf(page, 'exit code', 'means').map(([code]) => Number(code))
  expect(codes).toEqual(Object.values(exitCodes))
  const help = helpOf(commands)
  for (const code of codes) expect(help).toMatch(new RegExp(`\\b${code}\\b`))
})

test.each(commands.map((command) => [command.name, command] as const))(
  '%s: its examples begin with its name, and its help fits a terminal',
  (name, command) => {
    const [, examples = ''] = command.help.split('\nExamples\n')
    const lines = examples.trimEnd().split('\n')
    expect(lines.length).toBeGreaterThan(0)
    expect(lines.filter((line) => !line.startsWith(`  b24-receiver ${name}`))).toEqual([])
    expect(command.help.split('\n').filter((line) => line.length > 130)).toEqual([])
  },
)

test('a command is found by its name', async () => {
  for (const command of commands) expect(await findCommand(command.name)).toBe(command)
})

test.each(pages)('%s names only commands that there are, and never a bare npx', (name) => {
  const shown = [...readText(name).matchAll(/b24-receiver ([a-z]+)\b/g)].map(([, command = '']) => command)
  const known = [...commands.map((command) => command.name), 'help']
  expect(shown.filter((command) => !known.includes(command))).toEqual([])
  const text = blocksOf(name)
    .map((block) => block.text)
    .join('\n')
  expect(text).not.toMatch(/npx b24-receiver/)
})
