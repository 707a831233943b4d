import { duplexPair } from 'node:stream'
import { setImmediate as turn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { openChannel } from '../../../src/lib/ipc-channel.ts'
import { until } from '../../support/receiver.ts'

interface Said {
  readonly type: string
  readonly text?: string
}

/** Our end, and the bare other one. */
function open() {
  const [stream, other] = duplexPair()
  const channel = openChannel<Said, Said>(stream)
  const heard: unknown[] = []
  channel.events.on('message', (message) => heard.push(message))
  for (const what of ['garbage', 'close'] as const) channel.events.on(what, () => heard.push(what))
  return { channel, other, heard }
}

test('messages come as they were sent, in their order, however they are cut on the way', async () => {
  const { channel, other, heard } = open()
  const messages = [{ type: 'a' }, { type: 'b', text: 'Größe\n"🚚"' }, { type: 'c', text: 'x'.repeat(100_000) }]
  const bytes = Buffer.from(messages.map((message) => `${JSON.stringify(message)}\n`).join(''))
  for (let at = 0; at < 60; at++) other.write(bytes.subarray(at, at + 1))
  other.write(bytes.subarray(60))
  await until('all are there', () => heard.length === 3)
  expect(heard).toEqual(messages)

  const echo = openChannel<Said, Said>(other)
  const back: Said[] = []
  echo.events.on('message', (message) => back.push(message))
  const left: string[] = []
  for (const message of messages) channel.send(message, () => left.push(message.type))
  await until('all came back', () => back.length === 3)
  expect(back).toEqual(messages)
  expect(left).toEqual(['a', 'b', 'c'])
})

test.each(['null\n', '7\n', '"ready"\n', '{}\n', '{"type":1}\n', 'x{"type":"a"}\n', '\n', '\u0000\n'])(
  'after %j nothing is taken for a message any more',
  async (text) => {
    const { other, heard } = open()
    other.write('{"type":"before"}\n')
    other.write(`${text}{"type":"after"}\n`)
    other.write('{"type":"later"}\n')
    await until('it is told', () => heard.includes('garbage'))
    await turn()
    expect(heard).toEqual([{ type: 'before' }, 'garbage'])
  },
)

test('what has no end is not kept in memory for ever', async () => {
  const { other, heard } = open()
  const chunk = 'x'.repeat(1024 ** 2)
  let written = 0
  // Whoever reads no more takes no more either.
  while (!heard.includes('garbage') && written < 100) {
    other.write(chunk)
    written++
    await turn()
  }
  expect(heard).toEqual(['garbage'])
  expect(written).toBeLessThan(100)
})

test('when the other end is gone it is closed, and sending does no harm', async () => {
  const { channel, other, heard } = open()
  expect(channel.isOpen()).toBe(true)
  other.end('{"type":"last"}\n')
  await until('it is closed', () => heard.includes('close'))
  expect(heard).toEqual([{ type: 'last' }, 'close'])
  expect(channel.isOpen()).toBe(false)
  let isSent = false
  channel.send({ type: 'late' }, () => {
    isSent = true
  })
  expect(isSent).toBe(true)
})
