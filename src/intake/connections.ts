import type { Server } from 'node:net'
import type { FastifyBaseLogger } from 'fastify'

/**
 * Descriptors reserved for everything except posts: the journal, the queue, the dispatcher's pipes, the private
 * listener.
 */
const reservedDescriptors = 96

/** Below this limit a bulk edit, which opens a thousand connections at once, may reach it. */
export const lowLimit = 2_048

const minuteMs = 60_000

export interface ConnectionLimit {
  /** Why new connections are closed without an answer; `undefined` while they are accepted. */
  readonly trouble: () => string | undefined
  /** The number of connections closed for that reason since the start. */
  readonly dropped: () => number
}

/** The maximum number of open descriptors of this process. Node has already raised the soft limit to the hard limit. */
export function descriptorLimit(): number {
  // Without this setting a report resolves the host names of all peers.
  Reflect.set(process.report, 'excludeNetwork', true)
  const { userLimits }: { userLimits?: { open_files?: { soft?: unknown } } } = Object(process.report.getReport())
  const soft = Number(userLimits?.open_files?.soft)
  // The value may be "unlimited", and Windows has no such limit.
  return Number.isNaN(soft) ? Number.POSITIVE_INFINITY : soft
}

/**
 * Reserves descriptors, so that connections cannot use all of them. Without free descriptors libuv accepts and closes
 * connections by itself. Node then emits no error and no `drop`, and the journal cannot open its next segment.
 */
export function limitConnections(
  server: Server,
  { log, descriptors = descriptorLimit() }: { readonly log: FastifyBaseLogger; readonly descriptors?: number },
): ConnectionLimit {
  const maxConnections = Math.max(1, descriptors - reservedDescriptors)
  if (Number.isFinite(maxConnections)) server.maxConnections = maxConnections
  let open = 0
  let dropped = 0
  let unlogged = 0
  let isFull = false
  let timer: NodeJS.Timeout | undefined

  function logDropped(): void {
    log.error(
      { count: unlogged, descriptors, connections: maxConnections },
      'out of descriptors: connections are closed unanswered',
    )
    unlogged = 0
    timer = setTimeout(() => {
      timer = undefined
      if (unlogged > 0) logDropped()
    }, minuteMs).unref()
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
    unlogged++
    if (timer === undefined) logDropped()
  })

  return {
    trouble: () =>
      isFull
        ? `out of descriptors: ${open} connections are open, and ${descriptors} descriptors allow no more; raise the limit (ulimit -n)`
        : undefined,
    dropped: () => dropped,
  }
}
