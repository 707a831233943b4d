import { createServer, connect as dial } from 'node:net'
import { pino } from 'pino'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { openDatabase } from '../../../../src/queue/postgres/database.ts'
import { type Postgres, startPostgres } from '../../../support/postgres.ts'

let postgres: Postgres
beforeAll(async () => {
  postgres = await startPostgres()
})
afterAll(() => postgres.remove())

/** ReadyForQuery: https://www.postgresql.org/docs/current/protocol-message-formats.html */
const readyForQuery = Buffer.from([0x5a, 0, 0, 0, 5])

function fatal(message: string): Buffer {
  const fields = Buffer.from(`SFATAL\0VFATAL\0C57P01\0M${message}\0\0`)
  const head = Buffer.alloc(5)
  head.write('E')
  head.writeUInt32BE(fields.length + 4, 1)
  return Buffer.concat([head, fields])
}

/** Passes on what the server says; once armed, each connection ends together with an answer, in one packet. */
async function startEndingProxy(url: string) {
  let ends = 0
  let toEnd = 0
  const server = createServer((client) => {
    const upstream = dial(Number(new URL(url).port), '127.0.0.1')
    client.on('error', () => upstream.destroy()).on('close', () => upstream.destroy())
    upstream.on('error', () => client.destroy()).on('close', () => client.destroy())
    client.pipe(upstream)
    upstream.on('data', (chunk) => {
      const isAnswered = chunk.subarray(-6, -1).equals(readyForQuery)
      if (toEnd <= 0 || !isAnswered) return void client.write(chunk)
      toEnd--
      ends++
      client.end(Buffer.concat([chunk, fatal('terminating connection due to administrator command')]))
      upstream.destroy()
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void server.close())
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  const proxied = new URL(url)
  proxied.port = String(address.port)
  return {
    url: proxied.href,
    /** The next so many answers are their connections' last. */
    endNext(count: number) {
      toEnd = count
    },
    ends: () => ends,
  }
}

test('a server that ends a connection together with its answer does not end the process', async () => {
  const uncaught: unknown[] = []
  const note = (error: unknown) => void uncaught.push(error)
  process.on('uncaughtException', note)
  onTestFinished(() => void process.off('uncaughtException', note))
  const proxy = await startEndingProxy(postgres.url(await postgres.createDatabase()))
  const database = await openDatabase({ url: proxy.url, log: pino({ level: 'silent' }) })
  onTestFinished(() => database.close())
  for (let round = 0; round < 10; round++) {
    proxy.endNext(8)
    // More than there are connections, so that one that is free again is taken at once.
    const answers = Array.from({ length: 12 }, (_, index) =>
      database.persist(() =>
        index % 2 === 0
          ? database.query('SELECT 1 AS one')
          : database.transaction((transaction) => transaction.query('SELECT 1 AS one')),
      ),
    )
    expect(await Promise.all(answers)).toEqual(answers.map(() => [{ one: 1 }]))
  }
  expect(proxy.ends()).toBe(80)
  expect(uncaught).toEqual([])
})
