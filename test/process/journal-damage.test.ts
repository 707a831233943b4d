import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { listSegments } from '../../src/journal/segments.ts'
import { startAlertTarget } from '../support/alert-target.ts'
import { envOf, jsonLines, runCli } from '../support/cli.ts'
import { readValue } from '../support/exposition.ts'
import { dealBody, readRecorded, recorder, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

/** A stopped receiver with twenty deals in its newest segment, none of them handled, of which `damage` spoils some. */
async function damaged(damage: (lines: Buffer[]) => void) {
  const first = await startReceiver({ env: { DISPATCHER: 'off' } })
  for (let id = 1; id <= 20; id++) expect((await first.post(dealBody(id))).status).toBe(200)
  await first.stop()
  const { dataDir } = first
  const events = await first.journal()
  const [path = ''] = (await listSegments(dataDir)).map((segment) => segment.path)
  const lines = (readFileSync(path, 'utf8').match(/.*\n/g) ?? []).map((line) => Buffer.from(line))
  damage(lines)
  writeFileSync(path, Buffer.concat(lines))
  const seen = join(temporaryFolder('seen'), 'seen')
  const offsetOf = (index: number) => lines.slice(0, index).reduce((sum, { length }) => sum + length, 0)
  return {
    dataDir,
    path,
    offsetOf,
    handlers: { 'one.mjs': recorder(seen) },
    idOf: (deal: number) => events[deal - 1]?.id,
    handled: () => readRecorded(seen).map(({ object }) => Number(object?.slice('deal:'.length))),
  }
}

const dealsBut = (...missing: number[]) =>
  Array.from({ length: 20 }, (_, index) => index + 1).filter((id) => !missing.includes(id))

test('a NUL in the newest segment costs its event, which is named everywhere, and none behind it', async () => {
  const { dataDir, handlers, handled, idOf, offsetOf } = await damaged((lines) => lines[5]?.fill(0, 100, 101))
  const target = await startAlertTarget()
  const receiver = await startReceiver({ dataDir, handlers, env: { ALERT_URL: target.url } })
  await until('handled', () => handled().length === 19)
  expect(handled()).toEqual(dealsBut(6))
  const place = { segment: 1, offset: offsetOf(5), events: [idOf(6)] }
  await expect.poll(() => receiver.logged('a line of the journal is no event; skipped')).toMatchObject([place])
  const named = expect.stringContaining(`segment 1, byte ${place.offset} (event ${idOf(6)})`)
  await expect.poll(receiver.readyz).toMatchObject({ status: 'degraded', damage: named })
  expect(await target.got('journal_damaged')).toMatchObject({ text: named, details: { lines: 1 } })
  expect(readValue(await receiver.metrics(), 'b24_journal_damaged_lines_total')).toBe(1)
  const env = envOf(receiver)
  for (const command of ['status', 'doctor']) expect((await runCli({ env }, command)).stdout).toContain(`${idOf(6)}`)
  const { code, stdout } = await runCli({ env }, 'verify')
  expect([code, stdout]).toEqual([1, expect.stringContaining(`:${place.offset}: holds NUL bytes`)])
  expect(stdout).toContain(`event ${idOf(6)}`)
})

test('where only the newline between two events is damaged, import of the segment brings both back, once', async () => {
  const { dataDir, path, handlers, handled } = await damaged((lines) => lines[5]?.writeUInt8(0x2a, lines[5].length - 1))
  const receiver = await startReceiver({ dataDir, handlers })
  await until('handled', () => handled().length === 18)
  expect(handled()).toEqual(dealsBut(6, 7))
  const env = envOf(receiver)
  const { stdout } = await runCli({ env }, 'import', path, '--json')
  expect(jsonLines(stdout)).toEqual([{ found: 20, known: 18, imported: 2 }])
  await until('handled', () => handled().length === 20)
  expect(handled().toSorted((a, b) => a - b)).toEqual(dealsBut())
})

test('what was cut comes back with the command that the log names', async () => {
  const { dataDir, handlers, handled, idOf } = await damaged((lines) => {
    // As an earlier version would have cut it: the whole lines of the end, behind bytes that are none.
    const last = lines.splice(-2)
    lines.push(Buffer.concat([Buffer.alloc(300), last[0]?.subarray(0, -1) ?? Buffer.alloc(0)]))
    lines.push(Buffer.concat([Buffer.alloc(300), last[1] ?? Buffer.alloc(0)]))
  })
  const receiver = await startReceiver({ dataDir, handlers })
  await until('handled', () => handled().length === 18)
  const cut = await until('it is told', () => receiver.logged('the end of a segment was cut')[0])
  expect(cut).toMatchObject({ events: [idOf(19), idOf(20)] })
  const [program, ...words] = String(cut['to_bring_back']).split(' ')
  expect(program).toBe('b24-receiver')
  expect((await runCli({ env: envOf(receiver) }, ...words)).stdout).toContain('2 imported')
  await until('handled', () => handled().length === 20)
  expect(handled()).toEqual(dealsBut())
})
