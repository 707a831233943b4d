import { expect, test } from 'vitest'
import { eraseLine } from '../../../src/journal/erased-line.ts'
import { checkLine } from '../../../src/journal/line-check.ts'
import { fc } from '../../support/random.ts'

const base = {
  level: 30,
  time: '2026-11-23T08:00:00.000Z',
  id: '019aaf6e-1c2b-7a10-8f5e-3b6c1d2e4f50',
  event: 'ONCRMCONTACTUPDATE',
  object: 'contact:17',
}
const end = { remote: '192.0.2.1', msg: 'ONCRMCONTACTUPDATE contact:17' }

test('whatever an event holds, its erased line is as long, an event, marked, and holds none of it', () => {
  const holds = fc.record(
    { data: fc.jsonValue(), query: fc.jsonValue(), document_id: fc.array(fc.string()), other: fc.string() },
    { requiredKeys: ['data'] },
  )
  fc.assert(
    fc.property(holds, fc.string(), (held, user) => {
      const line = { ...base, auth: { member_id: 'm', user_name: user }, ...held, ...end }
      const bytes = Buffer.from(JSON.stringify(line))
      const erased = eraseLine(line, bytes.length)
      expect(erased.length).toBe(bytes.length)
      expect(checkLine(erased)).toEqual({ id: base.id, time: base.time })
      const { msg, ...rest } = JSON.parse(erased.toString())
      expect([end.msg, '']).toContain(msg)
      expect(rest).toEqual({ ...base, auth: { member_id: 'm' }, remote: end.remote, erased: true })
      expect(eraseLine(JSON.parse(erased.toString()), bytes.length).equals(erased)).toBe(true)
    }),
  )
})

test('the shortest event has room for the mark', () => {
  const line = { ...base, data: '', object: 'x:1', remote: '', msg: `${base.event} x:1` }
  const { length } = Buffer.from(JSON.stringify(line))
  expect(JSON.parse(eraseLine(line, length).toString())).toMatchObject({ erased: true, object: 'x:1' })
})
