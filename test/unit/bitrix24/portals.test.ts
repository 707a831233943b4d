import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { parseIncomingWebhooks } from '../../../src/bitrix24/incoming-webhook.ts'
import { openMembers } from '../../../src/bitrix24/members.ts'
import { createPortals, type Origin } from '../../../src/bitrix24/portals.ts'
import { realClock } from '../../../src/lib/clock.ts'
import { temporaryFolder } from '../../support/receiver.ts'

const one = 'https://one.bitrix24.com/rest/1/abc/'
const two = 'https://two.bitrix24.com/rest/1/def/'

function portalsOf(incomingWebhooks: string) {
  return createPortals({
    incomingWebhooks: incomingWebhooks === '' ? [] : parseIncomingWebhooks(incomingWebhooks),
    rate: 2,
    burst: 50,
    clock: realClock,
    onChange: () => undefined,
  })
}

function chosen(incomingWebhooks: string, event: Origin): string {
  const access = portalsOf(incomingWebhooks).accessFor(event)
  return 'refusal' in access ? access.refusal : access.incomingWebhook.label
}

const from = (domain: string, webhook?: string): Origin => ({ webhook, auth: { domain } })

test('the only incoming webhook is for all events of its portal, whatever the name of their token', () => {
  expect(chosen(one, from('one.bitrix24.com'))).toBe('the incoming webhook of one.bitrix24.com')
  expect(chosen(one, from('ONE.bitrix24.com', 'sales'))).toBe('the incoming webhook of one.bitrix24.com')
})

test('of several the one of the name of the token is used', () => {
  const incomingWebhooks = `sales=${one},support=${two}`
  expect(chosen(incomingWebhooks, from('one.bitrix24.com', 'sales'))).toBe(
    'the incoming webhook "sales" of one.bitrix24.com',
  )
  expect(chosen(incomingWebhooks, from('two.bitrix24.com', 'support'))).toBe(
    'the incoming webhook "support" of two.bitrix24.com',
  )
})

test('a robot has no token: its incoming webhook is the only one of its portal', () => {
  const robotOf = (domain: string): Origin => ({ event: 'ROBOT', auth: { domain } })
  expect(chosen(one, robotOf('one.bitrix24.com'))).toBe('the incoming webhook of one.bitrix24.com')
  expect(chosen(`sales=${one},support=${two}`, robotOf('TWO.bitrix24.com'))).toBe(
    'the incoming webhook "support" of two.bitrix24.com',
  )
  const none = 'B24_HOOK has no incoming webhook for the robots of this portal, or several'
  expect(chosen(one, robotOf('two.bitrix24.com'))).toBe(none)
  expect(chosen(`a=${one},b=https://one.bitrix24.com/rest/2/ghi/`, robotOf('one.bitrix24.com'))).toBe(none)
  expect(chosen(one, { event: 'ROBOT' })).toBe(none)
})

test.each<[string, string, Origin, string]>([
  ['there is none', '', from('one.bitrix24.com'), 'B24_HOOK is not set'],
  [
    'there is none of its name',
    `sales=${one}`,
    from('two.bitrix24.com', 'support'),
    'B24_HOOK has no incoming webhook for the events of the token "support"',
  ],
  [
    'its token has no name and the incoming webhooks have',
    `sales=${one}`,
    from('one.bitrix24.com'),
    'B24_HOOK has no incoming webhook for the events of a token without a name',
  ],
  [
    'the incoming webhook is of another portal',
    one,
    from('two.bitrix24.com'),
    'the incoming webhook of one.bitrix24.com is not used for an event of two.bitrix24.com: if the portal was renamed, B24_HOOK needs its new address',
  ],
  [
    'its portal is another one by the name of its token too',
    `sales=${one},support=${two}`,
    from('two.bitrix24.com', 'sales'),
    'the incoming webhook "sales" of one.bitrix24.com is not used for an event of two.bitrix24.com: if the portal was renamed, B24_HOOK needs its new address',
  ],
  ['it has no auth', one, {}, 'the incoming webhook of one.bitrix24.com is not used for an event that names no portal'],
  [
    'its domain is no text',
    one,
    { auth: { domain: ['one.bitrix24.com'] } },
    'the incoming webhook of one.bitrix24.com is not used for an event that names no portal',
  ],
])('an event gets no incoming webhook where %s, and the reason is reported', (_, incomingWebhooks, event, reason) => {
  expect(chosen(incomingWebhooks, event)).toBe(reason)
})

test('a renamed portal is known by its member_id under either name, also later, and no other portal is', () => {
  const folder = temporaryFolder('members')
  const open = (incomingWebhooks: string) => {
    const told: [string, string | undefined][] = []
    const members = openMembers(folder, (error) => {
      throw error
    })
    const onLack = (...lack: [string, string | undefined]) => void told.push(lack)
    const parts = { rate: 2, burst: 50, clock: realClock, onChange: () => undefined }
    const portals = createPortals({
      ...parts,
      incomingWebhooks: parseIncomingWebhooks(incomingWebhooks),
      members,
      onLack,
    })
    const labelFor = (event: Origin) => {
      const access = portals.accessFor(event)
      portals.waitFor(event)
      return 'refusal' in access ? undefined : access.incomingWebhook.label
    }
    return { told, labelFor }
  }
  const of = (domain: string, member: string, webhook?: string): Origin => ({
    webhook,
    auth: { domain, member_id: member },
  })
  const before = open(one)
  expect(before.labelFor(of('new.bitrix24.com', 'm1'))).toBeUndefined()
  expect(before.labelFor(of('one.bitrix24.com', 'm1'))).toBe('the incoming webhook of one.bitrix24.com')
  expect(before.told.map(([lacks, refusal]) => [lacks, refusal !== undefined])).toEqual([
    ['the portal of the incoming webhook of one.bitrix24.com', true],
    ['the portal of the incoming webhook of one.bitrix24.com', false],
  ])
  const later = open(`sales=${one},support=${two}`)
  expect(later.labelFor(of('new.bitrix24.com', 'm1', 'sales'))).toBe('the incoming webhook "sales" of one.bitrix24.com')
  expect(later.labelFor({ ...of('new.bitrix24.com', 'm1'), event: 'ROBOT' })).toBe(
    'the incoming webhook "sales" of one.bitrix24.com',
  )
  expect(later.labelFor(of('new.bitrix24.com', 'm2', 'sales'))).toBeUndefined()
  // Whoever has the token of one portal says whatever he likes, but not for the incoming webhook of another name.
  expect(later.labelFor(of('new.bitrix24.com', 'm1', 'support'))).toBeUndefined()
})

test('a file of portals that cannot be read costs what it knew, and nothing else', () => {
  const folder = temporaryFolder('members')
  writeFileSync(join(folder, 'portals.json'), '{"one.bitrix24.com":')
  const errors: unknown[] = []
  const members = openMembers(folder, (error) => void errors.push(error))
  expect([members.of('one.bitrix24.com'), errors.length]).toEqual([undefined, 1])
  expect([members.learn('one.bitrix24.com', 'm1'), members.learn('one.bitrix24.com', 'm1')]).toEqual([true, false])
  expect(openMembers(folder, (error) => void errors.push(error)).of('one.bitrix24.com')).toBe('m1')
})

test('incoming webhooks of one portal share its limits, those of others do not', () => {
  const { accessFor } = portalsOf(`a=${one},b=https://one.bitrix24.com/rest/2/ghi/,c=${two}`)
  const limitsOf = (event: Origin) => {
    const access = accessFor(event)
    return 'refusal' in access ? undefined : access.limits
  }
  const [a, b, c] = [
    limitsOf(from('one.bitrix24.com', 'a')),
    limitsOf(from('one.bitrix24.com', 'b')),
    limitsOf(from('two.bitrix24.com', 'c')),
  ]
  expect(a).toBeDefined()
  expect(b).toBe(a)
  expect(c).toBeDefined()
  expect(c).not.toBe(a)
})
