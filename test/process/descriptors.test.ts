import { connect, type Socket } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { readValue } from '../support/exposition.ts'
import { request } from '../support/intake.ts'
import { dealBody, startReceiver, until } from '../support/receiver.ts'

const dropped = 'b24_connections_dropped_total'
const message = 'out of descriptors: connections are closed unanswered'

/** Connections that say nothing. */
function openMany(port: number, count: number) {
  const open = new Set<Socket>()
  for (let index = 0; index < count; index++) {
    const socket = connect(port, '127.0.0.1')
    open.add(socket)
    socket.on('error', () => undefined).on('close', () => open.delete(socket))
  }
  const close = () => {
    for (const socket of open) socket.destroy()
  }
  onTestFinished(close)
  return { open, close }
}

test.skipIf(process.platform !== 'linux')(
  'out of descriptors it says so while it lasts, and posts on open connections go on',
  async () => {
    const receiver = await startReceiver({ under: ['prlimit', '--nofile=160:160'] })
    const kept = connect(receiver.port, '127.0.0.1').setEncoding('utf8')
    onTestFinished(() => void kept.destroy())
    let answers = ''
    kept.on('data', (text: string) => {
      answers += text
    })
    const postOnKept = async (id: number) => {
      const before = answers.split('200 OK').length
      kept.write(request(dealBody(id), { connection: 'keep-alive' }))
      await until('it is answered', () => answers.split('200 OK').length > before)
    }
    await postOnKept(1)
    await until('it is ready', async () => JSON.stringify(await receiver.readyz()).includes('"ready"'))
    expect(readValue(await receiver.metrics(), dropped)).toBe(0)

    const strangers = openMany(receiver.port, 200)
    await until('some are closed', () => strangers.open.size < 100)
    await postOnKept(2)
    // The private listener and the journal have descriptors of their own.
    expect(await receiver.readyz()).toMatchObject({
      status: 'unavailable',
      connections: expect.stringMatching(
        /^out of descriptors: \d+ connections are open, and 160 descriptors allow no more/,
      ),
    })
    expect(readValue(await receiver.metrics(), dropped)).toBeGreaterThan(100)
    await expect.poll(() => receiver.logged(message)).toMatchObject([{ level: 50, descriptors: 160, connections: 64 }])

    strangers.close()
    await until('it takes connections again', async () => JSON.stringify(await receiver.readyz()).includes('"ready"'))
    expect((await receiver.post(dealBody(3))).status).toBe(200)
    expect((await receiver.journal()).map(({ object }) => object)).toEqual(['deal:1', 'deal:2', 'deal:3'])
  },
)
