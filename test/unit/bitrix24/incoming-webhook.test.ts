import { inspect } from 'node:util'
import { describe, expect, test } from 'vitest'
import {
  incomingWebhookFor,
  isIncomingWebhookOf,
  parseIncomingWebhooks,
} from '../../../src/bitrix24/incoming-webhook.ts'

const CODE = 'c0dec0dec0dec0de'
const url = (host = 'example.bitrix24.com') => `https://${host}/rest/1/${CODE}/`

function only(text: string) {
  const [incomingWebhook, ...rest] = parseIncomingWebhooks(text)
  if (!incomingWebhook || rest.length > 0) throw new Error('not one')
  return incomingWebhook
}

test('one URL has no name, and a slash at its end may be missing', () => {
  const incomingWebhook = only(url().slice(0, -1))
  expect(incomingWebhook).toMatchObject({ name: undefined, host: 'example.bitrix24.com', user: '1' })
  expect(incomingWebhook.reveal()).toBe(url())
})

test('several have the names of the tokens, and spaces between them are no part of them', () => {
  const incomingWebhooks = parseIncomingWebhooks(
    `sales=${url('Sales.bitrix24.com')}, support=${url('support.example:8443')}`,
  )
  expect(incomingWebhooks.map(({ name, host }) => [name, host])).toEqual([
    ['sales', 'sales.bitrix24.com'],
    ['support', 'support.example:8443'],
  ])
})

test("an event's incoming webhook is the one of its token's name, or the only one that has no name", () => {
  const incomingWebhooks = parseIncomingWebhooks(`sales=${url()},support=${url()}`)
  expect(incomingWebhookFor(incomingWebhooks, 'support')?.name).toBe('support')
  expect(incomingWebhookFor(incomingWebhooks, 'other')).toBeUndefined()
  expect(incomingWebhookFor(incomingWebhooks, undefined)).toBeUndefined()
  expect(incomingWebhookFor(parseIncomingWebhooks(url()), 'sales')?.host).toBe('example.bitrix24.com')
  expect(incomingWebhookFor(parseIncomingWebhooks(url()), undefined)?.host).toBe('example.bitrix24.com')
})

test("an incoming webhook is of the portal in the event's domain, in any case, also without the port", () => {
  expect(isIncomingWebhookOf(only(url()), 'Example.bitrix24.com')).toBe(true)
  expect(isIncomingWebhookOf(only(url('portal.example:8443')), 'portal.example:8443')).toBe(true)
  expect(isIncomingWebhookOf(only(url('portal.example:8443')), 'portal.example')).toBe(true)
  expect(isIncomingWebhookOf(only(url()), 'other.bitrix24.com')).toBe(false)
  expect(isIncomingWebhookOf(only(url()), 'le.bitrix24.com')).toBe(false)
})

test('whatever prints an incoming webhook does not print its secret', () => {
  const incomingWebhook = only(`sales=${url()}`)
  expect(inspect(incomingWebhook, { depth: 9, showHidden: true })).not.toContain(CODE)
  expect(JSON.stringify(incomingWebhook)).not.toContain(CODE)
  expect(incomingWebhook.label).toBe('the incoming webhook "sales" of example.bitrix24.com')
  expect(incomingWebhook.redact(`GET ${url()}profile`)).toBe('GET https://example.bitrix24.com/rest/1/…/profile')
})

describe('refused, with what is wrong and without a value', () => {
  test.each([
    ['nothing', '', 'entry 1 is empty'],
    ['an application token', CODE, 'entry 1 is no URL'],
    ['http', url().replace('https', 'http'), 'entry 1 must begin with https://'],
    ['a method behind the code', `${url()}profile.json`, 'entry 1 must be as Bitrix24 shows it'],
    ['no code', 'https://example.bitrix24.com/rest/1/', 'entry 1 must be as'],
    ['a user that is no number', url().replace('/1/', '/me/'), 'entry 1 must be as'],
    ['a query', `${url()}?auth=${CODE}`, 'entry 1 must be as'],
    ['a name and no URL', `sales=${url()},support=`, '"support" is empty'],
    ['two of one name', `sales=${url()},sales=${url()}`, 'names "sales" twice'],
    ['two without names', `${url()},${url()}`, 'entry 1 needs a name'],
    ['one without a name beside another', `sales=${url()},${url()}`, 'entry 2 needs a name'],
  ])('%s', (_, text, message) => {
    const refuse = () => parseIncomingWebhooks(text)
    expect(refuse).toThrow(TypeError)
    expect(refuse).toThrow(message)
    expect(refuse).not.toThrow(CODE)
  })
})
