import { expect, test } from 'vitest'
import { parseExposition } from './exposition.ts'

const head = (name: string, type = 'gauge') => `# HELP ${name} What it is.\n# TYPE ${name} ${type}\n`

test('what the format allows is read', () => {
  const text = `${head('a')}a 1\na{x="y"} -2.5e-7\na{x="\\"\\\\\\n",z="}"} NaN\n${head('b', 'counter')}`
  expect(
    parseExposition(text)
      .get('a')
      ?.samples.map(({ labels, value }) => [labels, value]),
  ).toEqual([
    [{}, 1],
    [{ x: 'y' }, -2.5e-7],
    [{ x: '"\\\n', z: '}' }, Number.NaN],
  ])
  expect(parseExposition(text).get('b')).toMatchObject({ type: 'counter', samples: [] })
})

test.for([
  ['the last line has no end', `${head('a')}a 1`],
  ['a second HELP', `${head('a')}a 1\n${head('b')}b 1\n${head('a')}a{x="y"} 1\n`],
  ['not below its metric', `${head('a')}b 1\n`],
  ['not below its metric', 'a 1\n'],
  ['a series that was there before', `${head('a')}a{x="1",y="2"} 1\na{y="2",x="1"} 1\n`],
  ['no sample', `${head('a')}a{x="1",x="2"} 1\n`],
  ['no sample', `${head('a')}a{x="""} 1\n`],
  ['no sample', `${head('a')}a one\n`],
  ['no sample', `${head('a')}\na 1\n`],
  ['no histogram', `${head('a', 'histogram')}a_bucket{le="1"} 2\na_bucket{le="+Inf"} 1\na_sum 1\na_count 1\n`],
  ['no histogram', `${head('a', 'histogram')}a_bucket{le="1"} 1\na_sum 1\na_count 1\n`],
] as const)('"%s" is said of %j', ([why, text]) => {
  expect(() => parseExposition(text)).toThrow(why)
})
