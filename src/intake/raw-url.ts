import type { Server } from 'node:http'
import { Duplex } from 'node:stream'

/** A request's first line; of its target every byte. */
const requestLine = /^([A-Z]+ )(\S+)( HTTP\/1\.[01]\r\n)/

/**
 * Some senders put text into a URL as it is, `?stage=новая`, and Node's parser refuses bytes above 0x7f there
 * (HPE_INVALID_URL; its option `insecureHTTPParser` changes nothing about it). Bitrix24 sends an event once, so it is
 * parsed again with these bytes percent-encoded. It costs nothing to others: it begins where the parser gave up.
 *
 * Only of a request line that came in one packet, which is the first of its connection or follows a whole request.
 *
 * @returns whether the connection is parsed again; `false`: the request is no better than the parser said
 */
export function parseAgain(server: Server, socket: Duplex, packet: unknown): boolean {
  const text = Buffer.isBuffer(packet) ? packet.toString('latin1') : ''
  const [line = '', method, target = '', version] = requestLine.exec(text) ?? []
  const encoded = target.replaceAll(/[\x80-\xff]/g, (byte) => `%${byte.charCodeAt(0).toString(16).toUpperCase()}`)
  if (encoded === target) return false
  // The parser that gave up still belongs to the connection, and would end one that is kept open.
  const head = Buffer.from(`${method}${encoded}${version}Connection: close\r\n`, 'latin1')
  const rest = Buffer.from(text.slice(line.length), 'latin1')
  server.emit('connection', replay(socket, Buffer.concat([head, rest])))
  return true
}

/** The connection as if these bytes had come first. */
function replay(socket: Duplex, first: Buffer): Duplex {
  // A listener takes the bytes away from the parser in the kernel's place; the others are the old parser's.
  for (const event of ['data', 'end', 'drain']) socket.removeAllListeners(event)
  const again = new Duplex({
    allowHalfOpen: true,
    read: () => socket.resume(),
    write: (chunk, encoding, done) => void socket.write(chunk, encoding, done),
    final: (done) => void socket.end(done),
    destroy: (error, done) => {
      socket.destroy()
      done(error)
    },
  })
  socket.on('data', (chunk) => {
    if (!again.push(chunk)) socket.pause()
  })
  socket.on('end', () => again.push(null))
  socket.on('close', () => again.destroy())
  // What goes wrong with it is told by its close.
  socket.on('error', () => undefined)
  again.push(first)
  if ('remoteAddress' in socket) Object.assign(again, { remoteAddress: socket.remoteAddress })
  return again
}
