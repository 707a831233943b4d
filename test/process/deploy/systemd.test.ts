import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { readConfig } from '../../../src/config/config.ts'
import { readText, root } from '../../support/docs.ts'
import { dealBody, temporaryFolder } from '../../support/receiver.ts'
import { hasSocketActivation, spawnActivated } from '../../support/socket-activation.ts'

const service = readText('deploy/bitrix24-receiver.service')
const socket = readText('deploy/bitrix24-receiver.socket')
/** Where the unit has the checkout. */
const installed = '/srv/bitrix24-webhook-receiver'
const hasAnalyze = spawnSync('systemd-analyze', ['--version']).status === 0

describe.skipIf(!hasAnalyze)('systemd (skipped where there is no systemd-analyze)', () => {
  test('has nothing to say against the unit and its socket, and finds them hardened', () => {
    const folder = temporaryFolder('units')
    const files = [
      ['bitrix24-receiver.service', service.replaceAll(installed, root)],
      ['bitrix24-receiver.socket', socket],
    ].map(([name = '', text = '']) => {
      writeFileSync(join(folder, name), text)
      return join(folder, name)
    })
    const verify = spawnSync('systemd-analyze', ['verify', ...files], { encoding: 'utf8' })
    // It reads the units of the machine, too, and says what it thinks of them.
    expect(verify.stderr.split('\n').filter((line) => line.includes('bitrix24'))).toEqual([])
    expect(verify.status).toBe(0)
    // Of 0 to 100; the unit without its lines about what it may do has 92.
    const security = ['security', '--offline=true', '--threshold=40', '--no-pager', ...files.slice(0, 1)]
    expect(spawnSync('systemd-analyze', security).status).toBe(0)
  })
})

test('the unit gives a stop more time than SHUTDOWN_GRACE, and the socket has the default PORT', () => {
  const standard = readConfig({}, 'dispatcher')
  const timeout = /^TimeoutStopSec=(\d+)$/m.exec(service)?.[1]
  expect(Number(timeout) * 1_000).toBeGreaterThan(standard.shutdownGrace)
  expect(socket).toContain(`\nListenStream=127.0.0.1:${standard.port}\n`)
})

test.skipIf(!hasSocketActivation)('the command of the unit serves on its socket', async () => {
  const words = /^ExecStart=(.*)$/m.exec(service)?.[1]?.replaceAll(installed, root).split(' ') ?? []
  // Behind it stand node and src/bin/receiver.ts, which it gets as words that it does not read.
  const receiver = await spawnActivated({ under: ['env', '-C', root, ...words] })
  expect((await receiver.post(dealBody(1))).status).toBe(200)
  expect(await receiver.stop()).toEqual({ code: 0, signal: null })
})
