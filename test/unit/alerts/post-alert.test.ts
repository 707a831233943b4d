import { expect, test } from 'vitest'
import type { Alert } from '../../../src/alerts/alerts.ts'
import { postAlert } from '../../../src/alerts/post-alert.ts'
import { startAlertTarget } from '../../support/alert-target.ts'

const alert: Alert = {
  kind: 'silence',
  state: 'on',
  text: 'hooks: тихо',
  MESSAGE: 'hooks: тихо',
  at: '2026-11-23T08:00:00.000Z',
  since: '2026-11-23T08:00:00.000Z',
  host: 'hooks',
  details: {},
}

test('an alert arrives as it is, and any 2xx means that it was taken', async () => {
  const target = await startAlertTarget()
  await postAlert(new URL(target.url), alert)
  expect(target.took).toEqual([alert])
  target.answer((response) => response.writeHead(204).end())
  await expect(postAlert(new URL(target.url), alert)).resolves.toBeUndefined()
})

test('a target that does not answer is given up, and the error names only its host', async () => {
  const target = await startAlertTarget()
  target.answer(() => undefined)
  await expect(postAlert(new URL(target.url), alert, 50)).rejects.toThrow(
    new Error(`${target.host}: no answer within 50 ms`),
  )
})

test('a body that does not end is not waited for', async () => {
  const target = await startAlertTarget()
  target.answer((response) => response.writeHead(200).write('and so on'))
  await expect(postAlert(new URL(target.url), alert)).resolves.toBeUndefined()
})
