import { readdirSync, readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { pino } from 'pino'
import type { Config } from '../../src/config/config.ts'
import type { Token } from '../../src/config/values.ts'
import type { Event } from '../../src/events/event.ts'
import { createAllowedAddresses } from '../../src/intake/allowed-addresses.ts'
import { Refusal } from '../../src/intake/refusal.ts'
import { createServer, type ServerDeps } from '../../src/intake/server.ts'
import { createTokens } from '../../src/intake/token.ts'
import type { AdminDeps } from '../../src/receiver/private-listener.ts'

const fixtures = join(import.meta.dirname, '../fixtures')

/** A body as PHP wrote it and what PHP reads out of it, named `webhook/ONCRMDEALUPDATE`. */
export interface Sample {
  readonly name: string
  readonly body: Buffer
  /** JSON as PHP encodes its `$_POST`, re-encoded without whitespace. */
  readonly json: string
}

export const samples: readonly Sample[] = ['application', 'captured', 'ru', 'webhook'].flatMap((kind) => {
  const dir = join(fixtures, 'samples', kind)
  return readdirSync(dir)
    .filter((file) => file.endsWith('.body'))
    .map((file) => ({
      name: `${kind}/${file.slice(0, -'.body'.length)}`,
      body: readFileSync(join(dir, file)),
      json: JSON.stringify(JSON.parse(readFileSync(join(dir, file.replace(/\.body$/, '.json')), 'utf8'))),
    }))
})

export function readFixture(name: string): unknown {
  return JSON.parse(readFileSync(join(fixtures, name), 'utf8'))
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The token that test servers hold by default. */
export const heldToken = 'tokenoftheintaketests00000000001'

/** A post that is accepted. */
export const goodBody = `event=ONCRMDEALUPDATE&event_handler_id=312&data%5BFIELDS%5D%5BID%5D=662&ts=1736405807&auth%5Bdomain%5D=example.bitrix24.com&auth%5Bapplication_token%5D=${heldToken}`

export type LogLine = Record<string, unknown>

/** A log whose lines a test can read. */
export function createLines(): { log: ReturnType<typeof pino>; lines: LogLine[]; text: () => string } {
  const raw: string[] = []
  const lines: LogLine[] = []
  const write = (line: string) => {
    raw.push(line)
    const parsed: unknown = JSON.parse(line)
    if (isObject(parsed)) lines.push(parsed)
  }
  return { log: pino({ level: 'trace' }, { write }), lines, text: () => raw.join('') }
}

export interface TestServer extends AsyncDisposable {
  readonly port: number
  /** What reached the journal, in order. */
  readonly events: Event[]
  readonly lines: LogLine[]
  /** Everything that was logged. */
  logged(): string
  openConnections(): Promise<number>
  isListening(): boolean
  /** Resolves when everything that had begun is answered. */
  stop(): Promise<void>
}

export interface TestServerOptions {
  readonly tokens?: readonly Token[]
  readonly bodyLimit?: number
  readonly trustProxy?: Config['trustProxy']
  readonly allowedIps?: readonly string[]
  readonly robotPath?: string
  readonly timeouts?: ServerDeps['timeouts']
  /** Stands before the fake journal; what it throws the journal throws. */
  readonly beforeAppend?: (event: Event) => Promise<void>
}

/** The real server on a port of 127.0.0.1, with a journal that only remembers. */
export async function startServer(options: TestServerOptions = {}): Promise<TestServer> {
  const { tokens = [{ name: 'sales', value: heldToken }], bodyLimit = 64 * 1024, trustProxy = [], robotPath } = options
  const events: Event[] = []
  const { log, lines, text } = createLines()
  const journal = {
    append: async (event: Event) => {
      await options.beforeAppend?.(event)
      events.push(event)
    },
  }
  const config = { webhookPath: '/bitrix24', robotPath, bodyLimit, trustProxy }
  const app = createServer({
    config,
    tokens: createTokens(tokens),
    journal,
    log,
    ...(options.allowedIps && { allowed: createAllowedAddresses(options.allowedIps) }),
    ...(options.timeouts && { timeouts: options.timeouts }),
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const address = app.server.address()
  if (address === null || typeof address === 'string') throw new Error('the server listens on no port')
  return {
    port: address.port,
    events,
    lines,
    logged: text,
    openConnections: () =>
      new Promise((resolve, reject) => {
        app.server.getConnections((error, count) => (error ? reject(error) : resolve(count)))
      }),
    isListening: () => app.server.listening,
    stop: async () => app.close(),
    async [Symbol.asyncDispose]() {
      const closed = app.close()
      app.server.closeAllConnections()
      await closed
    },
  }
}

export interface Answer {
  readonly status: number
  /** Names in lower case. */
  readonly headers: ReadonlyMap<string, string>
  readonly body: string
}

/** One TCP connection, on which a test says exactly what it wants. */
export interface Connection extends Disposable {
  readonly socket: Socket
  write(bytes: string | Buffer): void
  /** The next answer, or `undefined` when the server closed without one. The answer to a HEAD has no body. */
  answer(asked?: { readonly head: boolean }): Promise<Answer | undefined>
  /** Resolves when the server has closed its side. */
  readonly closed: Promise<void>
}

export function open(port: number): Connection {
  // It goes on reading when we have said everything, as clients do.
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  const closed = Promise.withResolvers<void>()
  let received: Buffer = Buffer.alloc(0)
  let isOver = false
  let wake = Promise.withResolvers<void>()
  const over = () => {
    isOver = true
    closed.resolve()
    wake.resolve()
  }
  socket.setNoDelay(true)
  socket.on('data', (chunk) => {
    received = Buffer.concat([received, chunk])
    wake.resolve()
  })
  socket.on('end', over)
  // A server that refuses a body it does not read may reset the connection; `close` follows.
  socket.on('error', () => undefined)
  socket.on('close', over)
  return {
    socket,
    write: (bytes) => void socket.write(bytes),
    closed: closed.promise,
    async answer({ head } = { head: false }) {
      for (;;) {
        const parsed = parseAnswer(received, isOver, head)
        if (parsed !== undefined) {
          received = parsed.rest
          if (parsed.answer.status >= 200) return parsed.answer
        } else if (isOver) return undefined
        else {
          wake = Promise.withResolvers()
          await wake.promise
        }
      }
    },
    [Symbol.dispose]: () => void socket.destroy(),
  }
}

function parseAnswer(bytes: Buffer, isOver: boolean, isToHead: boolean): { answer: Answer; rest: Buffer } | undefined {
  const end = bytes.indexOf('\r\n\r\n')
  if (end === -1) return undefined
  const [statusLine = '', ...fields] = bytes.subarray(0, end).toString('latin1').split('\r\n')
  const status = Number(/^HTTP\/1\.[01] (\d{3}) /.exec(statusLine)?.[1])
  const headers = new Map(
    fields.map((field): [string, string] => {
      const colon = field.indexOf(':')
      return [field.slice(0, colon).toLowerCase(), field.slice(colon + 1).trim()]
    }),
  )
  const start = end + 4
  const announced = headers.get('content-length')
  const rest = bytes.subarray(start)
  const isBare = isToHead && (rest.length === 0 ? isOver : rest.toString('latin1').startsWith('HTTP/'))
  // 100 Continue has no body, and of what has no length the end is the connection's.
  const length = status < 200 || isBare ? 0 : Number(announced ?? (isOver ? rest.length : 0))
  if (rest.length < length) return undefined
  return { answer: { status, headers, body: rest.toString('utf8', 0, length) }, rest: rest.subarray(length) }
}

export interface PostOptions {
  readonly method?: string
  readonly target?: string
  /** Lines such as `X-Forwarded-For: 203.0.113.7`. */
  readonly headers?: readonly string[]
  /** `null` for none. */
  readonly contentType?: string | null
  readonly connection?: 'close' | 'keep-alive'
}

/** The bytes of a post, as Bitrix24 sends it. */
export function request(body: string | Buffer, options: PostOptions = {}): Buffer {
  const { contentType = 'application/x-www-form-urlencoded', headers = [] } = options
  const bytes = Buffer.from(body)
  const head = [
    `${options.method ?? 'POST'} ${options.target ?? '/bitrix24'} HTTP/1.1`,
    'Host: hooks.example.com',
    'User-Agent: Bitrix24 Webhook Engine',
    ...(contentType === null ? [] : [`Content-Type: ${contentType}`]),
    `Content-Length: ${bytes.length}`,
    ...headers,
    'Accept-Encoding: gzip',
    `Connection: ${options.connection ?? 'close'}`,
  ]
  return Buffer.concat([Buffer.from(`${head.join('\r\n')}\r\n\r\n`), bytes])
}

/** Posts on a connection of its own, as Bitrix24 does. */
export async function post(port: number, body: string | Buffer, options?: PostOptions): Promise<Answer> {
  using connection = open(port)
  connection.write(request(body, options))
  const answer = await connection.answer()
  if (answer === undefined) throw new Error('the server closed without an answer')
  return answer
}

/** The refusal that this throws; anything else it throws is thrown on. */
export function catchRefusal(run: () => unknown): Refusal {
  try {
    run()
  } catch (error) {
    if (error instanceof Refusal) return error
    throw error
  }
  throw new Error('nothing was refused')
}

/** What the private listener asks of a receiver that is well. */
export const healthyDeps = {
  journalTrouble: () => undefined,
  connectionsTrouble: () => undefined,
  dispatcher: () => undefined,
} satisfies Partial<AdminDeps>
