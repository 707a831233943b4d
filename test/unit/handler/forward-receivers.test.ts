import { once } from 'node:events'
import { createServer } from 'node:http'
import formbody from '@fastify/formbody'
import express from 'express'
import Fastify from 'fastify'
import { expect, onTestFinished, test } from 'vitest'
import type { JournalledEvent } from '../../../src/events/event.ts'
import { type ForwardOptions, forward } from '../../../src/handler/forward.ts'
import type { Context } from '../../../src/handler/handler.ts'
import { dealBody, startReceiver, until } from '../../support/receiver.ts'

const bots = { '5': { BOT_ID: '5', BOT_CODE: 'own_change' } }

/** Of a bot: the key of `BOT` is its id, and there is one. */
const message: JournalledEvent = {
  level: 30,
  msg: '',
  id: '019aaf6e-1c2b-7a10-8f5e-3b6c1d2e4f50',
  time: '2026-11-23T08:11:20.123Z',
  event: 'ONIMBOTMESSAGEADD',
  remote: '203.0.113.7',
  data: { BOT: bots, PARAMS: { MESSAGE: 'hi' } },
}

async function send(url: string, options: ForwardOptions): Promise<void> {
  // It asks nothing else of its context.
  const context = { signal: new AbortController().signal } as Context
  await forward(url, options).handle(message, context)
}

const formats = ['form', 'json'] as const

test('Express loses the id of a bot from a form, and has it from JSON', async () => {
  const got: unknown[] = []
  const app = express()
  app.use(express.urlencoded({ extended: true }), express.json())
  app.post('/', (request, response) => {
    got.push(request.body.data.BOT)
    response.end()
  })
  const server = createServer(app).listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  const address = server.address()
  const url = `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}/`
  for (const format of formats) await send(url, { format })
  expect(got).toEqual([[bots['5']], bots])
})

test('@fastify/formbody has flat names from a form, and what was sent from JSON', async () => {
  const got: unknown[] = []
  const app = Fastify()
  await app.register(formbody)
  app.post('/', async (request) => {
    got.push(request.body)
    return ''
  })
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  onTestFinished(() => app.close())
  for (const format of formats) await send(url, { format })
  const [flat, nested] = got
  expect(Object.keys(Object(flat))).toContain('data[BOT][5][BOT_ID]')
  expect(nested).toMatchObject({ data: message.data })
})

test('a target that is being deployed loses nothing, and gets nothing that is left out', async () => {
  let status = 404
  const took: string[] = []
  const server = createServer((request, response) => {
    let body = ''
    request.setEncoding('utf8').on('data', (part: string) => {
      body += part
    })
    request.on('end', () => {
      if (status === 200) took.push(new URLSearchParams(body).get('event') ?? '')
      response.writeHead(status).end()
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  const address = server.address()
  const receiver = await startReceiver({
    env: { OLD_PHP_URL: `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}/` },
    handlers: {
      'old-php.mjs': `import { forward } from 'bitrix24-webhook-receiver'
export default forward(process.env['OLD_PHP_URL'], { except: 'ONCRMDEALDELETE' })`,
    },
  })
  const deletion = dealBody(1).replace('ONCRMDEALUPDATE', 'ONCRMDEALDELETE')
  for (const body of [dealBody(1), deletion, dealBody(2)])
    expect(await receiver.post(body)).toMatchObject({ status: 200 })
  await until('both are tried again', () => receiver.logged('failed, will be tried again').length > 1)
  status = 200
  await until('both are there', () => took.length > 1)
  expect(took).toEqual(['ONCRMDEALUPDATE', 'ONCRMDEALUPDATE'])
})
