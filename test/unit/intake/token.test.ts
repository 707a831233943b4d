import { timingSafeEqual } from 'node:crypto'
import { describe, expect, test, vi } from 'vitest'
import { readClaim } from '../../../src/intake/claim.ts'
import { decodeForm } from '../../../src/intake/form.ts'
import { createTokens } from '../../../src/intake/token.ts'
import { catchRefusal } from '../../support/intake.ts'

// The real one, but it counts.
vi.mock('node:crypto', { spy: true })

const sales = { name: 'sales', value: 'salessalessalessalessalessales01' }
const support = { name: 'support', value: 'supportsupportsupportsupportsu02' }
const unnamed = { name: undefined, value: 'customofabotwhosetokenislongerthan32' }
const { check, verify } = createTokens([sales, support, unnamed])
const proof = (value: string) => `auth[application_token]=${value}`

test.each([sales, support, unnamed])('the token of $name is recognised among several', (token) => {
  expect(verify(decodeForm(`event=E&${proof(token.value)}`))).toEqual(token)
})

test('a token that is not ASCII is compared by its bytes', () => {
  const token = { name: 'cyrillic', value: 'секрет' }
  expect(createTokens([token]).verify(decodeForm(proof('%D1%81%D0%B5%D0%BA%D1%80%D0%B5%D1%82')))).toEqual(token)
  expect(catchRefusal(() => createTokens([token]).verify(decodeForm(proof('abcdef')))).details['token']).toBe('6 bytes')
})

test('every token of the same length is compared, also when the first one matched', () => {
  vi.mocked(timingSafeEqual).mockClear()
  verify(decodeForm(proof(sales.value)))
  expect(timingSafeEqual).toHaveBeenCalledTimes(2)
})

test('nothing is compared that has another length, because timingSafeEqual would throw', () => {
  vi.mocked(timingSafeEqual).mockClear()
  catchRefusal(() => verify(decodeForm(proof('short'))))
  expect(timingSafeEqual).not.toHaveBeenCalled()
})

test('with no token configured nothing passes', () => {
  expect(catchRefusal(() => createTokens([]).verify(decodeForm(proof('')))).code).toBe('invalid_application_token')
})

const right = sales.value
const wrong = right.replace('0', '9')

describe('refused as invalid_application_token', () => {
  test.each([
    ['no auth at all', 'event=E', 'none'],
    ['an auth without a token', 'auth[domain]=example.com', 'none'],
    ['a wrong token of the right length', proof(wrong), '32 bytes'],
    ['a token that is cut short', proof(right.slice(0, -1)), '31 bytes'],
    ['a token with something behind it', proof(`${right}x`), '33 bytes'],
    ['a token with a line end behind it', proof(`${right}%0A`), '33 bytes'],
    ['a token with a NUL behind it', proof(`${right}%00`), '33 bytes'],
    ['a token in upper case', proof(right.toUpperCase()), '32 bytes'],
    ['an empty token', proof(''), '0 bytes'],
    ['two tokens joined as they are configured', proof(`${right},${support.value}`), '65 bytes'],
    ['a token with its name', proof(`sales=${right}`), '38 bytes'],
    ['the token as the whole auth', `auth=${right}`, 'none'],
    ['the token one level too high', `application_token=${right}`, 'none'],
    ['the token in data', `data[auth][application_token]=${right}`, 'none'],
    ['the token under another letter case', `AUTH[APPLICATION_TOKEN]=${right}`, 'none'],
    ['a list that holds the token', `auth[application_token][]=${right}`, 'not a text'],
    ['an object that holds the token', `auth[application_token][x]=${right}`, 'not a text'],
    ['an auth that is a list', `auth[]=${right}`, 'none'],
    ['an auth that is a list of objects', `auth[0][application_token]=${right}`, 'none'],
    ['a doubled token, first wrong', `${proof(wrong)}&${proof(right)}`, 'none'],
    ['a doubled token, last wrong', `${proof(right)}&${proof(wrong)}`, 'none'],
    ['a doubled token, both right', `${proof(right)}&${proof(right)}`, 'none'],
    ['a doubled token, one empty', `${proof(right)}&${proof('')}`, 'none'],
    ['a doubled token, one escaped', `${proof(right)}&auth%5Bapplication%5Ftoken%5D=${right}`, 'none'],
    ['a doubled token, other things between', `${proof(right)}&ts=1&auth[domain]=d&${proof(right)}`, 'none'],
    ['a doubled token, one with junk behind it', `${proof(right)}&auth[application_token]x=${wrong}`, 'not a text'],
    ['a doubled token, one in brackets', `${proof(right)}&[auth][application_token]=${right}`, 'not a text'],
    ['a token with the name of a prototype', 'auth[__proto__][application_token]=x', 'none'],
  ])('%s', (_, text, token) => {
    const refusal = catchRefusal(() => verify(decodeForm(text)))
    expect(refusal.code).toBe('invalid_application_token')
    expect(refusal.details['token']).toBe(token)
  })
})

describe('what an operator reads about a wrong token', () => {
  const told = (text: string) => catchRefusal(() => verify(decodeForm(text))).details

  test('is the event, the domain, the length that came and the names it was compared with', () => {
    expect(told(`event=ONCRMDEALUPDATE&auth[domain]=example.bitrix24.com&${proof('x'.repeat(31))}`)).toEqual({
      event: 'ONCRMDEALUPDATE',
      domain: 'example.bitrix24.com',
      token: '31 bytes',
      compared_with: ['sales', 'support', 'the unnamed token'],
    })
  })

  test('is there also where a short token is a part of it', () => {
    const refused = catchRefusal(() =>
      createTokens([{ name: 'bot', value: 'crm' }]).verify(decodeForm('event=E&auth[domain]=crm.example.com')),
    )
    expect(refused.details).toMatchObject({ domain: 'crm.example.com' })
  })

  test('leaves out an event and a domain that are no texts', () => {
    expect(told('event[]=E&auth[domain][x]=d')).toEqual(
      expect.objectContaining({ event: undefined, domain: undefined }),
    )
  })

  test('holds neither the token that came nor one of ours', () => {
    const text = JSON.stringify(told(`event=E&auth[domain]=d&${proof(wrong)}`))
    for (const { value } of [sales, support, unnamed, { value: wrong }]) expect(text).not.toContain(value)
  })

  test.each(['event=', 'auth[domain]='])('does not hold a token of ours that came as %s', (field) => {
    expect(JSON.stringify(told(`${field}${right}`))).not.toContain(right)
  })
})

describe('before the body is decoded', () => {
  const checked = (text: string) => check(readClaim(text))
  const refused = (text: string) => catchRefusal(() => checked(text))

  test.each([sales, support, unnamed])('the token of $name passes', ({ value }) => {
    expect(() => checked(`event=E&${proof(value)}`)).not.toThrow()
  })

  test('every token of the same length is compared, also when the first one matched', () => {
    vi.mocked(timingSafeEqual).mockClear()
    checked(proof(sales.value))
    expect(timingSafeEqual).toHaveBeenCalledTimes(2)
  })

  test.each([
    ['no token', 'event=E', 'none'],
    ['a wrong token', proof(wrong), '32 bytes'],
    ['a longer one', proof(`${right}x`), '33 bytes'],
    ['a doubled token', `${proof(right)}&${proof(right)}`, 'none'],
    ['a doubled token, last wrong', `${proof(right)}&${proof(wrong)}`, 'none'],
  ])('%s is refused as the decoded form would be', (_, text, token) => {
    const { code, details } = refused(text)
    expect([code, details['token']]).toEqual(['invalid_application_token', token])
    expect(details).toEqual(catchRefusal(() => verify(decodeForm(text))).details)
  })

  test('an operator reads the same as of a form, and never a token', () => {
    const fields = `event=ON%20E&auth%5Bdomain%5D=${'d'.repeat(100)}&${proof(wrong)}`
    expect(refused(fields).details).toEqual(catchRefusal(() => verify(decodeForm(fields))).details)
    expect(refused(fields).details).toMatchObject({ event: 'ON E', domain: 'd'.repeat(100), token: '32 bytes' })
    const text = JSON.stringify(refused(`event=x${right}&auth[domain]=%73${right.slice(1)}&${proof(wrong)}`).details)
    for (const { value } of [sales, support, unnamed, { value: wrong }]) expect(text).not.toContain(value)
  })

  test('of an event as long as a body only its beginning is looked at', () => {
    const { event } = refused(`event=${'E'.repeat(1_000_000)}`).details
    // The log makes it shorter, once secrets are out of it.
    expect(event).toBe('E'.repeat(64 * 1024))
  })
})
