import type { Db, PgBoss } from 'pg-boss'
import type { Row } from '../delivery-row.ts'

export interface Session {
  /** A query of several statements returns no rows. */
  query(text: string, values?: readonly unknown[]): Promise<readonly Row[]>
}

export interface Transaction extends Session {
  /** Runs calls of pg-boss within the transaction. */
  readonly db: Db
}

export interface Transactions extends Session {
  transaction<T>(work: (transaction: Transaction) => Promise<T>): Promise<T>
}

/** A pool of connections to Postgres, with pg-boss on it and our schema beside it. */
export interface Database extends Transactions {
  readonly boss: PgBoss
  /** The same, each call within `persist`. */
  readonly persistent: Transactions
  /**
   * Repeats the work until the database was there for it. The work must be safe to repeat, whether or not a failed try
   * took effect.
   *
   * @throws any error that is not a failure of the database, and every error after `failFast`
   */
  persist<T>(work: () => Promise<T>): Promise<T>
  /** From now on no call waits for the database. */
  failFast(): void
  /** Calls back on each notification, and after every gap in listening. */
  listen(channel: string, heard: () => void): void
  close(): Promise<void>
}
