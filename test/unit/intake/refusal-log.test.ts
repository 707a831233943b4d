import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Refusal } from '../../../src/intake/refusal.ts'
import { createRefusalLog, type RefusalLog } from '../../../src/intake/refusal-log.ts'
import { createLines, type LogLine } from '../../support/intake.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

const minute = 60_000
const wrongToken = (domain?: string) => new Refusal('invalid_application_token', { domain })
const started = (
  ...secrets: string[]
): { logRefusal: RefusalLog['write']; counts: RefusalLog['counts']; lines: LogLine[] } => {
  const { log, lines } = createLines()
  const { write, counts } = createRefusalLog({ log, secrets: () => secrets })
  return { logRefusal: write, counts, lines }
}

test('a refusal is logged at warn with its code, its details and where it came from', () => {
  const { logRefusal, lines } = started()
  logRefusal(new Refusal('malformed_form', { size: 7 }), { remote: '203.0.113.7' })
  expect(lines).toEqual([
    expect.objectContaining({ level: 40, code: 'malformed_form', size: 7, remote: '203.0.113.7', msg: 'refused' }),
  ])
})

test('a token too short to be looked for, such as 777 or crm, takes nothing out of the line', () => {
  const { logRefusal, lines } = started('1', 'crm', '777')
  logRefusal(new Refusal('malformed_form', { event: 'ONCRMDEALUPDATE', domain: 'crm.example.com' }), {
    remote: '127.0.0.1',
  })
  expect(lines).toEqual([
    expect.objectContaining({
      ...{ code: 'malformed_form', event: 'ONCRMDEALUPDATE', domain: 'crm.example.com', remote: '127.0.0.1' },
    }),
  ])
})

test('ten lines of a code are logged within a minute, then how many more there were', () => {
  const { logRefusal, lines } = started()
  for (let index = 0; index < 25; index++) logRefusal(new Refusal('not_found'))
  logRefusal(new Refusal('malformed_form'))
  expect(lines.map(({ code }) => code)).toEqual([...Array(10).fill('not_found'), 'malformed_form'])
  vi.advanceTimersByTime(minute)
  expect(lines.slice(11)).toEqual([expect.objectContaining({ level: 40, code: 'not_found', count: 15 })])
})

test('wrong tokens of one domain are one line within a minute, then how many more there were', () => {
  const { logRefusal, lines } = started()
  for (const domain of ['a.com', 'b.com', 'a.com', undefined, 'a.com', undefined]) logRefusal(wrongToken(domain))
  expect(lines.map(({ domain }) => domain)).toEqual(['a.com', 'b.com', undefined])
  vi.advanceTimersByTime(minute)
  expect(lines.slice(3)).toEqual([expect.objectContaining({ code: 'invalid_application_token', count: 3 })])
})

test('posts from one wrong address are one line within a minute, and hide no other address', () => {
  const { logRefusal, lines } = started()
  const from = (remote: string) => logRefusal(new Refusal('source_not_allowed'), { remote })
  for (let index = 0; index < 20; index++) from('198.51.100.1')
  from('203.0.113.7')
  expect(lines.map(({ remote }) => remote)).toEqual(['198.51.100.1', '203.0.113.7'])
  vi.advanceTimersByTime(minute)
  expect(lines.slice(2)).toEqual([expect.objectContaining({ code: 'source_not_allowed', count: 19 })])
})

test('strangers who make up domains cannot fill the log', () => {
  const { logRefusal, lines } = started()
  for (let index = 0; index < 1000; index++) logRefusal(wrongToken(`${index}.com`))
  expect(lines).toHaveLength(10)
})

test('every refusal is counted by its code, also one that is not logged', () => {
  const { logRefusal, counts } = started()
  for (let index = 0; index < 25; index++) logRefusal(wrongToken('a.com'))
  logRefusal(new Refusal('malformed_form'))
  expect(counts).toEqual(
    new Map([
      ['invalid_application_token', 25],
      ['malformed_form', 1],
    ]),
  )
})

test('after a minute lines are logged again, and a quiet minute says nothing', () => {
  const { logRefusal, lines } = started()
  logRefusal(wrongToken('a.com'))
  vi.advanceTimersByTime(minute - 1)
  logRefusal(wrongToken('a.com'))
  expect(lines).toHaveLength(1)
  vi.advanceTimersByTime(1)
  logRefusal(wrongToken('a.com'))
  expect(lines.map(({ count }) => count)).toEqual([undefined, 1, undefined])
  vi.advanceTimersByTime(10 * minute)
  expect(lines).toHaveLength(3)
  logRefusal(wrongToken('a.com'))
  expect(lines).toHaveLength(4)
})

test('a log with nothing more to say does not keep the process alive', () => {
  const { logRefusal } = started()
  logRefusal(new Refusal('not_found'))
  expect(vi.getTimerCount()).toBe(1)
  vi.advanceTimersByTime(minute)
  expect(vi.getTimerCount()).toBe(0)
})

test('what came from a stranger is logged in 80 characters', () => {
  const { logRefusal, lines } = started()
  logRefusal(wrongToken('d'.repeat(1_000_000)))
  expect(String(lines[0]?.['domain'])).toMatch(/^d{80}…$/)
})

describe('a secret of ours that stands in a refused post', () => {
  const path = '/robot/0123456789abcdef0123456789abcdef'
  const encoded = Buffer.from(path).toString('hex').replaceAll(/../g, '%$&')

  test.each([
    ['alone', path],
    ['its last part', path.slice(7)],
    ['in an address', `https://hooks.example.com${path}?a=1`],
    ['in capitals', path.toUpperCase()],
    ['encoded as a component', encodeURIComponent(path)],
    ['encoded sign by sign', encoded],
    ['encoded twice', encodeURIComponent(encoded)],
    ['encoded three times', encodeURIComponent(encodeURIComponent(encoded))],
    ['where the line would end', `${'x'.repeat(75)}${path}`],
    ['where the line would end, encoded', `${'x'.repeat(75)}${encoded}`],
    ['beside a percent sign that encodes nothing', `100%zz${path}`],
  ])('is removed: %s', (_, text) => {
    const { logRefusal, lines } = started(path, path.slice(7))
    logRefusal(new Refusal('not_found', { event: text, compared_with: [text] }), { path: text, remote: '203.0.113.7' })
    expect(lines).toMatchObject([
      { event: '[removed]', compared_with: ['[removed]'], path: '[removed]', remote: '203.0.113.7' },
    ])
  })

  test('is removed also where it is not ASCII', () => {
    const { logRefusal, lines } = started('секретсекретсекрет')
    logRefusal(wrongToken(`x${encodeURIComponent('секретсекретсекрет')}`))
    expect(lines).toMatchObject([{ domain: '[removed]' }])
  })
})
