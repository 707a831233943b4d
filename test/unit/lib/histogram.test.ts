import { Histogram, Registry } from 'prom-client'
import { expect, test } from 'vitest'
import { createHistogram } from '../../../src/lib/histogram.ts'
import { fc } from '../../support/random.ts'

test('whatever it observed, a histogram says what one of prom-client says', async () => {
  const parts = { name: 'seconds', help: 'How long.', buckets: [0.001, 0.5, 1, 30] }
  await fc.assert(
    fc.asyncProperty(fc.array(fc.double({ min: 0, max: 60, noNaN: true })), async (values) => {
      const registry = new Registry()
      const theirs = new Histogram({ ...parts, registers: [registry] })
      const ours = createHistogram(parts)
      for (const value of [0, 0.001, 30, ...values]) {
        theirs.observe(value)
        ours.observe(value)
      }
      expect(ours.exposition()).toBe(await registry.metrics())
    }),
  )
})
