import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { freePort, until } from './receiver.ts'

export const hasPgBouncer = spawnSync('pgbouncer', ['--version']).status === 0

const unprivileged = 65534

/** A real PgBouncer in front of a Postgres, for the length of a test. */
export async function startPgBouncer({
  postgres,
  mode,
  poolSize = 40,
}: {
  readonly postgres: { readonly port: number }
  readonly mode: 'session' | 'transaction' | 'statement'
  readonly poolSize?: number
}) {
  const folder = mkdtempSync(join(tmpdir(), 'b24-pgbouncer-'))
  chmodSync(folder, 0o755)
  const port = await freePort()
  const settings = join(folder, 'pgbouncer.ini')
  writeFileSync(join(folder, 'users.txt'), '"postgres" "postgres"\n')
  const configure = (pool_mode: string) =>
    writeFileSync(
      settings,
      `[databases]
* = host=127.0.0.1 port=${postgres.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = plain
auth_file = ${join(folder, 'users.txt')}
pool_mode = ${pool_mode}
max_client_conn = 400
default_pool_size = ${poolSize}
server_login_retry = 1
`,
    )
  configure(mode)

  async function start() {
    const child = spawn('pgbouncer', [settings], {
      stdio: 'ignore',
      // It does not run as root.
      ...(process.getuid?.() === 0 && { uid: unprivileged, gid: unprivileged }),
    })
    await until('PgBouncer listens', async () => {
      if (child.exitCode !== null) throw new Error(`PgBouncer ended with ${child.exitCode}`)
      const socket = connect(port, '127.0.0.1')
      const isOpen = await once(socket, 'connect').then(
        () => true,
        () => false,
      )
      socket.destroy()
      return isOpen
    })
    return child
  }
  let child = await start()
  async function stop(): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return
    const gone = once(child, 'exit')
    child.kill('SIGKILL')
    await gone
  }
  onTestFinished(async () => {
    await stop()
    rmSync(folder, { recursive: true, force: true })
  })
  return {
    url: (database: string) => `postgres://postgres:postgres@127.0.0.1:${port}/${database}`,
    /** Kills it and starts another one. */
    async restart(pool_mode: string = mode) {
      await stop()
      configure(pool_mode)
      child = await start()
    },
  }
}
