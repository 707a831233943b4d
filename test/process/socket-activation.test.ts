import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { describe, expect, onTestFinished, test } from 'vitest'
import { lostOrDoubled, startLoad } from '../support/load.ts'
import { dealBody, freePort, recorder, spawnReceiver, temporaryFolder, until } from '../support/receiver.ts'
import { childrenOf, descriptorsOf, hasSocketActivation, spawnActivated } from '../support/socket-activation.ts'

describe.skipIf(!hasSocketActivation)('on a socket of systemd-socket-activate (skipped where there is none)', () => {
  test('the post that started it is answered, and the log names the address of the socket', async () => {
    const receiver = await spawnActivated({ env: { HOST: '203.0.113.1' } })
    expect((await receiver.post(dealBody(1))).status).toBe(200)
    await expect
      .poll(() => receiver.logged(`ready for events: POST /bitrix24 on 127.0.0.1:${receiver.port}`))
      .toHaveLength(1)
    expect((await receiver.journal()).map(({ object }) => object)).toEqual(['deal:1'])
    expect(await receiver.stop()).toEqual({ code: 0, signal: null })
  })

  test('a PORT that is not that of the socket is reported', async () => {
    const receiver = await spawnActivated()
    const other = String(await freePort())
    const wrong = await spawnActivated({ under: ['env', `PORT=${other}`] })
    for (const one of [receiver, wrong]) expect((await one.post(dealBody(1))).status).toBe(200)
    expect(receiver.output()).not.toContain('PORT is not')
    await expect.poll(wrong.output).toMatch(/PORT is not that of the socket.*set it/)
  })

  test('SIGTERM under load fails no post: what is not taken waits for the next process, and none is doubled', async () => {
    const manager = await spawnActivated({}, { isKept: true })
    const load = startLoad(manager.url, { clients: 8 })
    const pids = new Set<number>()
    for (let restarts = 0; restarts < 3; restarts++) {
      const pid = await until('another receiver', () =>
        childrenOf(manager.child.pid ?? 0).find((one) => !pids.has(one)),
      )
      pids.add(pid)
      const acknowledged = load.acknowledged().length
      await until('it is under load', () => load.acknowledged().length > acknowledged + 50)
      process.kill(pid, 'SIGTERM')
    }
    const acknowledged = load.acknowledged().length
    await until('load after the last restart', () => load.acknowledged().length > acknowledged + 50)
    await load.stop()
    expect(load.statuses()).toEqual(new Set([200]))
    const journalled = (await manager.journal()).map(({ object }) => object)
    expect(journalled).toHaveLength(load.total())
    expect(lostOrDoubled(load.acknowledged(), journalled)).toEqual({ lost: [], doubled: [] })
  })

  test('posts wait for a receiver that was killed', async () => {
    const manager = await spawnActivated({}, { isKept: true })
    expect((await manager.post(dealBody(1))).status).toBe(200)
    const [pid = 0] = childrenOf(manager.child.pid ?? 0)
    process.kill(pid, 'SIGKILL')
    await until('it is gone', () => !existsSync(`/proc/${pid}`))
    const posts = [2, 3, 4].map((id) => manager.post(dealBody(id)))
    expect((await Promise.all(posts)).map(({ status }) => status)).toEqual([200, 200, 200])
  })

  const longest = Number(spawnSync('cat', ['/proc/sys/net/core/somaxconn'], { encoding: 'utf8' }).stdout)
  test.skipIf(longest < 2_000)('as many connections wait as in a socket of its own', async () => {
    const receiver = await spawnActivated()
    expect((await receiver.post(dealBody(1))).status).toBe(200)
    const { pid = 0 } = receiver.child
    process.kill(pid, 'SIGSTOP')
    const sockets = Array.from({ length: 1_000 }, () => connect(receiver.port, '127.0.0.1'))
    onTestFinished(() => {
      for (const socket of sockets) socket.destroy()
    })
    await Promise.all(sockets.map((socket) => once(socket, 'connect')))
    process.kill(pid, 'SIGCONT')
  })

  test('no child has the socket or its variables', async () => {
    const seen = `${temporaryFolder('seen')}/seen`
    const receiver = await spawnActivated({ handlers: { 'ONCRMDEALUPDATE.mjs': recorder(seen) } })
    await receiver.post(dealBody(1))
    await until('handled', () => receiver.logged('handled').length > 0)
    const { pid = 0 } = receiver.child
    const listener = `socket:[${inodeOf(receiver.port)}]`
    expect(descriptorsOf(pid)).toContain(listener)
    const children = childrenOf(pid)
    expect(children).not.toEqual([])
    for (const child of children) {
      expect(descriptorsOf(child)).not.toContain(listener)
      expect(readFileSync(`/proc/${child}/environ`, 'utf8')).not.toContain('LISTEN_')
    }
  })
})

test.skipIf(process.platform !== 'linux').for([
  ['no socket', 'exec 3</dev/null; export LISTEN_PID=$$; exec "$@"'],
  ['closed', 'exec 3<&-; export LISTEN_PID=$$; exec "$@"'],
] as const)('a descriptor that is %s is explained, and the start fails', async ([, script]) => {
  const receiver = await spawnReceiver({ env: { LISTEN_FDS: '1' }, under: ['bash', '-c', script, 'bash'] })
  expect(await receiver.exited).toEqual({ code: 1, signal: null })
  expect(receiver.output()).toMatch(
    /^The socket that LISTEN_FDS hands over is not a listening TCP socket; .*Accept=no: .*\n$/,
  )
})

test.skipIf(!hasSocketActivation)('a Unix socket is explained, and the start fails', async () => {
  const path = `${temporaryFolder('socket')}/b24.sock`
  const names = ['B24_APPLICATION_TOKEN', 'ADMIN_PORT', 'DATA_DIR', 'HANDLERS_DIR'].flatMap((name) => ['-E', name])
  const receiver = await spawnReceiver({ under: ['systemd-socket-activate', '-l', path, ...names] })
  await until('it listens', () => receiver.output().includes('Listening on '))
  const client = connect(path)
  client.on('error', () => undefined)
  expect(await receiver.exited).toEqual({ code: 1, signal: null })
  expect(receiver.output()).toContain('hands over is not a listening TCP socket')
  client.destroy()
})

test('npm between the service manager and the receiver is explained, and the start fails', async () => {
  const receiver = await spawnReceiver({ env: { LISTEN_FDS: '1', LISTEN_PID: '1' } })
  expect(await receiver.exited).toEqual({ code: 1, signal: null })
  expect(receiver.output()).toMatch(/^LISTEN_FDS is set, but LISTEN_PID is 1 and this is process \d+: .*not npm/)
})

/** Of the socket that listens on it. */
function inodeOf(port: number): string | undefined {
  const hex = port.toString(16).toUpperCase().padStart(4, '0')
  return readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .find(([, local, , state]) => local?.endsWith(`:${hex}`) && state === '0A')?.[9]
}
