import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { post } from '../../src/simulator/post.ts'
import { robotBody } from '../../src/simulator/robot-body.ts'
import { readRecorded, recorder, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

const secret = '0123456789abcdef0123456789abcdef'

test('a robot is handled like any event, also after a kill, and its path appears nowhere', async () => {
  const dataDir = temporaryFolder('robot')
  const seen = join(temporaryFolder('seen'), 'seen')
  const file = join(temporaryFolder('secret'), 'robot-path')
  writeFileSync(file, `/robot/${secret}\n`)
  const portal = { domain: 'example.bitrix24.com', memberId: 'm' }
  const robot = (origin: string, id: number) =>
    post(
      `${origin}/robot/${secret}?stage=NEW`,
      robotBody({ document: ['crm', 'CCrmDocumentDeal', `DEAL_${id}`], portal }),
    )

  const first = await startReceiver({ dataDir, env: { ROBOT_PATH_FILE: file, DISPATCHER: 'off' } })
  for (const id of [1, 2, 3]) expect(await robot(first.origin, id)).toMatchObject({ status: 200 })
  first.killGroup('SIGKILL')
  await first.exited

  const second = await startReceiver({
    dataDir,
    env: { ROBOT_PATH_FILE: file },
    handlers: { 'ROBOT.mjs': recorder(seen, 'ROBOT') },
  })
  expect(await robot(second.origin, 4)).toMatchObject({ status: 200 })
  expect(await post(`${second.origin}/robots/${secret}`, '')).toMatchObject({ status: 404 })
  await until(
    () => `all handled\n${second.output()}`,
    () => second.logged('handled').length === 4,
  )
  const handled = new Map(readRecorded(seen).map(({ object, data }) => [object, data]))
  expect(handled).toEqual(new Map([1, 2, 3, 4].map((id) => [`deal:${id}`, { stage: 'NEW' }])))
  expect(second.logged('the documentation does not know this event: is it spelt right?')).toEqual([])

  const told = first.output() + second.output() + JSON.stringify([await second.journal(), await second.readyz()])
  expect(told).not.toContain(secret.slice(0, 8))
})
