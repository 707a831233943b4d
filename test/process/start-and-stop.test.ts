import { once } from 'node:events'
import { chmodSync, chownSync, readdirSync, statSync } from 'node:fs'
import { type AddressInfo, connect, createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { expect, test } from 'vitest'
import { listSegments } from '../../src/journal/segments.ts'
import { dealBody, spawnReceiver, startReceiver, TOKEN, temporaryFolder, until } from '../support/receiver.ts'

test('the start says where it listens, its tokens, where the journal is and which handlers are loaded', async () => {
  const receiver = await startReceiver({
    env: { B24_APPLICATION_TOKEN: `sales=${TOKEN},support=${TOKEN}x` },
    handlers: {
      'deals.mjs': `import { defineHandler } from 'bitrix24-webhook-receiver'\nexport default defineHandler('ONCRMDEAL*', () => {})`,
    },
  })
  const [ready] = receiver.logged(`ready for events: POST /bitrix24 on 127.0.0.1:${receiver.port}`)
  expect(ready).toMatchObject({ tokens: ['sales', 'support'], journal: join(receiver.dataDir, 'events.ndjson') })
  await until('handlers told', () => receiver.logged('handler loaded').length === 1)
  expect(receiver.logged('handler loaded')).toMatchObject([{ handler: 'deals', events: ['ONCRMDEAL*'] }])
  expect(receiver.output()).not.toContain(TOKEN)
})

test('a wrong configuration is reported whole, without the secrets, and exits 78', async () => {
  const receiver = await spawnReceiver({ env: { B24_APPLICATION_TOKEN: 'a b', PORT: '80a', WEBHOOK_PATH: 'x' } })
  expect(await receiver.exited).toEqual({ code: 78, signal: null })
  expect(receiver.output()).toMatch(
    /^Configuration: 3 problems\n {2}B24_APPLICATION_TOKEN .*\n {2}PORT .*"80a"\n {2}WEBHOOK_PATH .*\n$/,
  )
  expect(receiver.output()).not.toContain('a b')
})

test('no token configured: it does not start', async () => {
  const receiver = await spawnReceiver({ env: { B24_APPLICATION_TOKEN: '' } })
  expect(await receiver.exited).toEqual({ code: 78, signal: null })
  expect(receiver.output()).toContain('B24_APPLICATION_TOKEN  is required')
})

test('a taken port is explained', async () => {
  const other = createServer().listen(0, '127.0.0.1')
  await once(other, 'listening')
  const { port } = other.address() as AddressInfo
  const receiver = await spawnReceiver({ env: { PORT: String(port) } })
  expect(await receiver.exited).toEqual({ code: 1, signal: null })
  expect(receiver.output()).toBe(
    `Port ${port} on 127.0.0.1 is taken by another process: stop it, or set PORT (or ADMIN_PORT)\n`,
  )
  other.close()
})

test('a port of 0 is reported as the one that the system chose', async () => {
  const receiver = await startReceiver({ env: { ADMIN_PORT: '0' } })
  const readyz = /"readyz":"([^"]+)"/.exec(receiver.output())?.[1] ?? ''
  expect(readyz).toMatch(/^http:\/\/127\.0\.0\.1:[1-9]\d*\/readyz$/)
  expect((await fetch(readyz)).status).toBe(200)
})

test('a HOST that is not an address of this machine is explained', async () => {
  const receiver = await spawnReceiver({ env: { HOST: '203.0.113.7' } })
  expect(await receiver.exited).toEqual({ code: 1, signal: null })
  expect(receiver.output()).toBe(
    'HOST (or ADMIN_HOST) 203.0.113.7 is not an address of this machine: 0.0.0.0 listens on all of them\n',
  )
})

test('a variable that is nearly a setting is reported at the start', async () => {
  const receiver = await startReceiver({ env: { HANDLER_DIR: '/srv/handlers' } })
  const warning = 'HANDLER_DIR is not a setting. Did you mean HANDLERS_DIR?'
  await until('it is told', () => receiver.logged(warning).length > 0)
  expect(receiver.logged(warning)).toMatchObject([{ level: 40 }])
})

test('a second receiver on the same data directory refuses to start and names the first', async () => {
  const first = await startReceiver()
  const second = await spawnReceiver({ dataDir: first.dataDir })
  expect(await second.exited).toEqual({ code: 1, signal: null })
  expect(second.output()).toContain(`is in use by another receiver: pid ${first.child.pid} on `)
  expect((await first.post(dealBody(1))).status).toBe(200)
})

test('a killed receiver leaves no lock behind', async () => {
  const first = await startReceiver()
  first.killGroup('SIGKILL')
  await first.exited
  const second = await startReceiver({ dataDir: first.dataDir })
  expect((await second.post(dealBody(1))).status).toBe(200)
})

test.runIf(process.getuid?.() === 0)(
  'an unwritable data directory says which user may not write and what to run',
  async () => {
    const dataDir = temporaryFolder('data')
    chmodSync(dataDir, 0o755)
    const receiver = await spawnReceiver({ dataDir, uid: 65534 })
    expect(await receiver.exited).toEqual({ code: 1, signal: null })
    expect(receiver.output()).toBe(`User 65534 may not write to ${dataDir}. Run: chown -R 65534 ${dataDir}\n`)
  },
)

test.runIf(process.getuid?.() === 0)('a segment of someone else says which user may not read it', async () => {
  const first = await startReceiver()
  const { dataDir } = first
  await first.post(dealBody(1))
  await first.stop()
  const [segment] = await listSegments(dataDir)
  if (segment === undefined) throw new Error('no segment')
  const others = readdirSync(dataDir, { recursive: true, encoding: 'utf8' }).map((name) => join(dataDir, name))
  for (const path of [dataDir, ...others]) if (path !== segment.path) chownSync(path, 65534, 65534)
  chownSync(segment.path, 0, 0)
  const receiver = await spawnReceiver({ dataDir, uid: 65534 })
  expect(await receiver.exited).toEqual({ code: 1, signal: null })
  expect(receiver.output()).toBe(
    `User 65534 may not read ${segment.path}. Run: chown -R 65534 ${dirname(segment.path)}\n`,
  )
})

test.for(['SIGTERM', 'SIGINT'] as const)(
  '%s finishes the post that is on its way, refuses new ones and exits 0',
  async (signal) => {
    const receiver = await startReceiver({ env: { SHUTDOWN_GRACE: '60s' } })
    const body = dealBody(662)
    const socket = connect(receiver.port, '127.0.0.1')
    await once(socket, 'connect')
    let answer = ''
    socket.setEncoding('utf8').on('data', (text: string) => {
      answer += text
    })
    const head = `POST /bitrix24 HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: ${body.length}\r\n\r\n`
    socket.write(head + body.slice(0, 100))
    // The head was read when a later request on another connection was answered.
    await fetch(`${receiver.origin}/healthz`)
    receiver.killGroup(signal)
    await until('stopping', () => receiver.logged('stopping').length === 1)
    // No post: one that came before the listener was closed would be taken.
    await until('refusing', () =>
      fetch(`${receiver.origin}/healthz`).then(
        () => false,
        () => true,
      ),
    )
    socket.write(body.slice(100))
    await once(socket, 'close')
    expect(answer).toMatch(/^HTTP\/1\.1 200 /)
    expect(await receiver.exited).toEqual({ code: 0, signal: null })
    expect((await receiver.journal()).map((event) => event.object)).toEqual(['deal:662'])
  },
)

test('a client that never finishes does not hold a stop beyond the grace', async () => {
  const receiver = await startReceiver({ env: { SHUTDOWN_GRACE: '1s' } })
  const socket = connect(receiver.port, '127.0.0.1')
  await once(socket, 'connect')
  socket.on('error', () => undefined)
  socket.write(
    'POST /bitrix24 HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nevent=',
  )
  await fetch(`${receiver.origin}/healthz`)
  expect(await receiver.stop()).toEqual({ code: 0, signal: null })
  socket.destroy()
})

test.for([
  ['nothing', ''],
  ['half a request', 'GET /readyz HTTP/1.1\r\n'],
] as const)('a connection to the private listener that has sent %s does not hold a stop', async ([, text]) => {
  const receiver = await startReceiver({ env: { SHUTDOWN_GRACE: '1s' } })
  const socket = connect(receiver.adminPort, '127.0.0.1')
  await once(socket, 'connect')
  socket.on('error', () => undefined)
  socket.write(text)
  // It was taken when a later one was answered.
  await receiver.readyz()
  expect(await receiver.stop()).toEqual({ code: 0, signal: null })
  socket.destroy()
})

test('a reader of its output that goes away does not end it', async () => {
  const receiver = await startReceiver()
  receiver.child.stdout?.destroy()
  receiver.child.stderr?.destroy()
  for (let id = 1; id <= 20; id++) expect((await receiver.post(dealBody(id))).status).toBe(200)
  expect(await receiver.stop()).toEqual({ code: 0, signal: null })
})

test('every start writes a segment of its own, unused ones go, and the stable name is the newest', async () => {
  const first = await startReceiver()
  await first.post(dealBody(1))
  await first.stop()
  const second = await startReceiver({ dataDir: first.dataDir })
  await second.stop()
  const third = await startReceiver({ dataDir: first.dataDir })
  await third.post(dealBody(2))
  const segments = await listSegments(first.dataDir)
  expect(segments.map((segment) => segment.number)).toEqual([1, 3])
  expect(statSync(join(first.dataDir, 'events.ndjson')).ino).toBe(statSync(segments.at(-1)?.path ?? '').ino)
  expect((await third.journal()).map((event) => event.object)).toEqual(['deal:1', 'deal:2'])
})
