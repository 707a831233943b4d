import fc from 'fast-check'
import qs from 'qs'
import { expect, test } from 'vitest'
import { httpBuildQuery, type PhpArray } from '../../../src/lib/php-query.ts'

const ofBatch = { keepsNull: true, isRfc3986: true }

test('a query of a batch is one that qs would write, with true as 1', () => {
  const json = fc.dictionary(fc.string({ unit: 'binary' }), fc.jsonValue({ stringUnit: 'binary', maxDepth: 4 }))
  const filter = (_: string, value: unknown) => (typeof value === 'boolean' ? Number(value) : value)
  fc.assert(
    fc.property(json, (params) => {
      const data: PhpArray = JSON.parse(JSON.stringify(params))
      expect(httpBuildQuery(data, ofBatch)).toBe(qs.stringify(data, { filter }))
    }),
    { numRuns: 300 },
  )
})

test('a query of a batch tells null from a missing value, and encodes as RFC 3986', () => {
  const data = { id: 7, fields: { TITLE: "a b~*'", SUM: null, TAGS: [], OK: true } }
  expect(httpBuildQuery(data, ofBatch)).toBe('id=7&fields%5BTITLE%5D=a%20b~%2A%27&fields%5BSUM%5D=&fields%5BOK%5D=1')
  expect(httpBuildQuery(data)).toBe('id=7&fields%5BTITLE%5D=a+b%7E%2A%27&fields%5BOK%5D=1')
})
