import { describe, expect, test } from 'vitest'
import { toEvent } from '../../../src/intake/event.ts'
import { decodeForm } from '../../../src/intake/form.ts'
import { removeSecrets } from '../../../src/intake/secrets.ts'
import { isObject, samples } from '../../support/intake.ts'

const held = 'heldheldheldheldheldheldheldheld'
const other = 'otherotherotherotherotherotherot'

/** What is left of a body and a query, as JSON reads it. */
function leftOf({ body = '', query = '', secrets = [held] }: { body?: string; query?: string; secrets?: string[] }): {
  form: unknown
  query: unknown
} {
  const sent = { form: decodeForm(body), query: decodeForm(query) }
  removeSecrets(sent.form, sent.query, secrets)
  return JSON.parse(JSON.stringify(sent))
}

const left = (body: string) => leftOf({ body }).form
const leftOfQuery = (query: string, body = 'event=E') => leftOf({ body, query }).query

describe('removed with its key', () => {
  test.each([
    ['auth[access_token]=x&auth[domain]=d', { auth: { domain: 'd' } }],
    ['auth[refresh_token]=x&auth[domain]=d', { auth: { domain: 'd' } }],
    ['auth[application_token]=x&auth[domain]=d', { auth: { domain: 'd' } }],
    ['auth[Access_Token]=x&auth[APPLICATION_TOKEN]=y&auth[domain]=d', { auth: { domain: 'd' } }],
    ['auth[access_token][deep][er]=x&auth[domain]=d', { auth: { domain: 'd' } }],
    ['auth[more][0][access_token]=x&auth[more][0][a]=b', { auth: { more: [{ a: 'b' }] } }],
    ['access_token=x&event=E', { event: 'E' }],
    ['data[access_token]=x&data[ID]=1', { data: { ID: '1' } }],
    ['data[BOT][567][access_token]=x&data[BOT][567][BOT_ID]=567', { data: { BOT: { '567': { BOT_ID: '567' } } } }],
    ['data[BOT][5][AUTH][scope]=imbot&data[BOT][5][BOT_ID]=5', { data: { BOT: { '5': { BOT_ID: '5' } } } }],
    ['data[COMMAND][3][refresh_token]=x&data[COMMAND][3][ID]=3', { data: { COMMAND: { '3': { ID: '3' } } } }],
    ['data[bot][auth][access_token]=x&data[bot][id]=4', { data: { bot: { id: '4' } } }],
    ['data[bot][Auth][user_id]=27&data[bot][id]=4', { data: { bot: { id: '4' } } }],
    ['data[auth][]=x&data[id]=4', { data: { id: '4' } }],
    ['event=ONAPPMETHODCONFIRM&data[TOKEN]=x&data[METHOD]=m', { event: 'ONAPPMETHODCONFIRM', data: { METHOD: 'm' } }],
    ['event=OnAppMethodConfirm&data[a][token]=x&data[b]=c', { event: 'OnAppMethodConfirm', data: { a: {}, b: 'c' } }],
  ])('%s', (text, expected) => {
    expect(left(text)).toEqual(expected)
  })
})

describe('kept', () => {
  test.each([
    ['a text under the name auth in data', 'data[auth]=Y&data[ID]=1'],
    ['a TOKEN of another event', 'event=ONAPPTEST&data[QUERY][TOKEN]=abc'],
    ['names that only contain a name', 'data[access_token_id]=1&data[my_refresh_token]=2&data[authors][]=3'],
    ['key, secret and password in data', 'data[key]=abcdefgh1&data[secret]=abcdefgh2&data[password]=abcdefgh3'],
    ['everything else of auth', 'auth[domain]=d&auth[client_endpoint]=c&auth[server_endpoint]=s&auth[member_id]=m'],
  ])('%s', (_, text) => {
    expect(left(text)).toEqual(JSON.parse(JSON.stringify(decodeForm(text))))
  })
})

describe('in the query, also', () => {
  test.each([
    'token',
    'secret',
    'key',
    'password',
    'auth',
    'access_token',
    'Refresh_Token',
    'APPLICATION_TOKEN',
    'Key',
  ])('%s is removed', (name) => {
    expect(leftOfQuery(`${name}=x&CLIENT_ID=custom1`)).toEqual({ CLIENT_ID: 'custom1' })
    expect(leftOfQuery(`a[${name}]=x&a[b]=1`)).toEqual({ a: { b: '1' } })
    expect(leftOfQuery(`${name}[x]=y&a=1`)).toEqual({ a: '1' })
  })
})

describe('whatever equals a token that we hold is removed', () => {
  test.each([
    ['a leaf of data', `data[text]=${held}&data[ID]=1`, { data: { ID: '1' } }],
    ['data itself', `event=E&data=${held}`, { event: 'E' }],
    ['an element of a list', `data[]=a&data[]=${held}&data[]=b`, { data: ['a', 'b'] }],
    ['a key', `data[${held}]=1&data[ID]=1`, { data: { ID: '1' } }],
    ['a key with an object', `data[${held}][a]=1&data[ID]=1`, { data: { ID: '1' } }],
    ['a top-level key', `${held}=1&event=E`, { event: 'E' }],
    ['the event, which is none of Bitrix24', `event=${held}&ts=1`, { ts: '1' }],
    ['a field of auth', `auth[scope]=${held}&auth[member_id]=m`, { auth: { member_id: 'm' } }],
  ])('%s', (_, text, expected) => {
    expect(left(text)).toEqual(expected)
  })

  test('a leaf and a key of the query', () => {
    expect(leftOfQuery(`a=${held}&${held}=b&c=d`)).toEqual({ c: 'd' })
  })

  test('unless it is shorter than 16 characters: real bots have tokens such as 777', () => {
    const body = 'data[a]=777&data[777]=2&data[b]=short15chars000'
    expect(leftOf({ body, secrets: ['777', 'short15chars000'] }).form).toEqual(
      JSON.parse(JSON.stringify(decodeForm(body))),
    )
  })
})

describe('whatever equals a removed value is removed', () => {
  test.each([
    [
      'from auth, in data',
      `auth[access_token]=${other}&data[text]=${other}&data[ID]=1`,
      { auth: {}, data: { ID: '1' } },
    ],
    ['from data, in auth', `data[access_token]=${other}&auth[x]=${other}&auth[y]=1`, { data: {}, auth: { y: '1' } }],
    ['as a key', `auth[access_token]=${other}&data[${other}]=1&data[ID]=1`, { auth: {}, data: { ID: '1' } }],
    ['from a block in data', `data[bot][auth][access_token]=${other}&data[a]=${other}`, { data: { bot: {} } }],
    ['from an object under a credential', `auth[access_token][x]=${other}&data[a]=${other}`, { auth: {}, data: {} }],
    [
      'from TOKEN',
      `event=ONAPPMETHODCONFIRM&data[TOKEN]=${other}&data[METHOD]=${other}`,
      { event: 'ONAPPMETHODCONFIRM', data: {} },
    ],
    ['before it stands', `data[a]=${other}&event=E&auth[refresh_token]=${other}`, { event: 'E', data: {}, auth: {} }],
  ])('%s', (_, text, expected) => {
    expect(left(text)).toEqual(expected)
  })

  test('from the query, in data, and the other way round', () => {
    expect(leftOf({ body: `data[a]=${other}&data[b]=1`, query: `key=${other}` }).form).toEqual({ data: { b: '1' } })
    expect(leftOfQuery(`a=${other}&b=1`, `auth[access_token]=${other}`)).toEqual({ b: '1' })
  })

  test('unless it is shorter than 16 characters: ?key=12345678 empties no field that says so', () => {
    expect(left('auth[access_token]=123456789012345&data[a]=123456789012345')).toEqual({
      auth: {},
      data: { a: '123456789012345' },
    })
    expect(left('auth[access_token]=1234567890123456&data[a]=1234567890123456')).toEqual({ auth: {}, data: {} })
    expect(leftOf({ body: 'data[ID]=12345678', query: 'key=12345678' })).toEqual({
      form: { data: { ID: '12345678' } },
      query: {},
    })
  })

  test('unless it is only the scope or domain of a removed block', () => {
    const text =
      'data[bot][auth][scope]=imbot,crm,user&data[bot][auth][status]=F&data[bot][auth][domain]=some-domain.bitrix24.com' +
      `&data[bot][auth][access_token]=${other}&data[a]=imbot,crm,user&auth[domain]=some-domain.bitrix24.com`
    expect(left(text)).toEqual({ data: { bot: {}, a: 'imbot,crm,user' }, auth: { domain: 'some-domain.bitrix24.com' } })
  })
})

describe('what an event is made of stays, whatever equals it:', () => {
  const domain = 'some-domain.bitrix24.com'

  test.each([
    ['its name, told by the query', 'event=ONCRMDEALUSERFIELDADD', 'key=ONCRMDEALUSERFIELDADD'],
    ['its number and its time', `event=E&event_handler_id=${held}&ts=${held}`, ''],
    ['the name of a field', 'event=E&event_handler_id=201', 'key=event_handler_id'],
    ['its portal', `event=E&auth[domain]=${domain}&auth[client_endpoint]=https://${domain}/rest/`, `auth=${domain}`],
    ['its portal, one of ours', `auth[domain]=${held}&auth[member_id]=${held}&auth[server_endpoint]=${held}`, ''],
    ['the id of its object', `event=ONVOXIMPLANTCALLINIT&data[CALL_ID]=${held}`, `key=${held}`],
    ['an id further down', `event=ONTASKCOMMENTADD&data[FIELDS_AFTER][TASK_ID]=${held}`, ''],
    ['an id in a list', `event=ONSESSIONSTART&data[DATA][0][chat][id]=${held}`, ''],
    ['an id that is all of data', `event=ONIMCONNECTORLINEDELETE&data=${held}`, ''],
    ['the document of a robot', `document_id[0]=crm&document_id[1]=${held}&document_id[2]=DEAL_${held}`, ''],
  ])('%s', (_, body, query) => {
    expect(leftOf({ body, query }).form).toEqual(JSON.parse(JSON.stringify(decodeForm(body))))
  })

  test('but not at any other place', () => {
    const body = `event=ONVOXIMPLANTCALLINIT&data[CALL_ID]=${held}&data[CALLER_ID]=${held}&data[x][CALL_ID]=${held}`
    expect(left(body)).toEqual({ event: 'ONVOXIMPLANTCALLINIT', data: { CALL_ID: held, x: {} } })
  })

  test('and an address that a parameter of the query repeats is no secret anywhere', () => {
    const body = `event=E&data[text]=see+https://${domain}/crm/&auth[domain]=${domain}`
    expect(leftOf({ body, query: `auth=${domain}` }).form).toEqual(JSON.parse(JSON.stringify(decodeForm(body))))
  })
})

describe('of a longer text only the secret is removed:', () => {
  const path = '/robot/0123456789abcdef0123456789abcdef'
  const secrets = [held, path, path.slice(7)]
  const textOf = (text: string, more = '') => {
    const { form } = leftOf({ body: `data[text]=${encodeURIComponent(text)}${more}`, secrets })
    return isObject(form) && isObject(form['data']) ? form['data']['text'] : undefined
  }

  test.each([
    ['a token of ours', `the token is ${held}.`, 'the token is [removed].'],
    ['without a gap around it', `a${held}b${held}`, 'a[removed]b[removed]'],
    [
      'the address for robots',
      `see https://hooks.example.com${path}?a=1`,
      'see https://hooks.example.com[removed]?a=1',
    ],
    ['the same, encoded', encodeURIComponent(`https://h${path}`), 'https%3A%2F%2Fh%2Frobot%2F[removed]'],
  ])('%s', (_, text, expected) => {
    expect(textOf(text)).toBe(expected)
  })

  test('a credential that came with the post, where it is a word', () => {
    const more = `&auth[access_token]=${other}`
    expect(textOf(`https://some.bitrix24.com/rest/user.get?auth=${other}&x=1`, more)).toBe(
      'https://some.bitrix24.com/rest/user.get?auth=[removed]&x=1',
    )
    expect(textOf(`Bearer ${other}`, more)).toBe('Bearer [removed]')
  })

  test('in a list, in the query, and before it stands as a credential', () => {
    const sent = { body: `data[]=a+${held}&data[]=b+${other}`, query: `a=x-${held}&key=${other}&b=c` }
    expect(leftOf(sent)).toEqual({
      form: { data: ['a [removed]', 'b [removed]'] },
      query: { a: 'x-[removed]', b: 'c' },
    })
  })

  test('an entry whose name holds one of ours goes whole', () => {
    expect(left(`data[a${held}]=1&data[b]=2`)).toEqual({ data: { b: '2' } })
  })

  test('one shorter than 16 characters stays in a longer text: it may be a word like any other', () => {
    expect(leftOf({ body: 'data[a]=my+short15chars000', secrets: ['short15chars000'] }).form).toEqual({
      data: { a: 'my short15chars000' },
    })
    const more = 'auth[access_token]=short15chars000&data[a]=my+short15chars000'
    expect(left(more)).toEqual({ auth: {}, data: { a: 'my short15chars000' } })
  })
})

test('what is left has no prototype', () => {
  const [form, query] = [decodeForm('data[a]=1'), decodeForm('a=1')]
  removeSecrets(form, query, [])
  expect([form, form['data'], query].map((value) => Object.getPrototypeOf(value))).toEqual([null, null, null])
})

const credential = /^(access_token|refresh_token|application_token|token)$/i

/** Every value under a name of a credential, wherever it stands. */
function credentialsOf(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, item]) =>
    credential.test(key) && typeof item === 'string' ? [item] : credentialsOf(item),
  )
}

describe.each(samples)('$name', ({ name, body, json }) => {
  const sent: unknown = JSON.parse(json)
  const token = isObject(sent) && isObject(sent['auth']) ? sent['auth']['application_token'] : undefined
  const event = toEvent(decodeForm(body.toString()), {
    webhook: undefined,
    query: undefined,
    remote: '203.0.113.7',
    secrets: typeof token === 'string' ? [token] : [],
  })

  test('has no credential left', () => {
    const secrets = credentialsOf(sent)
    // The documented example of this one event has none.
    expect(secrets.length > 0).toBe(name !== 'application/ONAPPPAYMENT')
    const line = JSON.stringify(event)
    for (const secret of secrets) expect(line).not.toContain(secret)
    expect(line).not.toMatch(/"(access_token|refresh_token|application_token)"/i)
  })

  test('has everything else, as it was sent', () => {
    // A reviver that answers undefined drops the key.
    const isBlock = (key: string, value: unknown) => key.toLowerCase() === 'auth' && typeof value === 'object'
    const expected: unknown = JSON.parse(json, (key, value: unknown) => (credential.test(key) ? undefined : value))
    if (!isObject(expected)) throw new Error('a sample is an object')
    const data: unknown = JSON.parse(JSON.stringify(expected['data'] ?? null), (key, value: unknown) =>
      isBlock(key, value) ? undefined : value,
    )
    expect(JSON.stringify(event.data ?? null)).toBe(JSON.stringify(data))
    expect(JSON.stringify(event.auth)).toBe(JSON.stringify(expected['auth']))
  })
})
