import { join } from 'node:path'
import { parseEnv } from 'node:util'
import { expect, test } from 'vitest'
import { readConfig } from '../../src/config/config.ts'
import { type Setting, settings } from '../../src/config/settings.ts'
import { readText, root, withTable } from '../support/docs.ts'

const rows = Object.values<Setting<unknown>>(settings)
const example = '.env.example'
const mark = '# What follows is written by `npx vitest run test/docs/settings.test.ts -u`.\n'

test('the table in docs/settings.md is that of settings.ts', async () => {
  const page = 'docs/settings.md'
  const cells = rows.flatMap(({ name, description, heading, isSecret, requiredFrom, default: standard }) => [
    ...(heading === undefined ? [] : [[`**${heading}**`, '', '']]),
    [
      isSecret ? `\`${name}\` or \`${name}_FILE\`` : `\`${name}\``,
      requiredFrom !== undefined ? 'required' : standard === undefined ? '–' : `\`${standard}\``,
      description,
    ],
  ])
  const written = withTable(page, ['variable', 'default', 'meaning'], cells)
  await expect(written).toMatchFileSnapshot(join(root, page))
})

test('.env.example has every setting of settings.ts', async () => {
  const [prose, ...rest] = readText(example).split(mark)
  expect(rest).toHaveLength(1)
  const lines = rows.map(
    ({ name, description, heading, isSecret, requiredFrom, default: standard = '' }) =>
      `${heading === undefined ? '' : `\n## ${heading}\n`}# ${description}\n` +
      `${requiredFrom === undefined ? '#' : ''}${name}=${standard}\n` +
      `${isSecret ? `# or a file that holds it, for Docker secrets; not both\n#${name}_FILE=\n` : ''}`,
  )
  await expect(`${prose}${mark}${lines.join('')}`).toMatchFileSnapshot(join(root, example))
})

test('.env.example has every variable of compose.yaml', () => {
  const ofCompose = [...readText('compose.yaml').matchAll(/\$\{([A-Z0-9_]+)/g)].map(([, name]) => name)
  const byHand = [...(readText(example).split(mark)[0] ?? '').matchAll(/^#?([A-Z][A-Z0-9_]*)=/gm)]
  expect(ofCompose.length).toBeGreaterThan(0)
  expect(byHand.map(([, name]) => name)).toEqual(ofCompose)
})

test('.env.example with a token, and all of its lines in effect, is the default configuration', () => {
  const env = parseEnv(
    readText(example)
      .replace(/^#([A-Z])/gm, '$1')
      .replace('TOKEN=', 'TOKEN=some-token'),
  )
  expect(readConfig(env)).toEqual(readConfig({ B24_APPLICATION_TOKEN: 'some-token' }))
})
