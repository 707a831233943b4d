import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { dispatcherOf } from '../support/dispatcher.ts'
import { canTrace } from '../support/faults.ts'
import { startPortal } from '../support/portal.ts'
import { createRandom } from '../support/random.ts'
import { startReceiver, TOKEN, temporaryFolder, until } from '../support/receiver.ts'

/** `npm run test:crash` sets 25; the suite runs a short form. */
const rounds = Number(process.env['ROUNDS'] ?? 2)

const DEAL = 2
const ids = [1, 2, 3, 4, 5, 6]
const stages = ['NEW', 'PREPARATION', 'WON']

const moves = (seen: string) => `
import { appendFileSync } from 'node:fs'
import { defineHandler } from 'bitrix24-webhook-receiver'
const mark = (line) => appendFileSync(${JSON.stringify(seen)}, JSON.stringify(line) + '\\n')
export default defineHandler('ONCRMDEALUPDATE', async (event, { record, previous }) => {
  const { id, stageId, title } = await record()
  const line = { id, from: previous?.stageId, to: stageId, title }
  mark({ ...line, is: 'begun' })
  await new Promise((resolve) => setTimeout(resolve, 100))
  mark({ ...line, is: 'done' })
}, { onChange: ['stageId'], retryFor: '1h' })
`

interface Mark {
  readonly id: number
  readonly from?: string
  readonly to: string
  readonly is: 'begun' | 'done'
}

test('no change of stage is missed when the dispatcher is killed, and only what was killed runs twice', async () => {
  const random = createRandom()
  const seen = join(temporaryFolder('seen'), 'seen')
  const portal = await startPortal({ limit: { rate: 1000, burst: 1000 } })
  for (const id of ids) portal.records.add(DEAL, { title: '', stageId: 'NEW' }, 7, id)
  const receiver = await startReceiver({
    handlers: { 'moves.mjs': moves(seen) },
    env: { ...portal.env, B24_HOOK: portal.incomingWebhook(), B24_RATE: '1000', B24_BURST: '1000' },
  })
  portal.subscribe({ url: receiver.url, token: TOKEN })
  const marks = () =>
    (existsSync(seen) ? readFileSync(seen, 'utf8') : '')
      .split('\n')
      .slice(0, -1)
      .map((line): Mark => JSON.parse(line))
  const countOf = (is: Mark['is']) => marks().filter((mark) => mark.is === is).length
  const edit = () => {
    const id = ids[random(ids.length)] ?? 1
    const stageId = stages[random(stages.length)] ?? 'NEW'
    portal.edit(DEAL, id, random(2) === 0 ? { stageId } : { title: String(random(1e9)) })
  }
  await until('it is loaded', () => receiver.logged('handler loaded').length > 0)
  for (let round = 0; round < rounds; round++) {
    const enough = countOf('begun') + random(8)
    await until('runs are under way', () => {
      edit()
      return countOf('begun') > enough
    })
    const loaded = receiver.logged('handler loaded').length
    process.kill(await dispatcherOf(receiver), 'SIGKILL')
    await until('the next one', () => receiver.logged('handler loaded').length > loaded)
  }
  for (const id of ids) portal.edit(DEAL, id, { stageId: 'LOSE' })
  const isTold = (id: number) => marks().findLast((mark) => mark.id === id && mark.is === 'done')?.to === 'LOSE'
  await until(
    () => `all are told\n${receiver.output()}`,
    () => ids.every(isTold),
  )
  // The edits above may all have been changes of the stage.
  const known = receiver.logged('unchanged').length
  portal.edit(DEAL, 1, { title: 'The last' })
  await until('another edit is no change', () => receiver.logged('unchanged').length > known)
  await receiver.stop()
  const pairs = ids.flatMap((id) => {
    const own = marks().filter((mark) => mark.id === id)
    return own.slice(1).map((mark, index) => ({ last: own[index], mark }))
  })
  const next = pairs.filter(({ mark }) => mark.is === 'begun')
  // From where the last run left it, or once more from where that began, when it was killed.
  expect(next.filter(({ last, mark }) => ![last?.from, last?.to].includes(mark.from))).toEqual([])
  // For no change only where the last run did not end, or was killed before that was written down.
  const isKnown = (last?: Mark) => last?.is === 'done' && last.to !== last.from
  expect(next.filter(({ last, mark }) => mark.from === mark.to && mark.from === last?.to && isKnown(last))).toEqual([])
  const again = next.filter(({ last, mark }) => mark.from !== last?.to).length
  const unchanged = receiver.logged('unchanged').length
  process.stdout.write(
    `onChange: ${portal.fired.length} events over ${rounds} kills, ${countOf('begun')} runs, ${unchanged} unchanged, ${again} begun again\n`,
  )
  // At most what ran when it was killed.
  expect(again).toBeLessThanOrEqual(rounds * ids.length)
})

test.skipIf(!canTrace)(
  'that a run has begun is on the disk before its handler is called, which a power cut leaves (strace)',
  () => {
    const folder = temporaryFolder('trace')
    const [script, trace] = [join(folder, 'script.mjs'), join(folder, 'trace')]
    const source = (path: string) => JSON.stringify(new URL(`../../${path}`, import.meta.url).href)
    writeFileSync(
      script,
      `import { openSqliteQueue } from ${source('src/queue/sqlite/queue.ts')}
import { writeSync } from 'node:fs'
const queue = openSqliteQueue({ path: ${JSON.stringify(join(folder, 'dispatch.db'))} })
const deliveries = ['1', '2'].map((id) => ({
  handler: 'h', segment: 1, order: 'object', debounce: 0, event: { id, event: 'ONCRMDEALUPDATE', object: 'deal:5', remote: '' },
}))
const claim = () => queue.claim([{ handler: 'h', limit: 1, coalesce: false }], 1)[0]
queue.add(deliveries, { segment: 1, offset: 0 })
await queue.done(claim(), { stageId: '"NEW"' })
const delivery = claim()
writeSync(1, 'before the run')
queue.markDirty(delivery)
writeSync(1, 'the handler runs')
await queue.done(delivery, { stageId: '"WON"' })
writeSync(1, 'behind the run')
`,
    )
    execFileSync('strace', ['-f', '-y', '-e', 'trace=write,fsync,fdatasync', '-o', trace, process.execPath, script])
    const text = readFileSync(trace, 'utf8')
    const between = (from: string, to: string) => text.slice(text.indexOf(`"${from}"`), text.indexOf(`"${to}"`))
    const sync = /f(data)?sync\(\d+<[^>]*dispatch\.db-wal>\)/
    expect(between('before the run', 'the handler runs')).toMatch(sync)
    // The end of a run may be forgotten: then it runs again.
    expect(between('the handler runs', 'behind the run')).not.toMatch(sync)
  },
)
