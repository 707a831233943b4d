import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { basename } from 'node:path'
import { expect, test } from 'vitest'
import { findLines, overwrite } from '../../../src/journal/erase.ts'
import { createSegment } from '../../../src/journal/segments.ts'
import { temporaryFolder } from '../../support/receiver.ts'

const line = (id: string, object: string, name: string) =>
  `${JSON.stringify({ level: 30, time: '2026-11-23T08:00:00.000Z', id, event: 'E', object, data: { name }, auth: { member_id: 'm' }, remote: '', msg: `E ${object}` })}\n`
const mine = line('a', 'contact:17', 'Erika Müller "quoted"')
const others = [line('b', 'contact:18', 'x'), line('c', 'contact:170', '"object":"contact:17"')]
const target = { object: 'contact:17', member: undefined, before: Number.MAX_SAFE_INTEGER }

async function segmentOf(text: string) {
  const dataDir = temporaryFolder('data')
  const { path } = await createSegment(dataDir, 1, new Date())
  writeFileSync(path, text)
  return { dataDir, path }
}

test('a line that was overwritten up to any byte is overwritten to its end', async () => {
  const { dataDir, path } = await segmentOf(others.join(mine))
  const { overwrites, events, places } = await findLines(dataDir, target)
  expect([events, places, overwrites.length]).toEqual([['a'], [{ segment: 1, offset: others[0]?.length }], 1])
  const before = readFileSync(path)
  await overwrite(dataDir, overwrites)
  const after = readFileSync(path)
  expect(after.includes('Erika')).toBe(false)
  expect(
    after
      .toString()
      .split('\n')
      .map((one, at) => at === 1 || `${one}\n`),
  ).toEqual([others[0], true, others[1], '\n'])
  for (let cut = 0; cut <= before.length; cut++) {
    writeFileSync(path, Buffer.concat([after.subarray(0, cut), before.subarray(cut)]))
    await overwrite(dataDir, overwrites)
    expect(readFileSync(path).equals(after)).toBe(true)
  }
})

test('where the file is gone, shorter or holds another event by then, nothing is written', async () => {
  const { dataDir, path } = await segmentOf(mine)
  const { overwrites } = await findLines(dataDir, target)
  const stranger = mine.replace('"id":"a"', '"id":"z"')
  writeFileSync(path, stranger)
  await overwrite(dataDir, overwrites)
  expect(readFileSync(path, 'utf8')).toBe(stranger)
  truncateSync(path, 20)
  await overwrite(dataDir, overwrites)
  expect(readFileSync(path, 'utf8')).toBe(stranger.slice(0, 20))
  rmSync(path)
  await overwrite(dataDir, overwrites)
  expect(basename(path)).toMatch(/^0{11}1-/)
})

test('a damaged line that names the object is reported and stays, and half a line at the end stays', async () => {
  const damaged = mine.replace('"data":', '"data";')
  const { dataDir, path } = await segmentOf(`${damaged}${mine.slice(0, -20)}`)
  const found = await findLines(dataDir, target)
  expect(found).toMatchObject({ overwrites: [], damaged: [`${path}:0`] })
  await createSegment(dataDir, 2, new Date())
  const sealed = await findLines(dataDir, target)
  const rest = { offset: Buffer.byteLength(damaged), length: Buffer.byteLength(mine.slice(0, -20)) }
  expect(sealed.overwrites).toEqual([{ file: basename(path), ...rest }])
})
