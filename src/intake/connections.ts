import type { Server } from 'node:net'
import type { FastifyBaseLogger } from 'fastify'

/** Descriptors for everything but posts: the journal, the queue, the dispatcher's pipes, the private listener. */
const reserve = 96

/** Below it a bulk edit, which opens a thousand connections at once, may meet the limit. */
export const lowLimit = 2_048

const minute = 60_000

export interface ConnectionLimit {
  /** Why new connections are closed unanswered; `undefined` when they are taken. */
  readonly trouble: () => string | undefined
  /** Connections that were closed for it, since the start. */
  readonly dropped: () => number
}

/** How many descriptors this process may have open; Node has raised the soft limit to the hard one. */
export function descriptorLimit(): number {
  // Otherwise a report looks up the names of all peers.
  Reflect.set(process.report, 'excludeNetwork', true)
  const { userLimits }: { userLimits?: { open_files?: { soft?: unknown } } } = Object(process.report.getReport())
  const soft = Number(userLimits?.open_files?.soft)
  // "unlimited", and Windows has none.
  return Number.isNaN(soft) ? Number.POSITIVE_INFINITY : soft
}

/**
 * Keeps descriptors back from connections. Out of descriptors, libuv accepts and closes connections by itself, and Node
 * hears nothing of it, no error and no `drop`; and the journal could not open its next segment.
 */
export function limitConnections(
  server: Server,
  { log, descriptors = descriptorLimit() }: { readonly log: FastifyBaseLogger; readonly descriptors?: number },
): ConnectionLimit {
  const most = Math.max(1, descriptors - reserve)
  if (Number.isFinite(most)) server.maxConnections = most
  let open = 0
  let dropped = 0
  let untold = 0
  let isFull = false
  let timer: NodeJS.Timeout | undefined

  function tell(): void {
    log.error(
      { count: untold, descriptors, connections: most },
      'out of descriptors: connections are closed unanswered',
    )
    untold = 0
    timer = setTimeout(() => {
      timer = undefined
      if (untold > 0) tell()
    }, minute).unref()
  }

  server.on('connection', (socket) => {
    open++
    socket.once('close', () => {
      open--
      isFull = false
    })
  })
  server.on('drop', () => {
    isFull = true
    dropped++
    untold++
    if (timer === undefined) tell()
  })

  return {
    trouble: () =>
      isFull
        ? `out of descriptors: ${open} connections are open, and ${descriptors} descriptors allow no more; raise the limit (ulimit -n)`
        : undefined,
    dropped: () => dropped,
  }
}
