import { describe, expect, test } from 'vitest'
import { Refusal, refusalBody, refusals } from '../../../src/intake/refusal.ts'

/** What DESIGN.md promises to senders; a code keeps its status for good. */
const promised = {
  invalid_application_token: 403,
  malformed_form: 400,
  malformed_event: 400,
  body_too_large: 413,
  unsupported_media_type: 415,
  method_not_allowed: 405,
  not_found: 404,
  journal_unavailable: 503,
} as const

test.each(Object.entries(promised))('%s is answered with %i', (code, status) => {
  expect(Object.entries(refusals)).toContainEqual([code, expect.objectContaining({ status })])
})

test.each(Object.entries(refusals))('%s has a status of an error and says what it means', (_, { status, meaning }) => {
  expect(status).toBeGreaterThanOrEqual(400)
  expect(status).toBeLessThan(600)
  expect(meaning).toMatch(/\w/)
})

describe('a refusal', () => {
  const cause = new Error('ENOSPC: /secret/path')
  const refusal = new Refusal('journal_unavailable', { segment: 7 }, { cause })

  test('has the status of its code, its details and its cause', () => {
    expect(refusal).toBeInstanceOf(Error)
    expect(refusal).toMatchObject({ name: 'Refusal', message: 'journal_unavailable', status: 503, cause })
    expect(refusal.details).toEqual({ segment: 7 })
  })

  test('shows the sender its code and nothing else', () => {
    expect(JSON.stringify(refusalBody(refusal.code))).toBe('{"status":"error","error":"journal_unavailable"}')
  })

  test('has no details unless it is given some', () => {
    expect(new Refusal('not_found').details).toEqual({})
  })
})
