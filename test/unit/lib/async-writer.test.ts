import { constants, writeSync } from 'node:fs'
import { expect, test } from 'vitest'
import { createOutput } from '../../../src/lib/async-writer.ts'
import { openPipe } from '../../support/pipe.ts'
import { until } from '../../support/receiver.ts'

const lines = (count: number, mark: string, length = 100) =>
  Array.from({ length: count }, (_, index) => `${`${mark}${index}`.padEnd(length - 1, '.')}\n`)

test('without a reader lines are kept up to a limit, whole and in order, and the rest is counted', async () => {
  const pipe = openPipe()
  let drained = 0
  const output = createOutput({ fd: pipe.openWriter(), maxBacklogBytes: 300_000, onDrained: () => drained++ })
  const kept = lines(20_000, 'a').filter((line) => output.write(line))
  expect(kept).toEqual(lines(3000, 'a'))
  expect(drained).toBe(0)
  await until('it is read to the end', () => pipe.read().length >= 300_000 && drained === 1)
  expect(output.write('after\n')).toBe(true)
  await output.flush()
  expect(pipe.read()).toBe(`${kept.join('')}after\n`)
})

test('what is given at once may be longer than the limit where nothing waits', async () => {
  const pipe = openPipe()
  const output = createOutput({ fd: pipe.openWriter(), maxBacklogBytes: 1000 })
  expect(output.write(...lines(1000, 'a'))).toBe(true)
  expect(output.write(...lines(1, 'b'))).toBe(false)
  await until('it is read to the end', () => pipe.read().length === 100_000)
})

test('a flush waits for what was written before and not for what comes after', async () => {
  const pipe = openPipe()
  const output = createOutput({ fd: pipe.openWriter(), maxBacklogBytes: 1e6 })
  output.write(...lines(10, 'a'))
  const first = output.flush()
  output.write(...lines(5000, 'b'))
  await first
  expect(pipe.read()).toContain(lines(10, 'a').join(''))
  const second = output.flush().then(() => 'all')
  await expect(Promise.race([second, Promise.resolve('not yet')])).resolves.toBe('not yet')
  await until('it is read to the end', () => pipe.read().length === 501_000)
  await expect(second).resolves.toBe('all')
})

test.for([
  ['blocks', 0],
  ['does not block', constants.O_NONBLOCK],
] as const)('two on one full pipe that %s: every line comes, and comes whole', async ([, flags]) => {
  const pipe = openPipe()
  const fill = Buffer.from(`${' '.repeat(4095)}\n`)
  try {
    const writer = pipe.openWriter(constants.O_NONBLOCK)
    for (;;) writeSync(writer, fill)
  } catch {
    // EAGAIN: it is full.
  }
  const outputs = ['a', 'b'].map((mark) => {
    const output = createOutput({ fd: pipe.openWriter(flags), maxBacklogBytes: 1e6 })
    output.write(...lines(1000, mark, 300))
    return output
  })
  await until('all came', () => pipe.read().trimStart().length >= 600_000)
  for (const output of outputs) await output.flush()
  const came = pipe.read().trimStart().split('\n').slice(0, -1)
  for (const mark of ['a', 'b'])
    expect(came.filter((line) => line.startsWith(mark))).toEqual(
      lines(1000, mark, 300).map((line) => line.slice(0, -1)),
    )
  expect(came).toHaveLength(2000)
})

test('a reader who is gone holds nothing', async () => {
  const pipe = openPipe()
  const output = createOutput({ fd: pipe.openWriter(), maxBacklogBytes: 1e5 })
  pipe.closeReader()
  for (let time = 0; time < 30; time++) {
    expect(output.write(...lines(900, 'a'))).toBe(true)
    await output.flush()
  }
})
