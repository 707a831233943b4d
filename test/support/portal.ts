import { once } from 'node:events'
import { createServer } from 'node:https'
import type { Socket } from 'node:net'
import { onTestFinished } from 'vitest'
import { portalCertificate } from './portal/certificate.ts'
import { createEvents, newMemberId, type OutgoingWebhook } from './portal/events.ts'
import type { JsonObject } from './portal/php.ts'
import { createRecords, type RecordType } from './portal/records.ts'
import { createRest, type PortalRequest, type RestOptions } from './portal/rest.ts'
import { freePort } from './receiver.ts'

export interface PortalOptions extends RestOptions {
  /** An address of the loopback network, 127.0.0.1 to 127.0.0.9: portals of different addresses have different hosts. */
  readonly address?: string
  readonly memberId?: string
  /** Unix milliseconds; the times and limits of the portal follow it. */
  readonly now?: () => number
}

export type Portal = Awaited<ReturnType<typeof startPortal>>

/**
 * A Bitrix24 for tests: REST over HTTPS for one incoming webhook, with the limits and errors of PROTOCOL.md §10, and
 * outgoing webhooks whose events follow each write. It ends with the test.
 */
export async function startPortal(options: PortalOptions = {}) {
  const { address = '127.0.0.1', memberId = newMemberId(), now = Date.now, user = 1 } = options
  const { key, cert, caFile } = portalCertificate()
  const server = createServer({ key, cert })
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  // Not one that the kernel gives to connections: while it is unplugged somebody's could get it.
  server.listen(await freePort(), address)
  await once(server, 'listening')
  const { port } = readAddress(server.address())
  const host = `${address}:${port}`

  const events = createEvents({ host, memberId, now })
  const records = createRecords({ now, onChange: (change) => events.fire(change) })
  const rest = createRest({ ...options, records, now, user })
  server.on('request', rest.handle)

  async function unplug(): Promise<void> {
    if (!server.listening) return
    const closed = once(server, 'close')
    server.close()
    for (const socket of sockets) socket.destroy()
    await closed
  }

  onTestFinished(async () => {
    await unplug()
    await events.answered()
  })

  return {
    /** With the port, as it is in the events' `auth.domain`. */
    host,
    memberId,
    caFile,
    /** What a receiver or handler process needs in its environment to trust the portal. */
    env: { NODE_EXTRA_CA_CERTS: caFile },
    /** What B24_HOOK would be; another one after `changeCode`. */
    incomingWebhook: () => `https://${host}/rest/${user}/${rest.code()}/`,
    code: rest.code,
    records,
    messages: rest.messages,
    /** Every request that came, oldest first. */
    requests: rest.requests as readonly PortalRequest[],
    /** The methods that were called; those of a batch stand behind it. */
    called: () => rest.requests.flatMap(({ method, commands }) => [method, ...commands]),
    behaviour: rest.behaviour,
    changeCode: () => rest.changeCode(),

    /** A person's edit in the browser: no request, no limit, and the event follows. */
    edit(type: RecordType, id: number, fields: JsonObject, by = 7): void {
      if (!records.update(type, id, fields, by)) throw new Error(`the portal has no ${type} ${id}`)
    },

    /** Sends the events of every write from now on. */
    subscribe: (webhook: OutgoingWebhook) => void events.webhooks.push(webhook),
    fired: events.fired as readonly { event: string; id: number; status: number }[],
    /** Resolves when every event that was fired has its answer. */
    eventsAnswered: () => events.answered(),

    /** Nobody listens at its address, and what was connected is cut off. */
    unplug,
    async plugIn(): Promise<void> {
      server.listen(port, address)
      await once(server, 'listening')
    },
  }
}

function readAddress(address: ReturnType<ReturnType<typeof createServer>['address']>) {
  if (address === null || typeof address === 'string') throw new Error('the portal has no port')
  return address
}
