import { describe, expect, test } from 'vitest'
import { createPretty } from '../../../src/lib/pretty.ts'
import { printable, printableColours, printableJson, printableLines } from '../../../src/lib/printable.ts'
import { fc } from '../../support/random.ts'
import { harmless } from '../../support/terminal.ts'

const every = Array.from({ length: 0x10000 }, (_, code) => String.fromCharCode(code))
const unsafe = new Set(every.filter((character) => !harmless.test(character) || character === '\n'))
const toEscape = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`

describe('text from strangers', () => {
  test('as one line has an escape for each control, bidi control and line end, and else stays as it is', () => {
    expect(unsafe.size).toBe(32 + 33 + 14)
    for (const character of every)
      expect(printable(`a${character}b`)).toBe(`a${unsafe.has(character) ? toEscape(character) : character}b`)
    expect(printable('Сделка № 7 — «☃» 🙂')).toBe('Сделка № 7 — «☃» 🙂')
  })

  test('as lines keeps its line ends and tabs, and nothing else of them', () => {
    expect(printableLines('a\tb\nc\r\u001b[2J\u202e\u2028')).toBe('a\tb\nc\\u000d\\u001b[2J\\u202e\\u2028')
  })

  test('with colours keeps ESC besides', () => {
    expect(printableColours('\u001b[31mred\u001b[39m\u009b\u202e\r')).toBe(
      '\u001b[31mred\u001b[39m\\u009b\\u202e\\u000d',
    )
  })

  test('in JSON is escaped, and means what it meant', () => {
    fc.assert(
      fc.property(fc.json(), fc.array(fc.constantFrom(...unsafe)), (json, characters) => {
        const text = JSON.stringify([JSON.parse(json), characters.join('x')])
        const escaped = printableJson(text)
        expect(escaped).toMatch(harmless)
        expect(JSON.parse(escaped)).toEqual(JSON.parse(text))
      }),
    )
  })
})

describe('a line of the log for people', () => {
  const hostile = 'x\u001b[8m\u009b2J\u202e\r\nFAKE'
  const line = JSON.stringify({
    ...{ level: 40, time: 0, msg: hostile, path: hostile, [hostile]: 1, list: [`\\${hostile}`, `\\\\${hostile}`] },
    err: { type: 'Error', message: hostile, stack: `Error: ${hostile}\n    at x (file:1:1)` },
  })

  test('holds no control of a stranger, in its message, its fields, their names or a stack', () => {
    const text = createPretty({ singleLine: true, colorize: false })(line)
    expect(text.replaceAll('\t', '')).toMatch(harmless)
    expect(text).toContain('WARN: x\\u001b[8m\\u009b2J\\u202e\\u000d\\u000aFAKE')
    expect(text).not.toMatch(/^FAKE/m)
  })

  test('with colours has those of the log alone', () => {
    const text = createPretty({ singleLine: true, colorize: true })(line)
    expect(text).toContain('\u001b[33mWARN')
    expect(text).not.toContain('\u001b[8m')
    expect(text).not.toMatch(/\u009b|\u202e|\r/)
  })

  test('that is none, as what a handler printed, is harmless, too', () => {
    const pretty = createPretty({ colorize: true })
    expect(pretty('no JSON \u001b[2J\u202e')).toBe('no JSON \\u001b[2J\\u202e\n')
    expect(pretty('7')).toBe('7\n')
  })
})
