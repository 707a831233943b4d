import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { dispatcherOf } from '../support/dispatcher.ts'
import { startPortal } from '../support/portal.ts'
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

test('when the dispatcher is killed under edits no change of stage is missed, and only what was killed is told twice', {
  timeout: 60_000 + rounds * 15_000,
}, async () => {
  const seen = join(temporaryFolder('seen'), 'seen')
  const portal = await startPortal({ limit: { rate: 1000, burst: 1000 } })
  for (const id of ids) portal.records.add(DEAL, { title: '', stageId: 'NEW' }, 7, id)
  const receiver = await startReceiver({
    handlers: { 'moves.mjs': moves(seen) },
    env: { ...portal.env, B24_HOOK: portal.hook(), B24_RATE: '1000', B24_BURST: '1000' },
  })
  portal.subscribe({ url: receiver.url, token: TOKEN })
  const marks = () =>
    (existsSync(seen) ? readFileSync(seen, 'utf8') : '')
      .split('\n')
      .slice(0, -1)
      .map((line): Mark => JSON.parse(line))
  const countOf = (is: Mark['is']) => marks().filter((mark) => mark.is === is).length
  const edit = () => {
    const id = ids[Math.floor(Math.random() * ids.length)] ?? 1
    const stageId = stages[Math.floor(Math.random() * stages.length)] ?? 'NEW'
    portal.edit(DEAL, id, Math.random() < 0.5 ? { stageId } : { title: String(Math.random()) })
  }
  await until('it is loaded', () => receiver.logged('handler loaded').length > 0)
  for (let round = 0; round < rounds; round++) {
    const enough = countOf('begun') + Math.random() * 8
    await until('runs are under way', () => {
      edit()
      return countOf('begun') > enough
    })
    const loaded = receiver.logged('handler loaded').length
    process.kill(await dispatcherOf(receiver), 'SIGKILL')
    await until('the next one', () => receiver.logged('handler loaded').length > loaded, 30_000)
  }
  for (const id of ids) portal.edit(DEAL, id, { stageId: 'LOSE' })
  const isTold = (id: number) => marks().findLast((mark) => mark.id === id && mark.is === 'done')?.to === 'LOSE'
  await until(`all are told\n${receiver.output()}`, () => ids.every(isTold), 60_000)
  await receiver.stop()
  let again = 0
  for (const id of ids) {
    let last: Mark | undefined
    for (const mark of marks().filter((one) => one.id === id)) {
      if (mark.is === 'begun' && last) {
        // From where the last run left it, or once more from where that began, when it was killed.
        expect([last.from, last.to]).toContain(mark.from)
        if (mark.from !== last.to) again++
        // For no change only where the last run did not end.
        if (mark.from === mark.to) expect(last.is).toBe('begun')
      }
      last = mark
    }
    expect(last).toMatchObject({ to: 'LOSE', is: 'done' })
  }
  const unchanged = receiver.logged('unchanged').length
  process.stdout.write(
    `onChange: ${portal.fired.length} events over ${rounds} kills, ${countOf('begun')} runs, ${unchanged} unchanged, ${again} begun again\n`,
  )
  expect(unchanged).toBeGreaterThan(0)
  // At most what ran when it was killed.
  expect(again).toBeLessThanOrEqual(rounds * ids.length)
})
