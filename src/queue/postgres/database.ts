import type { EventEmitter } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Db, PgBoss } from 'pg-boss'
import type { Logger } from 'pino'
import type { Row } from '../delivery-row.ts'
import { isConflict, isConnectionLimit, type Ownership, reasonOf } from './errors.ts'
import { createListener, type Listener } from './listener.ts'
import { bossSchema, checkVersion, migrate, refuseForeign } from './schema.ts'
import { inspectServer } from './server.ts'
import type { Database } from './session.ts'

export interface DatabaseDeps {
  readonly url: string
  readonly log: Logger
  /**
   * Called with the reason why the database cannot be used, again whenever the reason changes, and with `undefined`
   * once it can.
   */
  readonly onTrouble?: (reason: string | undefined) => void
}

/** The receiver and the tools use a few connections at a time. The listener has one more. */
const connections = 4

/** Milliseconds, like all of these. A database that does not answer for this long counts as gone. */
const queryTimeoutMs = 60_000
const connectTimeoutMs = 5_000
const minPauseMs = 100
const maxPauseMs = 5_000
/** An answer that takes longer than this is logged, though it may still come. */
const silenceMs = 10_000

/** Resolves when both schemas are there, however long the database is not. */
export async function openDatabase({ url, log, onTrouble = () => undefined }: DatabaseDeps): Promise<Database> {
  const database = createDatabase({ url, log, onTrouble })
  await database.persist(() => database.start())
  return database
}

export interface StartableDatabase extends Database {
  /** Creates or migrates both schemas. */
  start(): Promise<void>
  /**
   * Creates nothing.
   *
   * @throws {SchemaError} if the schema is missing, or is of another version
   */
  startAsIs(): Promise<void>
}

/** Does the same as `openDatabase`, but sends nothing to the database before `start`. */
export function createDatabase({ url, log, onTrouble = () => undefined }: DatabaseDeps): StartableDatabase {
  // Some of these are not options of pg-boss, which passes them on to pg.
  const connection = {
    connectionString: url,
    application_name: 'b24-receiver',
    connectionTimeoutMillis: connectTimeoutMs,
    query_timeout: queryTimeoutMs,
    keepAlive: true,
    // An answer and the server's final error may arrive in one packet, before pg-boss listens for errors of the
    // connection. Without this listener the error would end the process. The next user of the connection gets the error
    // from its failed statement.
    onConnect: (client: EventEmitter) => void client.on('error', () => undefined),
  }
  const options = {
    ...connection,
    schema: bossSchema,
    max: connections,
    schedule: false,
    // `supervise()` is called explicitly, once processes without a heartbeat are certain to be dead.
    supervise: false,
    registerInstance: false,
    monitorIntervalSeconds: monitorInterval / 1_000,
    openTelemetry: { enabled: false },
  }
  const boss = new PgBoss(options)
  // The call that failed reports the error as well.
  boss.on('error', ({ message }) => log.debug({ reason: message }, 'the database'))
  const db = boss.getDb()
  const failingFast = new AbortController()
  let trouble: string | undefined
  let listener: Listener | undefined
  let ownership: Ownership | undefined
  /** Calls that failed or have no answer yet. The trouble is over when this set is empty. */
  const troubled = new Set<symbol>()
  let answeredAt = Number.NEGATIVE_INFINITY
  let isLimitLogged = false

  function report(reason: string | undefined): void {
    if (reason === trouble) return
    trouble = reason
    if (reason === undefined) log.info('the database is back')
    else log.error({ reason }, 'the database cannot be used; what needs it waits')
    onTrouble(reason)
  }

  /** A process works with some of its connections, so an error for each missing one would be wrong. */
  function logLimit(reason: string): void {
    if (!isLimitLogged) log.warn({ reason }, 'fewer connections than a process takes: it goes on with those it has')
    isLimitLogged = true
  }

  async function watched<T>(call: symbol, work: () => Promise<T>): Promise<T> {
    const timer = setTimeout(() => {
      troubled.add(call)
      report(
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
    // PgBouncer in statement mode refuses a transaction. It accepts scripts such as the one that creates the schema of
    // pg-boss, so only a transaction reveals it.
    ownership = await database.transaction(inspectServer)
  }

  const database: StartableDatabase = {
    boss,
    async start() {
      await connect()
      // pg-boss must not create its schema beside tables that are not ours.
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
        for (let pauseMs = minPauseMs; ; pauseMs = Math.min(2 * pauseMs, maxPauseMs)) {
          try {
            const result = await watched(call, work)
            answeredAt = performance.now()
            troubled.delete(call)
            if (troubled.size === 0) report(undefined)
            return result
          } catch (error) {
            const reason = reasonOf(error, ownership)
            if (reason === undefined) throw error
            if (failingFast.signal.aborted) throw new Error(reason, { cause: error })
            if (isConnectionLimit(error) && performance.now() - answeredAt < silenceMs) logLimit(reason)
            else if (!isConflict(error)) {
              troubled.add(call)
              report(reason)
            }
          }
          await sleep(pauseMs, undefined, { signal: failingFast.signal })
        }
      } finally {
        troubled.delete(call)
      }
    },
    persistent: {
      query: (text, values) => database.persist(() => database.query(text, values)),
      transaction: (work) => database.persist(() => database.transaction(work)),
    },
    failFast: () => failingFast.abort(),
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

/** The minimum time in milliseconds between two searches for jobs without a heartbeat. */
export const monitorInterval = 5_000

async function rowsOf(db: Db, text: string, values: readonly unknown[] = []): Promise<readonly Row[]> {
  const { rows }: { rows: readonly Row[] } = await db.executeSql(text, [...values])
  return rows
}
