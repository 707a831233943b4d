import { expect, test } from 'vitest'
import { parseParameters } from '../../../src/cli/parameters.ts'
import { UsageError } from '../../../src/cli/usage-error.ts'

test.each<[args: string[], parameters: Record<string, unknown>]>([
  [[], {}],
  [['ID=42'], { ID: '42' }],
  [['text='], { text: '' }],
  [['text=a=b:=c\nd'], { text: 'a=b:=c\nd' }],
  [['fields[TITLE]=Boat', 'fields[UF_CRM_1]=red'], { fields: { TITLE: 'Boat', UF_CRM_1: 'red' } }],
  [['fields.TITLE=Boat', 'fields[a.b]=c'], { fields: { TITLE: 'Boat', 'a.b': 'c' } }],
  [['filter[>=DATE_CREATE]=2026-01-01'], { filter: { '>=DATE_CREATE': '2026-01-01' } }],
  [['select[]=ID', 'select[]=TITLE'], { select: ['ID', 'TITLE'] }],
  [['rows[0][price]=5', 'rows[1][price]=6'], { rows: [{ price: '5' }, { price: '6' }] }],
  [['rows[][price]=5', 'rows[][price]=6'], { rows: [{ price: '5' }, { price: '6' }] }],
  [['a[2]=x'], { a: { 2: 'x' } }],
  [['filter:={"ID":[1,2]}', 'fields[on]:=true', 'n:=null'], { filter: { ID: [1, 2] }, fields: { on: true }, n: null }],
])('%j', (args, parameters) => expect(parseParameters(args)).toEqual(parameters))

test.each<[args: string[], message: string]>([
  [['ID'], 'parameter 1 is not of the form KEY=VALUE or KEY:=JSON'],
  [['ID=1', '=5'], 'parameter 2 is not of the form'],
  [['[a]=5'], 'parameter 1 is not of the form'],
  [['a[b=5'], 'parameter 1 is not of the form'],
  [['ID=1', 'ID=2'], 'ID is set twice'],
  [['a=1', 'a[b]=2'], 'a[b] is set in another that has a value'],
  [['a[b]=2', 'a=1'], 'a is set twice'],
  [['a:={"b":1}', 'a[c]=2'], 'a[c] is set in another that has a value'],
  [['filter:={ID:1}'], 'what filter is set to is no JSON'],
])('%j is refused', (args, message) => {
  expect(() => parseParameters(args)).toThrow(UsageError)
  expect(() => parseParameters(args)).toThrow(message)
})

test('a name such as __proto__ is a name like any other', () => {
  const parameters = parseParameters(['__proto__[a]=1', 'x[__proto__]=2'])
  expect(Object.getPrototypeOf(parameters)).toBe(Object.prototype)
  expect(JSON.stringify(parameters)).toBe('{"__proto__":{"a":"1"},"x":{"__proto__":"2"}}')
})

test('a URL in the wrong place is not repeated', () => {
  expect(() => parseParameters(['https://example.bitrix24.com/rest/1/c0de/'])).not.toThrow('c0de')
})
