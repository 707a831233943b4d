import { expect, test } from 'vitest'
import { entries, objectOf } from '../../../src/events/catalogue.ts'
import type { Event } from '../../../src/events/event.ts'
import { type Form, isForm } from '../../../src/events/form.ts'
import { toEvent } from '../../../src/intake/event.ts'
import { decodeForm } from '../../../src/intake/form.ts'
import { parseRefusedLine } from '../../../src/intake/refused-line.ts'
import { toRobotEvent } from '../../../src/intake/robot.ts'
import { minSecretLength } from '../../../src/lib/min-secret-length.ts'
import { httpBuildQuery } from '../../../src/lib/php-query.ts'
import { robotBody } from '../../../src/simulator/robot-body.ts'
import { webhookBody } from '../../../src/simulator/webhook-body.ts'
import { fc } from '../../support/random.ts'

const portal = { domain: 'some-long-domain.bitrix24.com', memberId: 'a223c6b3710f85df22e9377d6c4f7553' }
const handlerId = 1_234_567
const ts = 1_736_405_807
const auth = {
  domain: portal.domain,
  client_endpoint: `https://${portal.domain}/rest/`,
  server_endpoint: 'https://oauth.bitrix.info/rest/',
  member_id: portal.memberId,
}

const event = fc.constantFrom(...entries.map(({ name }) => name.replace('{entityTypeId}', '147')))
const id = fc.oneof(fc.nat().map(String), fc.stringMatching(/^[a-z0-9.]{1,64}$/))
const made = fc.oneof(
  fc.stringMatching(/^[0-9]{1,7}$/),
  fc.stringMatching(/^[a-z0-9]{1,64}$/),
  fc.stringMatching(/^[a-z0-9]{32}$/),
  fc.constantFrom(
    'crm',
    'FIELDS',
    'FIELDS_AFTER',
    'data',
    'auth',
    'event_handler_id',
    'client_endpoint',
    'document_id',
  ),
)
/** Values that may be those of an event, too, which stand for `undefined`. */
const secret = fc.oneof(
  { weight: 3, arbitrary: made },
  { weight: 1, arbitrary: fc.constantFrom('$event', '$id') },
  fc.constantFrom(portal.domain, auth.client_endpoint, portal.memberId, String(ts), String(handlerId)),
)
const queryName = fc.constantFrom('key', 'auth', 'token', 'Secret', 'password', 'access_token')
const cases = fc.record({ event, id, held: fc.tuple(secret, secret), queryName, inQuery: secret })

/** `data` of a body with a text that has the secrets, where it can have one. */
function withNote(form: Form, note: string): Form {
  if (isForm(form['data'])) form['data']['A_NOTE'] = note
  return form
}

/** Those of the secrets that are long, and no part of the event that everybody may see. */
function foundIn(line: string, secrets: readonly string[], open: readonly string[]): string[] {
  return secrets.filter(
    (one) => one.length >= minSecretLength && !open.some((text) => text.includes(one)) && line.includes(one),
  )
}

test('whatever the tokens and the query, the event, its object and its ids survive, and no long secret', () => {
  fc.assert(
    fc.property(cases, ({ event, id, held, queryName, inQuery }) => {
      const fill = (one: string) => (one === '$event' ? event : one === '$id' ? id : one)
      const [token, other, key] = [fill(held[0]), fill(held[1]), fill(inQuery)]
      const body = webhookBody({ event, id, handlerId, ts, portal: { ...portal, token } })
      const note = `a ${token} b ${other} c ${key} d`
      const sent = decodeForm(body)
      const read = () => ({ ...decodeForm(httpBuildQuery({ [queryName]: key, note, ID: id })) })
      const found = toEvent(withNote(decodeForm(body), note), {
        ...{ webhook: undefined, query: read(), remote: '203.0.113.7', secrets: [token, other] },
      })
      const open = ['event_handler_id', event, id, ...Object.values(auth), String(ts), String(handlerId)]
      const check = (one: Event) => {
        expect(one).toMatchObject({ event: event.toUpperCase(), event_handler_id: String(handlerId), ts: String(ts) })
        expect({ ...one.auth }).toEqual(auth)
        expect(one.object).toBe(objectOf(event, sent['data']))
        expect(one.shape).toBeUndefined()
        expect(foundIn(JSON.stringify(one), [token, other, key], open)).toEqual([])
        const isAnyLong = [token, other, key].some(({ length }) => length >= minSecretLength)
        const whole = withNote(decodeForm(body), note)['data']
        expect(isAnyLong || JSON.stringify(one.data) === JSON.stringify(whole)).toBe(true)
        expect(isAnyLong || (one.query?.['note'] === note && one.query['ID'] === id)).toBe(true)
      }
      check(found)
      // A line that comes back from stderr goes the same way once more.
      const again = parseRefusedLine(JSON.stringify({ level: 30, ...found, msg: '' }), [token, other])
      expect(JSON.stringify(again)).toBe(JSON.stringify(found))
    }),
    { numRuns: 2_000 },
  )
})

test('whatever the tokens and the query, a robot keeps its document and its parameters, and no long secret', () => {
  const document = fc.constantFrom(['crm', 'CCrmDocumentDeal', 'DEAL_777'], ['crm', 'CCrmDocumentLead', 'LEAD_1'])
  fc.assert(
    fc.property(document, fc.tuple(secret, secret), queryName, made, (document, held, queryName, key) => {
      const note = `a ${held[0]} b ${held[1]} c ${key} d`
      const found = toRobotEvent(decodeForm(robotBody({ document, portal })), {
        query: decodeForm(httpBuildQuery({ [queryName]: key, note, id: '777' })),
        remote: '203.0.113.7',
        secrets: [...held, document[1] ?? ''],
      })
      expect(found.document_id).toEqual(document)
      expect(found.object).toBe(document[0] === 'crm' && document[2]?.toLowerCase().replace('_', ':'))
      expect({ ...found.auth }).toEqual(auth)
      expect(found.data).toMatchObject({ id: '777' })
      expect(foundIn(JSON.stringify(found), [...held, key], [...document, ...Object.values(auth)])).toEqual([])
    }),
  )
})
