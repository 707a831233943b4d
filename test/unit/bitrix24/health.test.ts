import { expect, onTestFinished, test } from 'vitest'
import { Bitrix24Error } from '../../../src/bitrix24/bitrix24-error.ts'
import { createClient } from '../../../src/bitrix24/client.ts'
import { createIncomingWebhookHealth } from '../../../src/bitrix24/health.ts'
import { parseIncomingWebhooks } from '../../../src/bitrix24/incoming-webhook.ts'
import { createLimits } from '../../../src/bitrix24/limits.ts'
import { createTransport } from '../../../src/bitrix24/transport.ts'
import { createClock } from '../../support/clock.ts'
import { accessDenied, RestError, type SystemError } from '../../support/portal/rest-error.ts'
import { startPortal } from '../../support/portal.ts'
import { until } from '../../support/receiver.ts'

async function start({ probeTimeoutMs = 10_000 } = {}) {
  const clock = createClock()
  const portal = await startPortal({ now: () => Date.UTC(2026, 10, 23, 8) + clock.now() })
  const [incomingWebhook] = parseIncomingWebhooks(portal.incomingWebhook())
  if (!incomingWebhook) throw new Error('no incoming webhook')
  const limits = createLimits({ rate: 2, burst: 50, clock })
  const changes: (string | undefined)[] = []
  const health = createIncomingWebhookHealth({
    incomingWebhook,
    limits,
    clock,
    probeTimeoutMs,
    onChange: (trouble) => void changes.push(trouble?.code),
  })
  onTestFinished(health.stop)
  let doubts = 0
  const send = health.guard(createTransport(incomingWebhook, undefined), () => void doubts++)
  const client = createClient({ incomingWebhook, limits, send })
  return { clock, portal, health, changes, client, doubts: () => doubts }
}

const failure = (work: Promise<unknown>) =>
  work.then(
    () => undefined,
    (error: unknown) => error,
  )

test.each<SystemError>(['expired_token', 'NO_AUTH_FOUND', 'INVALID_CREDENTIALS', 'ACCESS_DENIED', 'OVERLOAD_LIMIT'])(
  'an incoming webhook whose calls and probe are answered with %s is down: calls fail with the reason',
  async (code) => {
    const { portal, health, changes, client, doubts } = await start()
    portal.behaviour.dead = code
    await failure(client.call('profile'))
    expect(doubts()).toBe(1)
    expect(health.trouble()).toBeUndefined()
    expect(await health.examine()).toMatchObject({ code, trouble: 'dead' })
    expect(changes).toEqual([code])
    const error = await failure(client.call('crm.deal.get', { id: 1 }))
    expect(error).toBeInstanceOf(Bitrix24Error)
    expect(error).toMatchObject({ code, trouble: 'dead', method: 'crm.deal.get' })
    expect(String(error)).toContain(`the incoming webhook of ${portal.host} is dead: ${code}`)
    expect(doubts()).toBe(2)
    expect(portal.called()).toEqual(['profile', 'scope'])
  },
)

test('an incoming webhook that is down is probed once a minute, and is up when the portal answers', async () => {
  const { clock, portal, health, changes, client } = await start()
  portal.behaviour.dead = 'expired_token'
  await health.examine()
  for (let probes = 2; probes <= 4; probes++) {
    expect(await clock.skip()).toBe(60_000)
    await until('a probe', () => portal.requests.length === probes)
  }
  portal.behaviour.dead = undefined
  expect(await clock.skip()).toBe(60_000)
  await until('it is up', () => changes.length === 2)
  expect(changes).toEqual(['expired_token', undefined])
  expect(health.trouble()).toBeUndefined()
  expect(await client.call('profile')).toMatchObject({ ID: '1' })
  expect(clock.sleeping()).toBe(0)
})

test('a portal that is not there is unreachable until it is', async () => {
  const { clock, portal, health, changes, client, doubts } = await start()
  await portal.unplug()
  await failure(client.call('profile'))
  expect(doubts()).toBe(1)
  expect(await health.examine()).toMatchObject({ trouble: 'unreachable' })
  await portal.plugIn()
  await clock.skip()
  await until('it is up', () => changes.length === 2)
})

test('a failure that the probe does not share was no trouble of the incoming webhook', async () => {
  const { portal, health, changes, client, doubts } = await start()
  for (const answer of [RestError.system('NO_AUTH_FOUND'), RestError.system('ACCESS_DENIED', 403)]) {
    portal.behaviour.failing.set('profile', [answer])
    await failure(client.call('profile'))
    expect(await health.examine()).toBeUndefined()
  }
  expect(doubts()).toBe(2)
  expect(changes).toEqual([])
})

test('what the portal answers to the call alone raises no doubt', async () => {
  const { portal, client, doubts } = await start()
  const answers = [accessDenied(), RestError.system('insufficient_scope'), RestError.system('INTERNAL_SERVER_ERROR')]
  portal.behaviour.failing.set('profile', answers)
  for (const _ of answers) await failure(client.call('profile'))
  await failure(client.call('no.such.method'))
  expect(doubts()).toBe(0)
})

test('failures at the same time are judged by one probe, one that comes during a probe by another', async () => {
  const { portal, health } = await start()
  const answered = Promise.withResolvers<void>()
  portal.behaviour.held = answered.promise
  const first = [health.examine(), health.examine()]
  await until('the probe is sent', () => portal.requests.length === 1)
  const later = [health.examine(), health.examine()]
  answered.resolve()
  expect(await Promise.all([...first, ...later])).toEqual([undefined, undefined, undefined, undefined])
  // The second of the first two came when the probe was under way, too.
  expect(portal.called()).toEqual(['scope', 'scope'])
})

test('a portal that does not answer the probe is unreachable', async () => {
  const { portal, health } = await start({ probeTimeoutMs: 100 })
  const never = Promise.withResolvers<void>()
  portal.behaviour.held = never.promise
  expect(await health.examine()).toMatchObject({
    trouble: 'unreachable',
    message: `the incoming webhook of ${portal.host} is unreachable: ETIMEDOUT (no answer in 0.1 s)`,
  })
  never.resolve()
})

test('a refusal for too many requests says nothing: the probe is sent again', async () => {
  const { clock, portal, health } = await start()
  portal.behaviour.failing.set('scope', ['QUERY_LIMIT_EXCEEDED'])
  const examined = health.examine()
  await clock.skip()
  await until('it waits for its turn', () => clock.sleeping() > 0)
  await clock.skip()
  expect(await examined).toBeUndefined()
  expect(portal.called()).toEqual(['scope', 'scope'])
})

test('a stop ends the probing', async () => {
  const { clock, portal, health, changes } = await start()
  portal.behaviour.dead = 'expired_token'
  await health.examine()
  await until('it sleeps', () => clock.sleeping() > 0)
  health.stop()
  await until('it sleeps no more', () => clock.sleeping() === 0)
  expect(changes).toEqual(['expired_token'])
})
