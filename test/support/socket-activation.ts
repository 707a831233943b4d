import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { freePort, type ReceiverOptions, spawnReceiver, until } from './receiver.ts'

const program = 'systemd-socket-activate'

export const hasSocketActivation = spawnSync(program, ['--version']).status === 0

/** Starts the command it is given again and again on the socket that it has, as a service manager does. */
const serviceManager = 'while :; do (export LISTEN_PID=$BASHPID; exec "$@"); done'

/**
 * A receiver that starts with the first connection to its port, on a socket that it did not make. With `isKept` the socket
 * lives on when the receiver ends, and the next one has it.
 */
export async function spawnActivated({ env = {}, ...options }: ReceiverOptions = {}, { isKept = false } = {}) {
  const port = Number(env['PORT'] ?? (await freePort()))
  // It hands on the variables that are named, and no others.
  const names = [
    'NODE_COMPILE_CACHE',
    'B24_APPLICATION_TOKEN',
    'HOST',
    'PORT',
    'ADMIN_PORT',
    'DATA_DIR',
    'HANDLERS_DIR',
  ]
  const handedOn = [...new Set([...names, ...Object.keys(env)])].flatMap((name) => ['-E', name])
  const receiver = await spawnReceiver({
    ...options,
    env: { ...env, PORT: String(port) },
    under: [
      ...[program, '-l', `127.0.0.1:${port}`, ...handedOn],
      ...(isKept ? ['bash', '-c', serviceManager, 'service-manager'] : []),
      ...(options.under ?? []),
    ],
  })
  await until(
    () => `it listens\n${receiver.output()}`,
    () => receiver.output().includes('Listening on '),
  )
  return receiver
}

/** Linux only. */
export function childrenOf(pid: number): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)
}

/** What `readlink` says of every descriptor, such as `socket:[1234]`. */
export function descriptorsOf(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/${pid}/fd/${fd}`)]
    } catch {
      // Closed meanwhile.
      return []
    }
  })
}
