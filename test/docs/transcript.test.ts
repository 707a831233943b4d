import { execFileSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { envOf } from '../support/cli.ts'
import { blockWith, root } from '../support/docs.ts'
import { dealBody, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

const shownId = '019aaf6e-1c2b-7a10-8f5e-3b6c1d2e4f50'
const shownTime = '2026-11-23 08:11:20'
const cli = `'${process.execPath}' --disable-warning=ExperimentalWarning '${join(root, 'src/bin/cli.ts')}'`

test('the session in docs/log.md is what a terminal shows, except for the id and the times', async () => {
  const broken = join(temporaryFolder('ledger'), 'not-fixed')
  const handler = `import { existsSync } from 'node:fs'
import { FinalError } from 'bitrix24-webhook-receiver'
export default () => {
  if (existsSync(${JSON.stringify(broken)})) throw new FinalError('the ledger has no deal 759')
}`
  execFileSync('touch', [broken])
  const receiver = await startReceiver({ handlers: { 'ONCRMDEALUPDATE.mjs': handler } })
  await receiver.post(dealBody(759))
  await until('it is dead', () => receiver.logged('failed for good: this delivery is dead').length === 1)
  rmSync(broken)
  const id = String((await receiver.journal())[0]?.id)

  const env = { ...envOf(receiver), PATH: process.env['PATH'], TZ: 'UTC' }
  const block = blockWith('docs/log.md', '$ npx --no -- b24-receiver events')
  const steps = block.split(/^\$ /m).slice(1)
  expect(steps.length).toBeGreaterThan(3)
  for (const step of steps) {
    const [line = '', ...shown] = step.trimEnd().split('\n')
    const command = line.replace('npx --no -- b24-receiver', cli).replaceAll(shownId, id)
    expect(command, line).toContain(cli)
    const run = () =>
      execFileSync('sh', ['-c', command], { env, cwd: tmpdir(), encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
        .replaceAll(id, shownId)
        .replaceAll(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, shownTime)
        .trimEnd()
    let said = run()
    // A retry is at work for a moment; what changes something is not done twice.
    if (line.includes(' events '))
      await until(`${line} shows ${shown.join('\n')}`, () => {
        said = run()
        return said === shown.join('\n')
      })
    expect(said, line).toBe(shown.join('\n'))
  }
})
