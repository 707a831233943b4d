import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { canTrace } from '../support/faults.ts'
import { lostOrDoubled, startLoad } from '../support/load.ts'
import { startReceiver, temporaryFolder, until } from '../support/receiver.ts'
import { checkTrace, traceOptions } from '../support/trace.ts'

/** `npm run test:crash` sets 25; the suite runs a short form. */
const posts = 400 * Number(process.env['ROUNDS'] ?? 1)

test.skipIf(!canTrace)(
  'under load no 200 leaves on a socket before its line was written and then fsynced (strace)',
  async () => {
    const trace = join(temporaryFolder('trace'), 'trace')
    const receiver = await startReceiver({
      under: ['strace', '-D', ...traceOptions, '-o', trace],
      // Some dozens of segments.
      env: { DISPATCHER: 'off', SEGMENT_SIZE: '4KB' },
    })
    const load = startLoad(receiver.url, { clients: 32 })
    await until('enough posts', () => load.total() >= posts)
    await load.stop()
    expect(await receiver.stop()).toEqual({ code: 0, signal: null })
    // strace writes that down when it is known to us already.
    const end = new RegExp(`^${receiver.child.pid} .*exited with 0`, 'm')
    await until('the trace is whole', () => end.test(readFileSync(trace, 'utf8')))

    const report = checkTrace(readFileSync(trace, 'utf8'))
    process.stdout.write(
      `strace: ${report.acknowledged} answers of 200, ${report.written} lines, ${report.fsyncs} fsyncs ` +
        `(${(report.written / report.fsyncs).toFixed(1)} lines each), ${report.violations.length} answered too early\n`,
    )
    expect(report.violations).toEqual([])
    expect(report.acknowledged).toBe(load.acknowledged().length)
    expect(report.written).toBe(report.acknowledged)
    expect(report.fsyncs).toBeLessThan(report.written / 2)
    const found = (await receiver.journal()).map(({ object }) => object)
    expect(lostOrDoubled(load.acknowledged(), found)).toEqual({ lost: [], doubled: [] })
  },
)

describe('the checker of traces', () => {
  const path = '/data/journal/000000000001-2026-11-23.ndjson'
  const file = `21<${path}>`
  const make = `101 1.0 openat(AT_FDCWD</data>, "${path}", O_WRONLY|O_CREAT|O_EXCL, 0666) = ${file}`
  const name = '101 1.0 fsync(22</data/journal>) = 0'
  const post = (socket: number, deal: number) =>
    String.raw`100 1.0 read(${socket}<socket:[${socket}]>, "POST /bitrix24 HTTP/1.1\r\n\r\nevent=E&data%5BFIELDS%5D%5BID%5D=${deal}&ts=1", 65536) = 99`
  const line = (deal: number) => String.raw`{\"event\":\"E\",\"object\":\"deal:${deal}\",\"NAME\":\"\320\220\\n\"}\n`
  const write = (text: string, result = 999) => `101 1.0 write(${file}, "${text}", 999) = ${result}`
  const sync = `102 1.0 fdatasync(${file}) = 0`
  const ok = (socket: number) =>
    String.raw`100 1.0 writev(${socket}<socket:[${socket}]>, [{iov_base="HTTP/1.1 200 OK\r\n\r\n", iov_len=19}, {iov_base="{}", iov_len=2}], 2) = 21`
  const check = (...calls: string[]) => checkTrace([make, name, ...calls].join('\n'))

  test('finds nothing where every event is synced before its answer', () => {
    expect(check(post(30, 1), post(31, 2), write(line(1) + line(2)), sync, ok(31), ok(30))).toEqual({
      acknowledged: 2,
      written: 2,
      fsyncs: 1,
      violations: [],
    })
  })

  test.for([
    ['without a write', [post(30, 1), sync, ok(30)]],
    ['without a sync', [post(30, 1), write(line(1)), ok(30)]],
    ['before its sync', [post(30, 1), write(line(1)), ok(30), sync]],
    [
      'after a sync that failed',
      [post(30, 1), write(line(1)), `102 fdatasync(${file}) = -1 EIO (Input/output error)`, ok(30)],
    ],
    [
      'after the sync of another file',
      [post(30, 1), write(line(1)), '102 fdatasync(9</data/receiver.lock>) = 0', ok(30)],
    ],
    ['after a write that took half of it', [post(30, 1), write(line(1), 20), sync, ok(30)]],
    [
      'after a sync that began before the write ended',
      [
        post(30, 1),
        `101 write(${file}, "${line(1)}", 999 <unfinished ...>`,
        `102 fdatasync(${file} <unfinished ...>`,
        '101 <... write resumed>) = 999',
        '102 <... fdatasync resumed>) = 0',
        ok(30),
      ],
    ],
    [
      'while its sync lasts',
      [
        post(30, 1),
        write(line(1)),
        `102 fdatasync(${file} <unfinished ...>`,
        `${ok(30).slice(0, -6)} <unfinished ...>`,
        '102 <... fdatasync resumed>) = 0',
        '100 <... writev resumed>) = 21',
      ],
    ],
    ['after the sync of another event', [post(30, 1), post(31, 2), write(line(2)), sync, write(line(1)), ok(30)]],
    ['twice for one line', [post(30, 1), post(31, 2), write(line(1)), sync, ok(30), ok(31)]],
  ] as const)('finds a 200 %s', ([, calls]) => {
    expect(check(...calls).violations.length).toBeGreaterThan(0)
  })

  test.for([
    ['was not synced after it was made', [name, make]],
    [
      'was synced while it was made',
      ['99 fsync(22</data/journal> <unfinished ...>', make, '99 <... fsync resumed>) = 0'],
    ],
    ['could not be synced', [make, '101 fsync(22</data/journal>) = -1 EIO (Input/output error)']],
  ] as const)('finds a 200 for a line in a segment whose folder %s', ([, calls]) => {
    const rest = [post(30, 1), write(line(1)), sync, ok(30)]
    expect(checkTrace([...calls, ...rest].join('\n')).violations.length).toBeGreaterThan(0)
  })

  test('follows calls that others interrupt', () => {
    const report = check(
      `100 read(30<socket:[30]>,  <unfinished ...>`,
      `101 write(${file}, "${line(9)}", 999 <unfinished ...>`,
      String.raw`100 <... read resumed>"POST / HTTP/1.1\r\n\r\n%5BID%5D=9", 65536) = 33`,
      '101 <... write resumed>) = 999',
      `102 fdatasync(${file} <unfinished ...>`,
      post(31, 10),
      '102 <... fdatasync resumed>) = 0',
      ok(30),
    )
    expect(report).toEqual({ acknowledged: 1, written: 1, fsyncs: 1, violations: [] })
  })

  test('does not take the answer to a GET, or a refusal, for an acknowledgement', () => {
    const get = String.raw`100 read(30<socket:[30]>, "GET /healthz HTTP/1.1\r\n\r\n", 65536) = 25`
    const no = String.raw`100 write(31<socket:[31]>, "HTTP/1.1 503 Service Unavailable\r\n\r\n", 99) = 99`
    expect(check(get, ok(30), post(31, 1), no)).toMatchObject({ acknowledged: 0, violations: [] })
  })
})
