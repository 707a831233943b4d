import { randomUUID, randomUUIDv7 } from 'node:crypto'
import { expect, test } from 'vitest'
import { createIdSet } from '../../../src/journal/id-set.ts'
import { idOf } from '../../support/journal.ts'
import { fc } from '../../support/random.ts'

test('of any ids it knows those that it was given, as a Set does', () => {
  // Alike in all but one place, so that they meet in the table.
  const alike = fc.nat(300).map((number) => idOf(number).replace('7000', number % 2 ? '7000' : '7001'))
  fc.assert(
    fc.property(fc.array(fc.oneof(alike, fc.uuid()), { maxLength: 500 }), (ids) => {
      const set = createIdSet()
      const model = new Set<string>()
      for (const id of ids) {
        expect(set.add(id)).toBe(!model.has(id))
        model.add(id)
      }
    }),
  )
})

test.each([
  ['as the receiver makes them', () => randomUUIDv7()],
  ['random ones', () => randomUUID()],
  ['one after the other', (number: number) => idOf(number)],
])('it grows with them: %s', (_, make) => {
  const ids = Array.from({ length: 200_000 }, (_, number) => make(number))
  const set = createIdSet()
  expect(ids.filter((id) => !set.add(id))).toEqual([])
  expect(ids.filter((id) => set.add(id))).toEqual([])
})
