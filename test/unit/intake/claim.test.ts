import { describe, expect, test } from 'vitest'
import { isForm } from '../../../src/events/form.ts'
import { readClaim } from '../../../src/intake/claim.ts'
import { decodeForm } from '../../../src/intake/form.ts'
import { Refusal } from '../../../src/intake/refusal.ts'
import { httpBuildQuery } from '../../../src/lib/php-query.ts'
import { samples } from '../../support/intake.ts'
import { fc } from '../../support/random.ts'

const token = 'tokenoftheintaketests00000000001'
const claimOf = (text: string | Buffer) => {
  const claim = readClaim(text.toString())
  return { event: claim.event, domain: claim.domain, token: claim.token?.toString() }
}
/** What the decoder finds where the claim looked. */
const decoded = (text: string | Buffer) => {
  const { auth, event } = decodeForm(text.toString())
  const { application_token, domain } = isForm(auth) ? auth : {}
  return { token: application_token, event, domain }
}

test.each(samples)('of $name the raw bytes give the same token, event and domain as the form', ({ body }) => {
  expect(claimOf(body)).toEqual(decoded(body))
})

describe('the token is found', () => {
  test.each([
    ['as http_build_query writes it', `auth%5Bapplication_token%5D=${token}`],
    ['with raw brackets', `auth[application_token]=${token}`],
    ['with brackets in lower case', `auth%5bapplication_token%5d=${token}`],
    ['with one bracket escaped', `auth[application_token%5D=${token}`],
    ['with its underscore escaped', `auth%5Bapplication%5Ftoken%5D=${token}`],
    ['with every sign of its name escaped', `${escapeAll('auth[application_token]')}=${token}`],
    ['with every sign of its value escaped', `auth[application_token]=${escapeAll(token)}`],
    ['as the first of many', `auth[application_token]=${token}&event=E`],
    ['between empty parameters', `&&auth[application_token]=${token}&&`],
    ['behind a bad escape', `x=%&auth[application_token]=${token}`],
    [
      'behind names that begin alike',
      `auth=1x&authx[application_token]=a&auth[application_tokens]=b&auth[application_token]=${token}`,
    ],
    ['beside one in data', `auth[application_token]=${token}&data[auth][application_token]=x`],
  ])('%s', (_, text) => {
    expect(claimOf(text).token).toBe(token)
  })

  test('with plus as a space, and an = in it', () => {
    expect(claimOf('auth[application_token]=a+b%2Bc=d').token).toBe('a b+c=d')
  })

  test.each([
    ['nowhere', 'event=E'],
    ['in an empty body', ''],
    ['where it came twice', `auth[application_token]=${token}&auth%5bapplication_token%5d=${token}`],
    ['one level deeper', `auth[application_token][x]=${token}`],
    ['in a list', `auth[application_token][]=${token}`],
    ['with a bad escape in its name', `auth[application_token%5]=${token}`],
    ['with an escape that reaches into the next parameter', `auth[application_token%5&D=${token}`],
    ['where the name ends early', 'auth[application_token'],
    ['in the value of another', `x=auth[application_token]=${token}`],
  ])('not %s', (_, text) => {
    expect(claimOf(text).token).toBeUndefined()
  })

  test('empty where it is empty, with and without =', () => {
    expect(claimOf('auth[application_token]=').token).toBe('')
    expect(claimOf('a=1&auth[application_token]').token).toBe('')
  })
})

test('of two equal names for the log the last counts', () => {
  expect(claimOf('event=A&event=B&auth[domain]=a&auth[domain]=b+%D0%9F')).toMatchObject({ event: 'B', domain: 'b П' })
})

const text = fc.string({ unit: 'binary', maxLength: 12 })
const leaf = fc.oneof(text, fc.constantFrom(']=', '&', '%5B', 'auth[application_token]=x', '=', '+', '%'))
const data = fc.dictionary(text, fc.oneof(leaf, fc.dictionary(text, leaf, { maxKeys: 3 })), { maxKeys: 4 })
const genuine = fc.record({
  event: fc.oneof(text, fc.constant('ONCRMDEALUPDATE')),
  data,
  ts: fc.nat(),
  auth: fc.record({ domain: leaf, application_token: leaf }),
})

test('of any form that http_build_query writes, the raw bytes give what the decoder finds', () => {
  fc.assert(
    fc.property(genuine, fc.func(fc.boolean()), (form, isLower) => {
      const written = httpBuildQuery(form)
      // Hex digits of either case are the same escape.
      const text = written.replace(/%[0-9A-F]{2}/g, (one) => (isLower(one) ? one.toLowerCase() : one))
      expect(claimOf(text)).toEqual(decoded(text))
    }),
    { numRuns: 1000 },
  )
})

test('whatever the bytes, the claim has no token that the decoder does not find', () => {
  const piece = fc.constantFrom(
    ...[
      'auth',
      '[application_token]',
      '%5Bapplication_token%5D',
      '=',
      '=',
      '&',
      '&',
      'x',
      '%',
      '%61',
      '[',
      ']',
      ']=',
      '+',
    ],
    ...['event', 'auth[domain]', token, '\u0000', 'П'],
  )
  let found = 0
  fc.assert(
    fc.property(
      fc.array(piece, { maxLength: 20 }).map((pieces) => pieces.join('')),
      (text) => {
        const { token } = claimOf(text)
        if (token !== undefined) found++
        // One that contradicts itself is refused whole.
        expect([token ?? 'no claim', 'refused']).toContain(token === undefined ? 'no claim' : tokenOrRefused(text))
      },
    ),
    { numRuns: 20_000 },
  )
  expect(found).toBeGreaterThan(20)
})

function tokenOrRefused(text: string): unknown {
  try {
    return decoded(text).token
  } catch (error) {
    if (error instanceof Refusal) return 'refused'
    throw error
  }
}

function escapeAll(text: string): string {
  return [...Buffer.from(text)].map((byte) => `%${byte.toString(16)}`).join('')
}
