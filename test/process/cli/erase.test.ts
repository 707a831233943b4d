import { appendFileSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { listSegments } from '../../../src/journal/segments.ts'
import { openSqliteDeliveries } from '../../../src/queue/sqlite/deliveries.ts'
import { queuePath } from '../../../src/queue/sqlite/queue.ts'
import { webhookBody } from '../../../src/simulator/webhook-body.ts'
import { jsonLines, runCli, spawnCli } from '../../support/cli.ts'
import { createRandom } from '../../support/random.ts'
import { type Receiver, startReceiver, TOKEN, temporaryFolder, until } from '../../support/receiver.ts'

const person = 'Erika-Musterfrau'
const member = 'a223c6b3710f85df22e9377d6c4f7553'

function contactBody(id: number, name: string, { memberId = member, domain = 'example.bitrix24.com' } = {}): string {
  const portal = { domain, memberId, token: TOKEN }
  const body = webhookBody({ event: 'ONCRMCONTACTUPDATE', id, ts: 1736405807, portal })
  return `${body}&data[FIELDS][NAME]=${name}&auth[user_name]=${name}&more=${name}`
}

/** Fails as often as the file says, with what the person is called, as handlers do. */
const handler = (folder: string) => `import { existsSync, appendFileSync } from 'node:fs'
export default (event, { attempt }) => {
  if (existsSync('${folder}/fail') || (attempt === 1 && existsSync('${folder}/fail-once')))
    throw Object.assign(new Error('no such customer: ' + event.data.FIELDS.NAME), existsSync('${folder}/fail') && { [Symbol.for('bitrix24-webhook-receiver.final')]: true })
  appendFileSync('${folder}/ran', event.object + '\\n')
}`

async function start(options: { dataDir?: string; env?: Record<string, string>; marks?: readonly string[] } = {}) {
  const folder = temporaryFolder('marks')
  for (const name of options.marks ?? []) writeFileSync(join(folder, name), '')
  const receiver = await startReceiver({ ...options, handlers: { 'ONCRMCONTACTUPDATE.mjs': handler(folder) } })
  return { receiver, folder }
}

/** Every file in which the text stands, in any byte of it. */
function filesWith(dataDir: string, text: string): string[] {
  return readdirSync(dataDir, { recursive: true, encoding: 'utf8' }).filter((name) => {
    const path = join(dataDir, name)
    return statSync(path).isFile() && readFileSync(path).includes(text)
  })
}

const cliOf = (dataDir: string) => ({
  erase: (...args: string[]) => runCli({ env: { DATA_DIR: dataDir } }, 'erase', ...args),
  verify: () => runCli({ env: { DATA_DIR: dataDir } }, 'verify'),
})

const linesOf = async (dataDir: string) =>
  (await listSegments(dataDir)).flatMap(({ path }) => readFileSync(path, 'utf8').split('\n').slice(0, -1))

async function post(receiver: Receiver, ...bodies: string[]) {
  for (const body of bodies) expect((await receiver.post(body)).status).toBe(200)
}

const handled = (receiver: Receiver, count: number) =>
  until('handled', () => receiver.logged('handled').length === count)

test('erase leaves the line, its length, ids and times, and no byte of the person, beside a receiver', async () => {
  const { receiver } = await start({ marks: ['fail-once'] })
  const { dataDir } = receiver
  await post(receiver, contactBody(17, person), contactBody(18, 'Somebody-Else'), contactBody(17, `${person}-2`))
  await handled(receiver, 3)
  const before = await linesOf(dataDir)
  const events = await receiver.journal()
  expect(filesWith(dataDir, person)).toContain('events.ndjson')
  expect(filesWith(dataDir, `no such customer: ${person}`)).not.toEqual([])

  const { code, stdout, stderr } = await cliOf(dataDir).erase('--object', 'contact:17', '--yes')
  expect([code, stdout]).toEqual([
    0,
    'contact:17: 2 lines were overwritten, 0 pending or dead deliveries were dropped\n',
  ])
  expect(stderr).toContain('2 events about contact:17 will lose what they hold, for good')

  expect(filesWith(dataDir, person)).toEqual([])
  const after = await linesOf(dataDir)
  expect(after.map((line) => Buffer.byteLength(line))).toEqual(before.map((line) => Buffer.byteLength(line)))
  expect(after[1]).toBe(before[1])
  for (const at of [0, 2]) {
    const { data: _, extra: _more, auth, ...kept } = { ...events[at] }
    expect(JSON.parse(after[at] ?? '')).toEqual({
      ...kept,
      auth: { domain: auth?.['domain'], member_id: member },
      erased: true,
    })
  }
  expect(await cliOf(dataDir).verify()).toMatchObject({ code: 0, stdout: expect.stringContaining('no trouble') })
  const deliveries = openSqliteDeliveries({ path: queuePath(dataDir), mode: 'read' })
  const [record] = await deliveries.ofEvent(String(events[0]?.id))
  expect(record).toMatchObject({ state: 'done', error: undefined })
  expect(record && (await deliveries.failures(record))).toEqual([])
  await deliveries.close()

  await post(receiver, contactBody(17, 'Later'))
  await handled(receiver, 4)
  const again = await cliOf(dataDir).erase('--object', 'contact:18', '--yes', '--json')
  expect(jsonLines(again.stdout)).toEqual([{ object: 'contact:18', events: 1, lines: 1, dropped: 0 }])
  expect(filesWith(dataDir, 'Somebody-Else')).toEqual([])
  expect(filesWith(dataDir, 'Later')).not.toEqual([])
})

test('beside a receiver that never stops writing no other line changes, and none is lost', async () => {
  const { receiver } = await start({ env: { SEGMENT_SIZE: '30KB' } })
  const { dataDir } = receiver
  let isOver = false
  let posted = 0
  const posting = [1, 2, 3].map(async (orderingKey) => {
    for (let at = 0; !isOver; at++) {
      await post(
        receiver,
        contactBody(at % 5 === 0 ? 17 : orderingKey, at % 5 === 0 ? person : `Else-${orderingKey}-${at}`),
      )
      posted++
    }
  })
  for (let round = 1; round <= 3; round++) {
    await until('some are posted', () => posted > 30 * round)
    const { code, stderr } = await cliOf(dataDir).erase('--object', 'contact:17', '--yes', '--force')
    expect([code, stderr.includes('cannot')]).toEqual([0, false])
  }
  isOver = true
  await Promise.all(posting)
  const events = await receiver.journal()
  expect(events).toHaveLength(posted)
  const [mine, others] = [true, false].map((is) => events.filter(({ object }) => (object === 'contact:17') === is))
  expect(mine?.some((event) => 'erased' in event)).toBe(true)
  expect(others?.every(({ data }) => JSON.stringify(data).includes('Else-'))).toBe(true)
  expect((await cliOf(dataDir).erase('--object', 'contact:17', '--yes', '--force')).code).toBe(0)
  expect(filesWith(dataDir, person)).toEqual([])
  expect(await cliOf(dataDir).verify()).toMatchObject({ code: 0, stdout: expect.stringContaining('no trouble') })
  expect(receiver.logged('a line of the journal is no event; skipped')).toEqual([])
})

test('what is dead or pending is named, and dropped only with --force; a stopped receiver is no matter', async () => {
  const { receiver } = await start({ marks: ['fail'] })
  const { dataDir } = receiver
  await post(receiver, contactBody(17, person), contactBody(18, 'Somebody-Else'))
  await until('dead', () => receiver.logged('failed for good: this delivery is dead').length === 2)
  await receiver.stop()
  const [event] = await receiver.journal()
  const before = await linesOf(dataDir)
  const refused = await cliOf(dataDir).erase('--object', 'contact:17', '--yes')
  expect(refused).toMatchObject({ code: 1, stdout: `${event?.id} ONCRMCONTACTUPDATE: dead\n` })
  expect(refused.stderr).toContain('drop them with --force')
  expect(await linesOf(dataDir)).toEqual(before)
  const forced = await cliOf(dataDir).erase('--object', 'contact:17', '--yes', '--force')
  expect(forced.stdout).toBe('contact:17: 1 line was overwritten, 1 pending or dead delivery was dropped\n')
  expect(filesWith(dataDir, person)).toEqual([])
  expect(filesWith(dataDir, 'Somebody-Else')).toContain('dispatch.db')
  const dead = await runCli({ env: { DATA_DIR: dataDir } }, 'dead', '--json')
  expect(jsonLines(dead.stdout)).toMatchObject([{ object: 'contact:18' }])
})

test('an object of several portals is erased only with --member, and only there', async () => {
  const { receiver } = await start()
  const { dataDir } = receiver
  const other = { memberId: 'b'.repeat(32), domain: 'other.bitrix24.com' }
  await post(receiver, contactBody(17, person), contactBody(17, 'Somebody-Else', other))
  await handled(receiver, 2)
  const { code, stderr } = await cliOf(dataDir).erase('--object', 'contact:17', '--yes')
  expect(code).toBe(1)
  expect(stderr).toContain(`choose one with --member: ${member}, ${other.memberId}`)
  expect((await cliOf(dataDir).erase('--object', 'contact:17', '--member', member, '--yes')).code).toBe(0)
  expect(filesWith(dataDir, person)).toEqual([])
  expect(filesWith(dataDir, 'Somebody-Else')).not.toEqual([])
})

test('what was cut off a segment, and half a line of it, is erased too', async () => {
  const { receiver } = await start()
  const { dataDir } = receiver
  await post(receiver, contactBody(17, person), contactBody(18, 'Somebody-Else'))
  await handled(receiver, 2)
  await receiver.stop()
  const [segment] = await listSegments(dataDir)
  const [mine = '', other = ''] = await linesOf(dataDir)
  const cut = `${segment?.path}.cut`
  appendFileSync(cut, `${mine}\n${other}\n${mine.slice(0, mine.indexOf(person) + person.length)}`)
  const { size } = statSync(cut)
  expect((await cliOf(dataDir).erase('--object', 'contact:17', '--yes')).code).toBe(0)
  expect(filesWith(dataDir, person)).toEqual([])
  expect([statSync(cut).size, readFileSync(cut, 'utf8').split('\n')[1]]).toEqual([size, other])
})

test('no handler runs for what was erased before it was followed', async () => {
  const { receiver } = await start({ env: { DISPATCHER: 'off' } })
  const { dataDir } = receiver
  await post(receiver, contactBody(17, person), contactBody(18, 'Somebody-Else'))
  await receiver.stop()
  const refused = await cliOf(dataDir).erase('--object', 'contact:17', '--yes')
  expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining('1 of its events were not followed yet') })
  expect((await cliOf(dataDir).erase('--object', 'contact:17', '--yes', '--force')).code).toBe(0)
  const { receiver: second, folder } = await start({ dataDir })
  await handled(second, 1)
  expect(readFileSync(join(folder, 'ran'), 'utf8')).toBe('contact:18\n')
  expect(await second.journal()).toMatchObject([{ object: 'contact:17', erased: true }, { object: 'contact:18' }])
  const replay = await runCli(
    { env: { DATA_DIR: dataDir, HANDLERS_DIR: second.handlersDir } },
    'replay',
    '--object',
    'contact:17',
    '--yes',
  )
  expect(replay.stdout + replay.stderr).not.toContain('was added')
})

/** Kills an erasure at some place. @returns whether something is left to be finished */
async function cutOff(dataDir: string, object: string, random: (limit: number) => number): Promise<boolean> {
  const { child, result } = spawnCli({ env: { DATA_DIR: dataDir } }, 'erase', '--object', object, '--yes')
  const isPending = () => readdirSync(dataDir).includes('erase.json')
  while (!isPending() && child.exitCode === null) await nextTurn()
  // Any place of what it does, which takes some 30 ms, and mostly an early one: it may be faster.
  if (random(2) === 0) await sleep(random(30))
  child.kill('SIGKILL')
  await result
  return isPending()
}

test.each([
  ['by the next erase', async (dataDir: string) => expect((await cliOf(dataDir).erase()).code).toBe(0)],
  [
    'by the next start',
    async (dataDir: string) => {
      const receiver = await startReceiver({ dataDir, env: { DISPATCHER: 'off' } })
      await until('it is finished', () => receiver.logged('an erasure that was cut off is finished').length === 1)
      await receiver.stop()
    },
  ],
])('a kill anywhere in between is finished %s', async (_, finish) => {
  const { receiver } = await start({ env: { SEGMENT_SIZE: '20KB' } })
  const { dataDir } = receiver
  const objects = Array.from({ length: 25 }, (_, at) => 200 + at)
  const nameOf = (id: number) => `${person}-${id}-`
  for (const id of objects)
    await post(receiver, ...Array.from({ length: 6 }, () => contactBody(id, nameOf(id).repeat(20))))
  await handled(receiver, objects.length * 6)
  await receiver.stop()
  let cuts = 0
  const random = createRandom()
  for (const id of objects) {
    if (cuts === 4) break
    if (!(await cutOff(dataDir, `contact:${id}`, random))) continue
    cuts++
    await finish(dataDir)
    expect(readdirSync(dataDir)).not.toContain('erase.json')
    expect(filesWith(dataDir, nameOf(id))).toEqual([])
    expect(await cliOf(dataDir).verify()).toMatchObject({ code: 0, stdout: expect.stringContaining('no trouble') })
  }
  expect(cuts).toBe(4)
})
