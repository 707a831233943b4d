import { setTimeout as sleep } from 'node:timers/promises'
import { type Db, PgBoss } from 'pg-boss'
import type { Logger } from 'pino'
import { codeOf } from '../error-code.ts'
import { bossSchema, migrate } from './pg-schema.ts'

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
  listen(channel: string, heard: () => void): Promise<void>
  close(): Promise<void>
}

/** The receiver's work, and a tool's, needs a few at a time; one more listens. */
const connections = 4

/** Milliseconds, as are all of these. A database that does not answer for so long is taken for gone. */
const longestQuery = 60_000
const longestConnect = 5_000
const shortestPause = 100
const longestPause = 5_000

/** Resolves when both schemas are there, however long the database is not. */
export async function openDatabase({ url, log, onTrouble = () => undefined }: DatabaseParts): Promise<Database> {
  const database = createDatabase({ url, log, onTrouble })
  await database.persist(() => database.start())
  return database
}

/** As `openDatabase`, but nothing is asked of the database before `start`. */
export function createDatabase({
  url,
  log,
  onTrouble = () => undefined,
}: DatabaseParts): Database & { start(): Promise<void> } {
  const options = {
    connectionString: url,
    schema: bossSchema,
    application_name: 'b24-receiver',
    max: connections,
    connectionTimeoutMillis: longestConnect,
    // Not options of pg-boss; it passes them on to pg.
    query_timeout: longestQuery,
    keepAlive: true,
    schedule: false,
    // Told to, when it is certain that those who do not beat are dead.
    supervise: false,
    registerInstance: false,
    monitorIntervalSeconds: monitorInterval / 1_000,
    openTelemetry: { enabled: false },
  }
  const boss = new PgBoss(options)
  // Each is told by the call that failed; of the listening connection, which comes back by itself, nobody else hears.
  boss.on('error', ({ message }) => log.debug({ reason: message }, 'the database'))
  const db = boss.getDb()
  const hurried = new AbortController()
  let trouble: string | undefined
  let listener: { close(): Promise<void> } | undefined

  function tell(reason: string | undefined): void {
    if (reason === trouble) return
    trouble = reason
    if (reason === undefined) log.info('the database is back')
    else log.error({ reason }, 'the database cannot be used; what needs it waits')
    onTrouble(reason)
  }

  const database: Database & { start(): Promise<void> } = {
    boss,
    async start() {
      await boss.start()
      await database.transaction(migrate)
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
      for (let pause = shortestPause; ; pause = Math.min(2 * pause, longestPause)) {
        try {
          const result = await work()
          tell(undefined)
          return result
        } catch (error) {
          const reason = reasonOf(error)
          if (reason === undefined || hurried.signal.aborted) throw error
          if (!isConflict(error)) tell(reason)
        }
        await sleep(pause, undefined, { signal: hurried.signal })
      }
    },
    hurry: () => hurried.abort(),
    async listen(channel, heard) {
      listener = await db.listen?.(channel, heard, heard)
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

/** Two transactions stood in each other's way, and Postgres has ended one: https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html */
function isConflict(error: unknown): boolean {
  return codeOf(error)?.startsWith('40') === true
}

/**
 * Why the database cannot be used now; `undefined` where the statement, or we, are wrong. What a person can mend outside
 * of this process, such as a right or a password, will pass too.
 *
 * Classes of https://www.postgresql.org/docs/current/errcodes-appendix.html: wrong are 0A, 21, 22, 23, 42 and the like.
 */
export function reasonOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || error instanceof TypeError || error.name === 'AssertionError') return undefined
  if (error.name === 'SchemaError') return undefined
  const code = codeOf(error) ?? ''
  const text = error.message === '' ? code : error.message
  if (code === '42501')
    return `${text}: for the first start the user of DATABASE_URL needs CREATE on the database (docs/scaling.md)`
  const isStatement = /^[0-9A-Z]{5}$/.test(code) && /^(0A|2[0-27]|23|42|P0)/.test(code)
  return isStatement ? undefined : text
}
