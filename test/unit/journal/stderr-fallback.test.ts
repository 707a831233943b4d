import { closeSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { createStderrFallback } from '../../../src/journal/stderr-fallback.ts'
import { openPipe } from '../../support/pipe.ts'
import { temporaryFolder, until } from '../../support/receiver.ts'

/** Lines as the journal makes them; `more` makes them long. */
const lines = (count: number, from = 0, more = '') =>
  Array.from({ length: count }, (_, index) => `${JSON.stringify({ id: from + index, more })}\n`)

const ids = (text: string): number[] =>
  text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line).id)

test('what the journal refused stands on its output as one line of JSON each when it resolves', async () => {
  const path = join(temporaryFolder('last'), 'stderr')
  const fd = openSync(path, 'a')
  const stderrFallback = createStderrFallback(fd)
  await stderrFallback(lines(3))
  expect(ids(readFileSync(path, 'utf8'))).toEqual([0, 1, 2])
  await Promise.all([stderrFallback(lines(500, 3)), stderrFallback(lines(500, 503)), stderrFallback(lines(1, 1003))])
  expect(ids(readFileSync(path, 'utf8'))).toEqual(lines(1004).map((_, id) => id))
  closeSync(fd)
})

test('all that may wait for the disk may be refused at once, and none of it is dropped', async () => {
  const pipe = openPipe()
  const stderrFallback = createStderrFallback(pipe.openWriter())
  const done = Promise.all([stderrFallback(lines(10_000, 0, 'x'.repeat(400))), stderrFallback(lines(10_000, 10_000))])
  await until('all came', () => pipe.read().endsWith(lines(1, 19_999).join('')))
  await done
  expect(ids(pipe.read())).toEqual(lines(20_000).map((_, id) => id))
})

test('a reader who stalls delays nothing for long, and later gets whole lines of what was kept for him', async () => {
  const pipe = openPipe()
  const stderrFallback = createStderrFallback(pipe.openWriter())
  // More than the pipe holds: the write cannot end. That these resolve is the test.
  const batches = [lines(1000, 0, 'x'.repeat(100)), lines(10, 1000), lines(10, 1010)]
  await Promise.all(batches.map((batch) => stderrFallback(batch)))
  await until('all of it came', () => pipe.read().endsWith(lines(1, 1019).join('')))
  expect(ids(pipe.read())).toEqual(lines(1020).map((_, id) => id))
  await stderrFallback(lines(1, 1020))
  expect(ids(pipe.read()).at(-1)).toBe(1020)
})

test('an output that is closed, or whose reader is gone, holds and breaks nothing', async () => {
  // No process has so many files.
  await expect(createStderrFallback(1_000_000)(lines(3))).resolves.toBeUndefined()
  const pipe = openPipe()
  const stderrFallback = createStderrFallback(pipe.openWriter())
  pipe.closeReader()
  for (let time = 0; time < 30; time++) await expect(stderrFallback(lines(1000))).resolves.toBeUndefined()
})
