import { join } from 'node:path'
import { expect, test } from 'vitest'
import { type Entry, entries } from '../../src/events/catalogue.ts'
import { fieldsOf, isOneOf, type Shape } from '../../src/events/shape.ts'
import { shapes } from '../../src/events/shapes.ts'
import { readText, root } from '../support/docs.ts'

const page = 'docs/events.md'
const mark = '<!-- What follows is written by `npx vitest run test/docs/events.test.ts -u`. -->\n'

test('the tables of docs/events.md are those of the catalogue', async () => {
  const [prose, ...rest] = readText(page).split(mark)
  expect(rest).toHaveLength(1)
  await expect(`${prose}${mark}${tables()}`).toMatchFileSnapshot(join(root, page))
})

function tables(): string {
  return `
## Events

| event | object | \`data\` | webhook | scope |
|---|---|---|---|---|
${entries.map(rowOf).join('\n')}

## Shapes of \`data\`

\`\`\`ts
${Object.entries(shapes)
  .map(([name, shape]) => `type ${name} = ${typeOf(shape, '')}`)
  .join('\n')}
\`\`\`
`
}

function rowOf({ name, page: url, object, shapeName, webhook, scope }: Entry): string {
  const may = webhook === undefined ? '?' : webhook ? 'yes' : 'no'
  const outdated = url.includes('/outdated/') ? ', outdated' : ''
  return `| [\`${name}\`](${url})${outdated} | ${object ? objectOf(object) : '–'} | \`${shapeName}\` | ${may} | \`${scope}\` |`
}

/** `item:<FIELDS.ENTITY_TYPE_ID>:<FIELDS.ID>` */
function objectOf({ kind, ids }: NonNullable<Entry['object']>): string {
  const places = ids.map((parts) => parts.map((keys) => `:<${keys.length === 0 ? 'data' : keys.join('.')}>`).join(''))
  return places.map((place) => `\`${kind}${place}\``).join(' or ')
}

const leaves = { text: 'string', anything: 'FormValue', undefined: "'undefined'", nothing: 'undefined' } as const

function typeOf(shape: Shape, indent: string): string {
  if (typeof shape === 'string') return leaves[shape]
  if (isOneOf(shape)) return shape.map((one) => typeOf(one, indent)).join(' | ')
  const { '[]': item, ...named } = shape
  if (item !== undefined) return `${typeOf(item, indent)}[]`
  const fields = fieldsOf(named).map(
    ({ key, isOptional, shape: inner }) =>
      `${key === '*' ? '[key: string]' : key}${isOptional ? '?' : ''}: ${typeOf(inner, `${indent}  `)}`,
  )
  const line = `{ ${fields.join('; ')} }`
  if (line.length < 80 && !line.includes('\n')) return line
  return `{\n${fields.map((field) => `${indent}  ${field}\n`).join('')}${indent}}`
}
