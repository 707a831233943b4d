import type { EventEmitter } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Db, PgBoss } from 'pg-boss'
import type { Logger } from 'pino'
import { createListener, type Listener } from './listener.ts'
import { bossSchema, checkVersion, migrate, refuseForeign } from './schema.ts'
import { inspectServer } from './server.ts'
import { isConflict, isConnectionLimit, type Ownership, reasonOf } from './errors.ts'

/** A row as Postgres gives it: `bigint` is a text, JSON is parsed. */
export type Row = Readonly<Record<string, unknown>>

export interface Session {
  /** Several statements in one give no rows. */
  query(text: string, values?: readonly unknown[]): Promise<readonly Row[]>
}

export interface Transaction extends Session {
  /** For what pg-boss is to do within the transaction. */
  readonly db: Db
}

export interface DatabaseParts {
  readonly url: string
  readonly log: Logger
  /** Why the database cannot be used, again whenever the reason is another; `undefined` once it can. */
  readonly onTrouble?: (reason: string | undefined) => void
}

/** A pool of connections to Postgres, with pg-boss in it and our schema beside it. */
export interface Database extends Session {
  readonly boss: PgBoss
  transaction<T>(work: (transaction: Transaction) => Promise<T>): Promise<T>
  /**
   * Does it again until the database was there for it: it must not matter whether what failed was done.
   *
   * @throws what is no trouble of the database, and anything once `hurry` was called
   */
  persist<T>(work: () => Promise<T>): Promise<T>
  /** Nothing waits for the database any more. */
  hurry(): void
  /** Calls back when somebody has spoken on the channel, and after every gap in listening. */
  listen(channel: string, heard: () => void): void
  close(): Promise<void>
}

/** The receiver's work, and a tool's, needs a few at a time; one more listens. */
const connections = 4

/** Milliseconds, as are all of these. A database that does not answer for so long is taken for gone. */
const longestQuery = 60_000
const longestConnect = 5_000
const shortestPause = 100
const longestPause = 5_000
/** Waiting for an answer so long is told, though it may still come. */
const silenceMs = 10_000

/** Resolves when both schemas are there, however long the database is not. */
export async function openDatabase({ url, log, onTrouble = () => undefined }: DatabaseParts): Promise<Database> {
  const database = createDatabase({ url, log, onTrouble })
  await database.persist(() => database.start())
  return database
}

export interface StartableDatabase extends Database {
  /** Makes or migrates both schemas. */
  start(): Promise<void>
  /** Makes nothing. @throws {SchemaError} where the schema is not there, or of another version */
  startAsIs(): Promise<void>
}

/** As `openDatabase`, but nothing is asked of the database before `start`. */
export function createDatabase({ url, log, onTrouble = () => undefined }: DatabaseParts): StartableDatabase {
  // Some are no options of pg-boss; it passes them on to pg.
  const connection = {
    connectionString: url,
    application_name: 'b24-receiver',
    connectionTimeoutMillis: longestConnect,
    query_timeout: longestQuery,
    keepAlive: true,
    // An answer and the server's last words may come in one packet: then nobody else listens to the connection yet, and
    // the error would end the process. Whoever takes it learns of its end from the statement that fails.
    onConnect: (client: EventEmitter) => void client.on('error', () => undefined),
  }
  const options = {
    ...connection,
    schema: bossSchema,
    max: connections,
    schedule: false,
    // Told to, when it is certain that those who do not beat are dead.
    supervise: false,
    registerInstance: false,
    monitorIntervalSeconds: monitorInterval / 1_000,
    openTelemetry: { enabled: false },
  }
  const boss = new PgBoss(options)
  // Each is told by the call that failed.
  boss.on('error', ({ message }) => log.debug({ reason: message }, 'the database'))
  const db = boss.getDb()
  const hurried = new AbortController()
  let trouble: string | undefined
  let listener: Listener | undefined
  let ownership: Ownership | undefined
  /** Calls that had no answer yet, or a bad one: it is over when it is over for all of them. */
  const troubled = new Set<symbol>()
  let answeredAt = Number.NEGATIVE_INFINITY
  let isLimitTold = false

  function tell(reason: string | undefined): void {
    if (reason === trouble) return
    trouble = reason
    if (reason === undefined) log.info('the database is back')
    else log.error({ reason }, 'the database cannot be used; what needs it waits')
    onTrouble(reason)
  }

  /** With some of its connections a process works; to say with each of the others that it cannot would be untrue. */
  function tellLimit(reason: string): void {
    if (!isLimitTold) log.warn({ reason }, 'fewer connections than a process takes: it goes on with those it has')
    isLimitTold = true
  }

  async function watched<T>(call: symbol, work: () => Promise<T>): Promise<T> {
    const timer = setTimeout(() => {
      troubled.add(call)
      tell(
        `no answer for ${silenceMs / 1_000} s: it is frozen or cannot be reached, or PgBouncer's pool is smaller than what all processes take (docs/scaling.md)`,
      )
    }, silenceMs)
    try {
      return await work()
    } finally {
      clearTimeout(timer)
    }
  }

  async function connect(): Promise<void> {
    if (!('open' in db) || typeof db.open !== 'function') throw new TypeError('pg-boss cannot be opened')
    if (!('opened' in db && db.opened === true)) await db.open()
    // In a transaction: PgBouncer in statement mode lets scripts through, as that which makes the schema of pg-boss.
    ownership = await database.transaction(inspectServer)
  }

  const database: StartableDatabase = {
    boss,
    async start() {
      await connect()
      // Before pg-boss makes its own beside what is not ours.
      await refuseForeign(database)
      await boss.start()
      await database.transaction(migrate)
    },
    async startAsIs() {
      await connect()
      await checkVersion(database)
    },
    query: (text, values) => rowsOf(db, text, values),
    async transaction(work) {
      const begun = await db.beginTransaction?.()
      if (begun === undefined) throw new TypeError('pg-boss gives no transactions')
      try {
        const result = await work({ db: begun.db, query: (text, values) => rowsOf(begun.db, text, values) })
        await begun.commit()
        return result
      } catch (error) {
        await begun.rollback()
        throw error
      }
    },
    async persist(work) {
      const call = Symbol('call')
      try {
        for (let pause = shortestPause; ; pause = Math.min(2 * pause, longestPause)) {
          try {
            const result = await watched(call, work)
            answeredAt = performance.now()
            troubled.delete(call)
            if (troubled.size === 0) tell(undefined)
            return result
          } catch (error) {
            const reason = reasonOf(error, ownership)
            if (reason === undefined) throw error
            if (hurried.signal.aborted) throw new Error(reason, { cause: error })
            if (isConnectionLimit(error) && performance.now() - answeredAt < silenceMs) tellLimit(reason)
            else if (!isConflict(error)) {
              troubled.add(call)
              tell(reason)
            }
          }
          await sleep(pause, undefined, { signal: hurried.signal })
        }
      } finally {
        troubled.delete(call)
      }
    },
    hurry: () => hurried.abort(),
    listen(channel, heard) {
      listener = createListener({ config: connection, channel, heard, log })
    },
    async close() {
      await listener?.close()
      await boss.stop({ graceful: false })
    },
  }
  return database
}

/** How often, at the most, some process looks for jobs whose heart does not beat any more. */
export const monitorInterval = 5_000

async function rowsOf(db: Db, text: string, values: readonly unknown[] = []): Promise<readonly Row[]> {
  const { rows }: { rows: readonly Row[] } = await db.executeSql(text, [...values])
  return rows
}
