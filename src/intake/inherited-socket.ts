import { once } from 'node:events'
import type { AddressInfo, Server } from 'node:net'
import type { FastifyInstance } from 'fastify'
import { messageOf } from '../lib/error-text.ts'
import { StartError } from '../lib/start-error.ts'

/**
 * The first descriptor that a service manager passes:
 * https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
 */
const firstFd = 3

const variables = ['LISTEN_FDS', 'LISTEN_PID', 'LISTEN_FDNAMES'] as const

/**
 * Takes the listening socket that a service manager made for this process. It removes the variables that announce the
 * socket, because they are not meant for child processes. Node itself ensures that no child inherits the descriptor.
 *
 * @returns its descriptor, or `undefined` if there is none
 * @throws {StartError} if there are several, or if the variables are meant for another process. The protocol says to
 *   ignore the latter, but the service manager's socket would go on accepting connections that no process answers
 */
export function takeInheritedSocket(env: NodeJS.ProcessEnv, pid: number): number | undefined {
  const { LISTEN_FDS: count, LISTEN_PID: owner } = env
  for (const name of variables) delete env[name]
  if (!count || count === '0') return undefined
  if (owner !== String(pid))
    throw new StartError(
      `LISTEN_FDS is set, but LISTEN_PID is ${owner ?? 'not set'} and this is process ${pid}: let the unit's ExecStart run node itself, ` +
        'not npm or a shell, or unset LISTEN_FDS',
    )
  if (count !== '1')
    throw new StartError(
      `LISTEN_FDS must be 1, got "${count}": the receiver takes one socket, so give its unit one ListenStream`,
    )
  return firstFd
}

/**
 * Makes the server listen on a socket that another process bound and keeps open after this server closes. Returns its
 * address.
 */
export async function listenOnInherited(app: FastifyInstance, fd: number, backlog: number): Promise<AddressInfo> {
  await app.ready()
  const { server }: { server: Server } = app
  try {
    // Not `app.listen()`: for a descriptor Node reads the backlog from the second argument only, which Fastify never
    // passes, and Node would shorten the socket's queue to 511.
    server.listen({ fd }, backlog)
    await once(server, 'listening')
  } catch (error) {
    throw new StartError(`${notUsable}: ${messageOf(error)}`, { cause: error })
  }
  const address = server.address()
  if (address === null || typeof address === 'string') throw new StartError(`${notUsable}: it has no port`)
  return address
}

const notUsable =
  'The socket that LISTEN_FDS hands over is not a listening TCP socket; its unit needs ListenStream=ADDRESS:PORT and Accept=no'
