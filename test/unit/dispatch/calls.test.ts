import { DatabaseSync } from 'node:sqlite'
import { Writable } from 'node:stream'
import { pino } from 'pino'
import { beforeAll, expect, onTestFinished, test } from 'vitest'
import type { Rate } from '../../../src/bitrix24/budget.ts'
import { parseIncomingWebhooks } from '../../../src/bitrix24/incoming-webhook.ts'
import { createPortals } from '../../../src/bitrix24/portals.ts'
import { loadTransport } from '../../../src/bitrix24/transport.ts'
import { startDispatcher } from '../../../src/dispatch/dispatcher.ts'
import { defaultOptions, FinalError, type Handler } from '../../../src/handler/handler.ts'
import { openJournal } from '../../../src/journal/journal.ts'
import { oldest } from '../../../src/journal/position.ts'
import { realClock } from '../../../src/lib/clock.ts'
import { openSqliteOwnChanges } from '../../../src/queue/sqlite/own-changes.ts'
import { openSqliteQueue, queuePath } from '../../../src/queue/sqlite/queue.ts'
import { RestError } from '../../support/portal/rest-error.ts'
import { type Portal, startPortal } from '../../support/portal.ts'
import { temporaryFolder, until } from '../../support/receiver.ts'
import { eventOf } from '../queue/queue-contract.ts'

// Not within the time of a run.
beforeAll(loadTransport)

const plenty = { rate: 1000, burst: 1000 }

/** A journal and dispatchers that follow it, with the incoming webhook of a portal, which is the portal of the events. */
async function prepare(portal: Portal, { incomingWebhooks = portal.incomingWebhook(), limits = plenty as Rate } = {}) {
  const dataDir = temporaryFolder('calls')
  const lines: Record<string, unknown>[] = []
  const log = pino(
    new Writable({
      write(line, _encoding, done) {
        lines.push(JSON.parse(String(line)))
        done()
      },
    }),
  )
  const journal = await openJournal({ dataDir, segmentSize: 64 * 1024 ** 2, log })
  onTestFinished(() => journal.close())
  let last = 0

  async function start(
    handlers: Record<string, Handler>,
    { handlerTimeout = 60_000, probeEvery = 60_000, retryFor = 3_600_000 } = {},
  ) {
    const queue = openSqliteQueue({ path: queuePath(dataDir) })
    const ownChanges = openSqliteOwnChanges({ path: queuePath(dataDir) })
    const changes: (string | undefined)[] = []
    let resume = () => {}
    const portals = createPortals({
      ...limits,
      incomingWebhooks: incomingWebhooks === '' ? [] : parseIncomingWebhooks(incomingWebhooks),
      clock: realClock,
      probeEvery,
      onChange: (_, trouble) => {
        changes.push(trouble?.code)
        if (!trouble) resume()
      },
    })
    const dispatcher = await startDispatcher({
      dataDir,
      from: (await queue.position()) ?? oldest,
      handlers: Object.entries(handlers).map(([name, handle]) => ({
        name,
        file: `/handlers/${name}.ts`,
        events: ['*'],
        matches: () => true,
        handle,
        options: defaultOptions,
      })),
      queue,
      portals,
      ownChanges,
      concurrency: 8,
      retryFor,
      handlerTimeout,
      retentionDays: 30,
      log,
    })
    dispatcher.failed.catch((error: unknown) => lines.push({ msg: 'the dispatcher failed', error: String(error) }))
    resume = dispatcher.resume
    const end = async () => {
      await dispatcher.stop(0)
      portals.stop()
      await ownChanges.close()
      await queue.close()
    }
    onTestFinished(end)
    return { end, changes }
  }

  return {
    start,
    append: async (...objects: string[]) => {
      for (const object of objects) {
        const { level: _, time: _time, msg: _msg, ...event } = eventOf(++last, object)
        await journal.append({ ...event, auth: { domain: portal.host, member_id: portal.memberId } })
      }
    },
    logged: (msg: string) => lines.filter((line) => line['msg'] === msg),
    /** What the queue says of each delivery, oldest first. */
    deliveries: () => {
      const db = new DatabaseSync(queuePath(dataDir), { readOnly: true })
      try {
        return db.prepare('SELECT handler, state, attempts, error FROM delivery ORDER BY key').all()
      } finally {
        db.close()
      }
    },
  }
}

const failed = 'failed, will be tried again'
const dead = 'failed for good: this delivery is dead'
const postponed = 'postponed until the incoming webhook works'

const callProfile: Handler = (_event, { bitrix24 }) => bitrix24.call('profile')

test('runs that wait for their turn longer than a run may take are handled, at the first attempt', async () => {
  const portal = await startPortal()
  const { append, start, logged } = await prepare(portal, { limits: { rate: 2, burst: 1 } })
  await append(...Array.from({ length: 8 }, (_, index) => `deal:${index}`))
  await start({ h: callProfile }, { handlerTimeout: 1_500 })
  await until('all are handled', () => logged('handled').length === 8)
  expect(new Set(logged('handled').map((line) => line['attempt']))).toEqual(new Set([1]))
  // The first of them waited for nobody, the last for seven others.
  expect(logged('handled').filter((line) => Number(line['ms']) > 2 * 1_500)).not.toEqual([])
  expect(logged(failed)).toEqual([])
})

test('the time in which a call is answered counts, and a run out of time fails if the portal works', async () => {
  const portal = await startPortal()
  const { append, start, logged, deliveries } = await prepare(portal)
  await append('deal:1')
  const slow = Promise.withResolvers<void>()
  portal.behaviour.held = slow.promise
  const reasons: unknown[] = []
  const handle: Handler = async (_event, { bitrix24, attempt }) => {
    if (attempt > 1) return
    await bitrix24.call('profile').catch((error: unknown) => {
      reasons.push(error)
      // The others are answered again.
      portal.behaviour.held = undefined
      throw error
    })
  }
  // Long enough for the call to come to the portal.
  await start({ h: handle }, { handlerTimeout: 2_000 })
  await until('handled', () => logged('handled').length === 1)
  slow.resolve()
  expect(reasons).toMatchObject([{ name: 'TimeoutError' }])
  expect(logged(failed)).toMatchObject([{ attempt: 1, err: { message: 'The operation was aborted due to timeout' } }])
  expect(deliveries()).toMatchObject([{ state: 'done', attempts: 2 }])
  expect(portal.called()).toEqual(['profile', 'scope'])
})

test('a failure with an incoming webhook that does not work is not charged, and is probed once', async () => {
  const portal = await startPortal()
  const { append, start, logged, deliveries } = await prepare(portal)
  portal.behaviour.dead = 'expired_token'
  const final: Handler = async (_event, { bitrix24 }) => {
    try {
      await bitrix24.call('profile')
    } catch {
      throw new FinalError('no profile')
    }
  }
  await append('deal:1', 'deal:2')
  const { changes } = await start({ final, plain: callProfile })
  await until('all are postponed', () => logged(postponed).length === 4)
  expect(deliveries()).toEqual(
    ['final', 'plain', 'final', 'plain'].map((handler) => ({
      handler,
      state: 'waiting',
      attempts: 0,
      error: `the incoming webhook of ${portal.host} is dead: expired_token (The access token provided has expired)`,
    })),
  )
  expect(changes).toEqual(['expired_token'])
  expect(portal.called().filter((method) => method === 'scope').length).toBeLessThanOrEqual(4)
  expect(logged(dead)).toEqual([])
})

test('while the incoming webhook is down a handler that calls it does not run, and the others go on', async () => {
  const portal = await startPortal()
  const { append, start, logged } = await prepare(portal)
  const runs: string[] = []
  const counting =
    (name: string, handle: Handler): Handler =>
    (event, context) => {
      runs.push(`${name} ${event.id}`)
      return handle(event, context)
    }
  const late: Handler = (event, context) => (Number(event.id) >= 4 ? callProfile(event, context) : undefined)
  await append('deal:1', 'deal:2')
  const { changes } = await start({
    caller: counting('caller', callProfile),
    late: counting('late', late),
    other: counting('other', () => undefined),
  })
  await until('they work', () => logged('handled').length === 6)
  portal.behaviour.dead = 'INVALID_CREDENTIALS'
  await append('deal:3')
  await until('it is postponed', () => logged(postponed).length === 1)
  expect(changes).toEqual(['INVALID_CREDENTIALS'])
  const before = portal.requests.length
  await append('deal:4', 'deal:5')
  await until('they are postponed', () => logged(postponed).length === 5)
  await until('the others go on', () => logged('handled').length === 10)
  expect(portal.requests.length).toBe(before)
  const ran = (name: string) => runs.filter((run) => run.startsWith(name)).length
  // Of the two events of `late` at most the first few ran until it was known.
  expect([ran('caller'), ran('other')]).toEqual([3, 5])
  expect(ran('late')).toBeGreaterThanOrEqual(4)
})

test('when the probe is answered what was postponed runs at once, in order and as its first attempt', async () => {
  const portal = await startPortal()
  const { append, start, logged, deliveries } = await prepare(portal)
  await portal.unplug()
  await append('deal:1', 'deal:1', 'deal:2')
  const seen: string[] = []
  const { changes } = await start(
    {
      h: async ({ id }, { bitrix24, attempt }) => {
        await bitrix24.call('profile')
        seen.push(`${id} at ${attempt}`)
      },
    },
    { probeEvery: 200 },
  )
  await until('both objects wait', () => logged(postponed).length === 2)
  await portal.plugIn()
  await until('all are handled', () => logged('handled').length === 3)
  expect(seen.filter((run) => !run.startsWith('3'))).toEqual(['1 at 1', '2 at 1'])
  expect(changes.at(-1)).toBeUndefined()
  expect(deliveries()).toMatchObject([{ attempts: 1 }, { attempts: 1 }, { attempts: 1 }])
  expect(logged(failed)).toEqual([])
})

test("a failure that may be the incoming webhook's is the run's if the probe works: the attempt counts", async () => {
  const portal = await startPortal()
  const { append, start, logged } = await prepare(portal)
  portal.behaviour.failing.set('profile', [RestError.system('NO_AUTH_FOUND')])
  await append('deal:1')
  const { changes } = await start({ h: callProfile })
  await until('handled', () => logged('handled').length === 1)
  expect(logged(failed)).toMatchObject([{ attempt: 1, err: { code: 'NO_AUTH_FOUND' } }])
  expect(logged('handled')).toMatchObject([{ attempt: 2 }])
  expect(changes).toEqual([])
})

test('what was postponed when its dispatcher ended is run by the next at once', async () => {
  const portal = await startPortal()
  const { append, start, logged } = await prepare(portal)
  portal.behaviour.dead = 'expired_token'
  await append('deal:1')
  const first = await start({ h: callProfile })
  await until('it waits', () => logged(postponed).length === 1)
  await first.end()
  portal.behaviour.dead = undefined
  await start({ h: callProfile })
  await until('handled', () => logged('handled').length === 1)
  expect(logged('handled')).toMatchObject([{ attempt: 1 }])
})

test('calls that a failed run left behind are not made beside the next run, and end no process', async () => {
  const portal = await startPortal()
  const { append, start, logged } = await prepare(portal, { limits: { rate: 2, burst: 1 } })
  portal.behaviour.forbidden.add('crm.deal.list')
  await append('deal:1')
  const left: Promise<unknown>[] = []
  await start({
    h: async (_event, { bitrix24, attempt }) => {
      if (attempt > 1) return
      const [deals, ...others] = ['crm.deal.list', 'profile', 'profile'].map((method) => bitrix24.call(method))
      left.push(...others)
      // Here nobody charges a run with what it leaves behind.
      for (const other of others) other?.catch(() => undefined)
      await deals
    },
  })
  await until('handled', () => logged('handled').length === 1)
  for (const call of left) await expect(call).rejects.toMatchObject({ code: 'ACCESS_DENIED' })
  expect(portal.called()).toEqual(['crm.deal.list'])
})

test.each<[string, (portal: Portal) => string, (portal: Portal) => string]>([
  ['is not set', () => '', () => 'B24_HOOK is not set'],
  [
    'is of another portal',
    () => 'https://other.bitrix24.com/rest/1/hidden/',
    ({ host }) =>
      `the incoming webhook of other.bitrix24.com is not used for an event of ${host}: if the portal was renamed, B24_HOOK needs its new address`,
  ],
  [
    'has another name than the token',
    (portal) => `sales=${portal.incomingWebhook()}`,
    () => 'B24_HOOK has no incoming webhook for the events of a token without a name',
  ],
])(
  'where the incoming webhook %s a run that uses context.bitrix24 waits, uncharged; others are handled',
  async (_, incomingWebhooks, error) => {
    const portal = await startPortal()
    const { append, start, logged, deliveries } = await prepare(portal, { incomingWebhooks: incomingWebhooks(portal) })
    await append('deal:1')
    const handlers: Record<string, Handler> = {
      touching: (_event, { bitrix24 }) => void bitrix24,
      other: (_event, { log }) => log.info('not touched'),
    }
    await start(handlers, { retryFor: 0 })
    await until('one waits, one is handled', () => logged(postponed).length === 1 && logged('handled').length === 1)
    expect(deliveries()).toMatchObject([
      { handler: 'touching', state: 'waiting', attempts: 0, error: error(portal) },
      { handler: 'other', state: 'done' },
    ])
    expect(portal.requests).toEqual([])
  },
)

test.each([
  [200, '<h1>Sign in</h1>'],
  [200, '{"status":"ok"}'],
  [400, '<h1>Bad request</h1>'],
  [401, '<h1>Sign in</h1>'],
  [403, '{"error":"forbidden"}'],
  [404, '{"error":"Not Found"}'],
  [404, '{"error":{"message":"no such route"}}'],
  [410, ''],
  [421, ''],
  [423, 'Locked'],
  [429, 'Too many'],
  [451, ''],
  [502, ''],
])(
  'where something else than REST answers, with %i and %s, all wait, uncharged, until REST does',
  async (status, body) => {
    const portal = await startPortal()
    portal.behaviour.raw = { status, headers: { 'content-type': 'text/html' }, body }
    const { append, start, logged, deliveries } = await prepare(portal)
    await append('deal:1', 'deal:2', 'deal:3')
    const { changes } = await start({ h: callProfile }, { retryFor: 0, probeEvery: 100 })
    await until('they wait', () => logged(postponed).length >= 3)
    portal.behaviour.raw = undefined
    await until('all are handled', () => logged('handled').length === 3)
    expect(deliveries()).toMatchObject(Array.from({ length: 3 }, () => ({ state: 'done', attempts: 1 })))
    expect(changes.at(-1)).toBeUndefined()
  },
)

test.each(['user_access_error', 'A_NEW_CODE'])(
  'a portal that answers everything with 401 and %s does so too',
  async (code) => {
    const portal = await startPortal()
    portal.behaviour.dead = new RestError(code, 'no', 401)
    const { append, start, logged } = await prepare(portal)
    await append('deal:1')
    await start({ h: callProfile }, { retryFor: 0, probeEvery: 100 })
    await until('it waits', () => logged(postponed).length === 1)
    portal.behaviour.dead = undefined
    await until('handled', () => logged('handled').length === 1)
    expect(logged(failed)).toEqual([])
  },
)

test('what the incoming webhook may not do is reported to the delivery: the scope, or its user', async () => {
  const portal = await startPortal({ scopes: ['crm'], user: 17 })
  const { append, start, logged, deliveries } = await prepare(portal)
  portal.behaviour.forbidden.add('crm.deal.list')
  await append('deal:1')
  await start(
    {
      scope: (_event, { bitrix24 }) => bitrix24.call('tasks.task.list'),
      user: (_event, { bitrix24 }) => bitrix24.call('crm.deal.list'),
    },
    { retryFor: 0 },
  )
  await until('both failed', () => logged(dead).length === 2)
  expect(deliveries()).toMatchObject([
    {
      attempts: 1,
      error: `Bitrix24Error: tasks.task.list needs the scope "task", which the incoming webhook of ${portal.host} does not have (insufficient_scope)`,
    },
    {
      attempts: 1,
      error: `Bitrix24Error: crm.deal.list is not allowed to user 17, who made the incoming webhook of ${portal.host} (ACCESS_DENIED)`,
    },
  ])
})
