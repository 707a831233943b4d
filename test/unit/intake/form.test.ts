import qs from 'qs'
import { describe, expect, test, vi } from 'vitest'
import type { FormValue } from '../../../src/events/form.ts'
import { decodeForm } from '../../../src/intake/form.ts'
import { Refusal } from '../../../src/intake/refusal.ts'
import { httpBuildQuery, type PhpValue } from '../../../src/lib/php-query.ts'
import { catchRefusal, samples } from '../../support/intake.ts'
import { asPhpReadsIt, isPhpArray } from '../../support/php.ts'
import { fc } from '../../support/random.ts'

// The real one, but it counts.
vi.mock('qs', { spy: true })

/** Key order is part of the reading, so it is compared as text. */
const read = (text: string) => JSON.stringify(decodeForm(text))

test.each(samples)('$name decodes to what PHP reads, keys in the same order', ({ body, json }) => {
  expect(read(body.toString())).toBe(json)
})

test.each(samples)('$name is what our http_build_query writes', ({ body, json }) => {
  const data: unknown = JSON.parse(json)
  expect(isPhpArray(data) && httpBuildQuery(data)).toBe(body.toString())
})

describe('read as PHP reads it', () => {
  test.each([
    ['an empty body is an empty form', '', '{}'],
    ['a parameter without = is an empty text', 'a&b=&c=1', '{"a":"","b":"","c":"1"}'],
    ['empty parameters are skipped', '&&a=1&&b=2&', '{"a":"1","b":"2"}'],
    ['a parameter without a name is dropped', '=1&a=2', '{"a":"2"}'],
    ['only the first = divides name and value', 'a=b=c', '{"a":"b=c"}'],
    ['only the first = divides, also where a bracket stands before another', 'a=x]=y', '{"a":"x]=y"}'],
    ['an escaped ]= in a value stays in it', 'a=x%5D%3Dy', '{"a":"x]=y"}'],
    ['empty brackets without = count up', 'a[]&a[]', '{"a":["",""]}'],
    ['plus is a space in names and values', 'a+b=c+d', '{"a b":"c d"}'],
    ['the last of two equal names wins', 'a=1&b=2&a=3', '{"a":"3","b":"2"}'],
    ['names in brackets nest', 'a[b][c]=1&a[b][d]=2', '{"a":{"b":{"c":"1","d":"2"}}}'],
    ['brackets may be escaped in either case', 'a%5Bb%5D=1&a%5bc%5d=2', '{"a":{"b":"1","c":"2"}}'],
    ['a bracket that was escaped twice is none', 'a%255Bb%255D=1', '{"a%5Bb%5D":"1"}'],
    ['keys 0 to n-1 are a list', 'a[0]=x&a[1]=y', '{"a":["x","y"]}'],
    ['lists nest', 'a[0][0]=x&a[1][0]=y', '{"a":[["x"],["y"]]}'],
    ['a list of one is a list', 'a[0]=x', '{"a":["x"]}'],
    ['keys with a gap are an object', 'a[3]=x&a[7]=y', '{"a":{"3":"x","7":"y"}}'],
    ['ids as keys are an object', 'a[571]=571', '{"a":{"571":"571"}}'],
    ['01 and -0 are names', 'a[01]=x&a[-0]=y', '{"a":{"01":"x","-0":"y"}}'],
    ['empty brackets count up', 'a[]=1&a[]=2&a[]=3', '{"a":["1","2","3"]}'],
    ['an empty key, which http_build_query writes as a[], is 0', 'a%5B%5D=1', '{"a":["1"]}'],
    ['empty brackets go on after 0', 'a[0]=x&a[]=y', '{"a":["x","y"]}'],
    ['dots and spaces in brackets stay', 'a[b.c]=1&a[d+e]=2', '{"a":{"b.c":"1","d e":"2"}}'],
    ['what stands after the closing bracket is ignored', 'a[b]c=1', '{"a":{"b":"1"}}'],
    ['Cyrillic is UTF-8', 'v=%D0%9F%D1%80%D0%B8%D0%B2%D0%B5%D1%82', '{"v":"Привет"}'],
    ['hex digits may be lower case', 'v=%d0%9f', '{"v":"П"}'],
    ['emoji is UTF-8', 'v=%F0%9F%98%80', '{"v":"😀"}'],
    ['line ends and NUL stay in values', 'v=a%0D%0Ab%00c', '{"v":"a\\r\\nb\\u0000c"}'],
    ['names of Object.prototype are names', 'constructor=1&a[toString]=2', '{"constructor":"1","a":{"toString":"2"}}'],
    ['length is a name', 'a[length]=2&a[0]=x', '{"a":{"0":"x","length":"2"}}'],
  ])('%s', (_, text, expected) => {
    expect(read(text)).toBe(expected)
  })
})

describe('an event refused is lost for good, so', () => {
  test.each([
    ['an escape that is none stays, and the others are decoded', 'v=%zz+1%20b', '%zz 1 b'],
    ['a lone % at the end stays', 'v=100%', '100%'],
    ['half an escape stays', 'v=%4', '%4'],
    ['a bad escape does not spoil Cyrillic beside it', 'v=%zz%D0%9F', '%zzП'],
    ['windows-1251 becomes U+FFFD', 'v=%CF%F0', '\uFFFD\uFFFD'],
    ['a cut UTF-8 sequence becomes U+FFFD', 'v=a%D0', 'a\uFFFD'],
    ['a surrogate in UTF-8 becomes U+FFFD', 'v=%ED%A0%80', '\uFFFD\uFFFD\uFFFD'],
    ['raw Cyrillic beside a bad escape stays', 'v=Привет+%zz', 'Привет %zz'],
  ])('%s', (_, text, expected) => {
    expect(decodeForm(text)).toEqual({ v: expected })
  })

  test('raw bytes that are not UTF-8 become U+FFFD', () => {
    expect(decodeForm(Buffer.from([0x76, 0x3d, 0xcf, 0xf0]).toString())).toEqual({ v: '\uFFFD\uFFFD' })
  })

  test('a bad escape in a name stays in the name', () => {
    expect(decodeForm('a%zz[b%]=1')).toEqual({ 'a%zz': { 'b%': '1' } })
  })
})

describe('structure is refused, with its size and the reason', () => {
  test('64 brackets nest, one more is refused', () => {
    expect(read(`a${'[b]'.repeat(64)}=1`)).toBe(`${'{"a":'}${'{"b":'.repeat(64)}"1"${'}'.repeat(65)}`)
    const text = `a${'[b]'.repeat(65)}=1`
    const { code, details } = catchRefusal(() => decodeForm(text))
    expect({ code, details }).toEqual({
      code: 'malformed_form',
      details: { size: text.length, reason: expect.stringContaining('depth') },
    })
  })

  const named = (count: number, suffix = '') => Array.from({ length: count }, (_, index) => `k${index}${suffix}=1`)

  test.each([
    ['5,000 parameters', named(5_000), 'more than 5000 parameters'],
    ['5,000 parameters of one name', named(5_000).fill('k=1'), 'more than 5000 parameters'],
    ['10,000 brackets in all names', named(500, '[a]'.repeat(20)), 'more than 10000 brackets in names'],
    ['10,000 escaped brackets', named(2_500, '%5Ba%5d%5ba%5D'.repeat(2)), 'more than 10000 brackets in names'],
    ['10,000 brackets that nobody closes', named(10, '['.repeat(1_000)), 'more than 10000 brackets in names'],
    ['a name of 2,000 characters', [`${'k'.repeat(2_000)}=1`], 'a name longer than 2000 characters'],
    ['a name of 2,000 escaped characters', [`${'%41'.repeat(666)}xx=1`], 'a name longer than 2000 characters'],
  ])('%s are taken, and one more is refused before qs sees it', (_, parameters, reason) => {
    const [first = '', ...rest] = parameters
    expect(outcome(parameters.join('&'))).toBe('decoded')
    const more = reason.includes('longer')
      ? `k${first}`
      : reason.includes('brackets')
        ? `x${first}&z[a]=1`
        : `${first}&z=1`
    const text = [more, ...rest].join('&')
    vi.mocked(qs.parse).mockClear()
    const { code, details } = catchRefusal(() => decodeForm(text))
    expect({ code, details }).toEqual({ code: 'malformed_form', details: { size: text.length, reason } })
    expect(qs.parse).not.toHaveBeenCalled()
  })

  test('brackets in values are no brackets in names: a chat is full of them', () => {
    const value = '[b]x[/b]'.repeat(20_000)
    expect(decodeForm(httpBuildQuery({ data: { MESSAGE: value } }))).toEqual({ data: { MESSAGE: value } })
  })

  test('qs gets what is flat already, because its work grows with the brackets in values, too', () => {
    vi.mocked(qs.parse).mockClear()
    expect(decodeForm('a[b]=one&a[c]=two%5B')).toEqual({ a: { b: 'one', c: 'two[' } })
    expect(vi.mocked(qs.parse).mock.calls.map(([fields]) => fields)).toEqual([{ 'a[b]': 'one', 'a[c]': 'two[' }])
  })

  test('1,000 empty brackets are a list of 1,000, more are too many', () => {
    expect(decodeForm('a[]=1&'.repeat(1000).slice(0, -1))['a']).toHaveLength(1000)
    expect(() => decodeForm('a[]=1&'.repeat(1001).slice(0, -1))).toThrow('malformed_form')
  })

  test.each([
    ['a text and an object', ['a=1', 'a[b]=2']],
    ['an empty text and an object', ['a=', 'a[b]=2']],
    ['a name without = and an object', ['a', 'a[b]=2']],
    ['a text and a list', ['a=1', 'a[]=2']],
    ['a text and an object, deeper', ['a[b]=1', 'a[b][c]=2']],
    ['a text and something two levels below it', ['a=1', 'a[b][c]=2']],
    ['an escaped and an unescaped name', ['%61%5Bb%5D=1', 'a[b][c]=2']],
    ['a text and two members of an object', ['a=1', 'a[b]=2', 'a[c]=3']],
    ['a text, an object and an object in it', ['a[b]=1', 'a[b][c]=2', 'a[b][c][d]=3']],
    ['a text and an object with others between', ['a=1', 'x=9', 'y[a]=1', 'a[b]=2']],
    // qs reads these two spellings as a and a[b], and would merge what contradicts itself.
    ['a text in brackets and an object', ['[a]=1', 'a[b]=2']],
    ['a text with something behind its bracket and an object', ['a[b]x=1', 'a[b][c]=2']],
    ['the proof of origin as a text and as an object', ['auth=x', 'auth[application_token]=y']],
  ])('%s of one name contradict each other in every order', (_, parts) => {
    for (const order of permutations(parts)) {
      const text = order.join('&')
      const { code, details } = catchRefusal(() => decodeForm(text))
      expect({ code, details }).toEqual({
        code: 'malformed_form',
        details: { size: text.length, reason: 'contradictory keys' },
      })
    }
  })

  test('names that only begin alike do not contradict each other', () => {
    expect(decodeForm('a=1&ab[c]=2&b[a]=3&b[ab][c]=4')).toEqual({
      a: '1',
      ab: { c: '2' },
      b: { a: '3', ab: { c: '4' } },
    })
  })

  // Anyone may post a megabyte: what it costs must not grow with the square of its length.
  test('a megabyte of opening brackets is read or refused at once', { timeout: 300_000 }, () => {
    const text = Array.from({ length: 60 }, (_, index) => `a${index}${'['.repeat(16_000)}=1`).join('&')
    expect(outcome(text)).not.toBe('a mistake of ours')
  })
})

describe('unlike PHP,', () => {
  test('keys that look like integers come first and in ascending order', () => {
    expect(read('b=1&10=x&9=y')).toBe('{"9":"y","10":"x","b":"1"}')
    expect(read('a[b]=1&a[7]=x&a[3]=y')).toBe('{"a":{"3":"y","7":"x","b":"1"}}')
  })

  test('0 to n-1 out of order are a list, where PHP keeps an object', () => {
    expect(read('a[1]=x&a[0]=y')).toBe('{"a":["y","x"]}')
  })

  test('empty brackets begin at 0, where PHP goes on after the highest index', () => {
    expect(read('a[5]=x&a[]=y')).toBe('{"a":{"0":"y","5":"x"}}')
  })

  test('several empty brackets beside another key are one list at 0, where PHP counts on', () => {
    expect(read('a[]=1&a[]=2&a[b]=3')).toBe('{"a":{"0":["1","2"],"b":"3"}}')
  })

  test('empty brackets with a key behind them are one element, where PHP begins a new one each time', () => {
    expect(read('a[][b]=1&a[][c]=2')).toBe('{"a":[{"b":"1","c":"2"}]}')
    expect(read('a[][b]=1&a[][b]=2')).toBe('{"a":[{"b":"2"}]}')
  })

  test('__proto__ is dropped wherever it stands', () => {
    expect(read('__proto__=1&a=2')).toBe('{"a":"2"}')
    expect(read('__proto__[x]=1&a=2')).toBe('{"a":"2"}')
    expect(read('a[__proto__]=1&a[b]=2')).toBe('{"a":{"b":"2"}}')
    expect(read('a[__proto__][x]=1&a[b]=2')).toBe('{"a":{"b":"2"}}')
  })

  test('dots and spaces in a top-level name stay, where PHP writes _ and strips leading spaces', () => {
    expect(read('a.b=1&c+d=2&e.f[g]=3&+h=4')).toBe('{"a.b":"1","c d":"2","e.f":{"g":"3"}," h":"4"}')
  })

  test('unbalanced brackets keep what stands in them, where PHP writes _ or drops the rest', () => {
    expect(read('a[b=1')).toBe('{"a":{"[b":"1"}}')
    expect(read('a]b=1')).toBe('{"a]b":"1"}')
    expect(read('a[[b]]=1')).toBe('{"a":{"[b]":"1"}}')
  })

  test('a name that is all brackets counts, where PHP drops it', () => {
    expect(read('[a]=1&b=2')).toBe('{"a":"1","b":"2"}')
    expect(read('[a][b]=1')).toBe('{"a":{"b":"1"}}')
  })

  test('a NUL stays in a name, where PHP cuts the name', () => {
    expect(read('a%00b=1')).toBe('{"a\\u0000b":"1"}')
  })

  test('the root stays an object, where PHP would encode a list', () => {
    expect(read('0=a&1=b')).toBe('{"0":"a","1":"b"}')
    expect(read('[]=1')).toBe('{"0":"1"}')
    expect(read('[]=1&[]=2')).toBe('{"0":["1","2"]}')
  })

  test('more than 1,000 parameters are read, where PHP drops the rest and with it auth', () => {
    const text = `${Array.from({ length: 1500 }, (_, index) => `k${index}=1`).join('&')}&auth[application_token]=t`
    expect(decodeForm(text)['auth']).toEqual({ application_token: 't' })
  })

  test('a proof of origin that came twice is none, where PHP takes the last', () => {
    expect(read('event=E&auth[application_token]=a&auth[application_token]=b')).toBe('{"event":"E"}')
    expect(read('auth[application_token]=a&auth%5Bapplication%5Ftoken%5D=a&ts=1')).toBe('{"ts":"1"}')
  })
})

test.each([
  '__proto__[polluted]=1',
  'a[__proto__][polluted]=1',
  'constructor[prototype][polluted]=1',
  'a[constructor][prototype][polluted]=1',
  '[__proto__][polluted]=1',
  'a[0][__proto__][polluted]=1',
  '__proto__=1&__proto__[polluted]=1',
  '%5F_proto__%5Bpolluted%5D=1',
])('no prototype is touched by %s', (text) => {
  const before = Object.getOwnPropertyNames(Object.prototype)
  outcome(text)
  expect(Object.getOwnPropertyNames(Object.prototype)).toEqual(before)
  expect('polluted' in {} || 'polluted' in [] || 'polluted' in Function).toBe(false)
})

/** Pieces out of which hostile names are built. */
const piece = fc.constantFrom(
  ...['a', 'b', 'auth', 'application_token', '[b]', '[0]', '[1]', '[]', '[', ']', '[[', ']]', '=', '=', '&', '&', ']='],
  ...['%5B', '%5D', '%5B%5D', '%', '%z', '%00', '%FF', '%D0%9F', '+', '.', ' ', '0', '-1', 'П', '\u0000', '\uFFFD'],
  ...['__proto__', '[__proto__]', 'constructor', '[constructor]', '[prototype]', '[length]', '[toString]'],
)
const parameter = fc
  .tuple(fc.constantFrom('a', 'b', 'auth', '[a]', ''), fc.array(piece, { maxLength: 5 }), fc.string({ maxLength: 3 }))
  .map(([base, pieces, value]) => `${base}${pieces.join('')}=${value}`)
const text = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 200 }),
  fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes).toString()),
  fc.array(piece, { maxLength: 40 }).map((pieces) => pieces.join('')),
  fc.array(parameter, { maxLength: 12 }).map((parameters) => parameters.join('&')),
  fc
    .tuple(fc.integer({ min: 0, max: 70 }), fc.constantFrom('[b]', '[0]', '[]', '[', ']'))
    .map(([count, bracket]) => `a${bracket.repeat(count)}=1&b=2`),
)

test('whatever the text, it is decoded to texts or refused without a word of it', () => {
  fc.assert(
    fc.property(text, (text) => {
      expect(outcome(text)).not.toBe('a mistake of ours')
    }),
    { numRuns: 5000 },
  )
})

const name = fc.oneof(
  fc.constantFrom('FIELDS', 'ID', 'id', '0', '1', '2', '571', 'a.b', 'c d', 'constructor', 'toString', 'length'),
  fc.string({ unit: 'binary', minLength: 1, maxLength: 8 }).filter(isOrdinaryName),
)
const scalar = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 20 }),
  fc.constantFrom('', ']=', '&=', '%zz', '100%', ' a+b ', 'Привет', 'undefined', '\r\n\u2028\u0000'),
  fc.integer(),
  fc.boolean(),
  fc.constant(null),
)
const { value } = fc.letrec<{ value: PhpValue }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small' },
    scalar,
    fc.array(tie('value'), { maxLength: 4 }),
    fc.dictionary(name, tie('value'), { maxKeys: 5 }),
  ),
}))

test('whatever PHP writes with http_build_query is read back as PHP reads it', () => {
  fc.assert(
    fc.property(fc.dictionary(name, value, { maxKeys: 6 }), (data) => {
      expect(read(httpBuildQuery(data))).toBe(JSON.stringify(asPhpReadsIt(data)))
    }),
    { numRuns: 1000 },
  )
})

/** Not one of those that "unlike PHP" is about. */
function isOrdinaryName(text: string): boolean {
  return !/[[\]]/.test(text) && text !== '__proto__'
}

/** Decodes, and checks whatever comes of it. */
function outcome(text: string): 'decoded' | 'refused' | 'a mistake of ours' {
  try {
    const form = decodeForm(text)
    return Object.values(form).every(isWhole) && Object.getPrototypeOf(form) === null ? 'decoded' : 'a mistake of ours'
  } catch (error) {
    if (!(error instanceof Refusal)) throw error
    const { size, reason, ...more } = error.details
    const isTold = size === text.length && Object.keys(more).length === 0 && error.code === 'malformed_form'
    return isTold && reasons.some((known) => known.test(String(reason))) ? 'refused' : 'a mistake of ours'
  }
}

/** Ours and those of qs, which name a limit and nothing of the text. */
const reasons = [
  /^contradictory keys$/,
  /^Input depth exceeded depth option of 64 and strictDepth is true$/,
  /^more than 5000 parameters$/,
  /^more than 10000 brackets in names$/,
  /^a name longer than 2000 characters$/,
  /^Array limit exceeded\. Only 10000 elements allowed in an array\.$/,
]

/** A text, or a list or prototype-less object of such, without holes. */
function isWhole(value: FormValue): boolean {
  if (typeof value === 'string') return true
  if (Array.isArray(value)) return Array.from(value).every(isWhole)
  return typeof value === 'object' && Object.getPrototypeOf(value) === null && Object.values(value).every(isWhole)
}

function permutations(parts: readonly string[]): string[][] {
  if (parts.length < 2) return [[...parts]]
  return parts.flatMap((first, index) => permutations(parts.toSpliced(index, 1)).map((rest) => [first, ...rest]))
}
