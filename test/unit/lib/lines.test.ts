import { expect, test } from 'vitest'
import { readLines } from '../../../src/lib/lines.ts'
import { fc } from '../../support/random.ts'

async function* piecesOf(bytes: Buffer, ...sizes: number[]) {
  let from = 0
  for (const size of [...sizes, bytes.length]) {
    yield bytes.subarray(from, from + size)
    from += size
  }
}

async function textsOf(pieces: AsyncIterable<Buffer>, longest: number): Promise<(string | undefined)[]> {
  const texts: (string | undefined)[] = []
  for await (const line of readLines(pieces, longest)) texts.push(line?.toString())
  return texts
}

test('however the bytes come in pieces, the lines are the same, and only a newline ends one', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.constantFrom('', 'a', 'é\u2028ü', 'x\ry', 'four', 'fives', 'longer')),
      fc.boolean(),
      fc.array(fc.nat(4)),
      async (lines, isEnded, sizes) => {
        const text = lines.join('\n') + (isEnded ? '\n' : '')
        const whole = text === '' ? [] : text.split('\n').slice(0, text.endsWith('\n') ? -1 : undefined)
        const expected = whole.map((line) => (Buffer.byteLength(line) > 7 ? undefined : line))
        const found = await textsOf(piecesOf(Buffer.from(text), ...sizes), 7)
        expect(found).toEqual(expected)
      },
    ),
  )
})

test('one that is too long is reported as soon as that is known, once, and what follows it is read', async () => {
  let given = 0
  async function* endless() {
    for (; given < 10; given++) yield Buffer.from('xxxx')
    yield Buffer.from('\nnext\n')
  }
  const lines = readLines(endless(), 7)
  expect(await lines.next()).toEqual({ done: false, value: undefined })
  expect(given).toBe(1)
  expect((await lines.next()).value?.toString()).toBe('next')
  expect(await lines.next()).toEqual({ done: true, value: undefined })
})
