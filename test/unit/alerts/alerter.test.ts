import { pino } from 'pino'
import { expect, onTestFinished, test } from 'vitest'
import { startAlerter } from '../../../src/alerts/alerter.ts'
import { startAlertTarget } from '../../support/alert-target.ts'
import { temporaryFolder } from '../../support/receiver.ts'

test('a state that cannot be read is logged once and ends no process, and alerts are sent once it can be read', async () => {
  const target = await startAlertTarget()
  const lines: string[] = []
  let reads = 0
  const alerter = startAlerter({
    sample() {
      if (++reads < 3) throw new Error('no state')
      return { dead: { queued: 1, count: 0, last: undefined } }
    },
    dataDir: temporaryFolder('alerter'),
    alertUrl: new URL(target.url),
    alertAfterSilence: undefined,
    log: pino({}, { write: (line) => void lines.push(line) }),
  })
  onTestFinished(() => alerter?.stop())
  expect((await target.got('dead_delivery')).details).toMatchObject({ dead: 1 })
  expect(lines.filter((line) => line.includes('no alert is sent: the state cannot be read'))).toHaveLength(1)
})
