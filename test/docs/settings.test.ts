import { parseEnv } from 'node:util'
import { expect, test } from 'vitest'
import { readConfig, settings } from '../../src/config/config.ts'
import { readText } from '../support/docs.ts'

interface Entry {
  readonly name: string
  readonly value: string
  readonly description: string
  readonly isOff: boolean
}

const example = readText('.env.example')
const entries: Entry[] = [...example.matchAll(/^# (.*)\n(#?)([A-Z][A-Z0-9_]*)=(.*)$/gm)].map(
  ([, description = '', off = '', name = '', value = '']) => ({ name, value, description, isOff: off === '#' }),
)
const ofCompose = [...readText('compose.yaml').matchAll(/\$\{([A-Z0-9_]+)/g)].map(([, name]) => name)

test('.env.example has every setting, in the order of config.ts, and no others but those of compose.yaml', () => {
  const names = Object.entries(settings).flatMap(([name, setting]) =>
    'secret' in setting ? [name, `${name}_FILE`] : [name],
  )
  expect(entries.map(({ name }) => name)).toEqual([...names, ...ofCompose])
  // Nothing escaped the pattern above.
  expect(example.match(/^#?[A-Z][A-Z0-9_]*=/gm)).toHaveLength(entries.length)
})

test.for(Object.entries(settings))(
  '.env.example says description %s what config.ts says, and has its default',
  ([name, setting]) => {
    expect(entries.find((entry) => entry.name === name)).toEqual({
      name,
      value: setting.default ?? '',
      description: setting.description,
      isOff: setting.default !== undefined,
    })
  },
)

test('.env.example with a token, and all of its lines in effect, is the default configuration', () => {
  const env = parseEnv(example.replace(/^#([A-Z])/gm, '$1').replace('TOKEN=', 'TOKEN=some-token'))
  expect(readConfig(env)).toEqual(readConfig({ B24_APPLICATION_TOKEN: 'some-token' }))
})
