import type { Server } from 'node:http'
import { Duplex } from 'node:stream'

/** The first line of a request. The target may contain any byte. */
const requestLine = /^([A-Z]+ )(\S+)( HTTP\/1\.[01]\r\n)/

/**
 * Some senders put unescaped text into a URL, `?stage=новая`. Node's parser refuses bytes above 0x7f there
 * (HPE_INVALID_URL; its option `insecureHTTPParser` does not change that). Bitrix24 sends an event once, so the
 * request is parsed again with these bytes percent-encoded. Other requests pay nothing, because this code runs only
 * after the parser failed.
 *
 * It works only for a request line that came in one packet and that is the first of its connection or follows a
 * complete request.
 *
 * @returns whether the connection is parsed again; `false` if the request is as bad as the parser reported
 */
export function parseAgain(server: Server, socket: Duplex, packet: unknown): boolean {
  const text = Buffer.isBuffer(packet) ? packet.toString('latin1') : ''
  const [line = '', method, target = '', version] = requestLine.exec(text) ?? []
  const encoded = target.replaceAll(/[\x80-\xff]/g, (byte) => `%${byte.charCodeAt(0).toString(16).toUpperCase()}`)
  if (encoded === target) return false
  // The failed parser still belongs to the connection, and would end a connection that is kept open.
  const head = Buffer.from(`${method}${encoded}${version}Connection: close\r\n`, 'latin1')
  const rest = Buffer.from(text.slice(line.length), 'latin1')
  server.emit('connection', replay(socket, Buffer.concat([head, rest])))
  return true
}

/** Restarts the connection as if these bytes had come first. */
function replay(socket: Duplex, first: Buffer): Duplex {
  // A `data` listener takes the bytes from the kernel instead of the parser. The other listeners belong to the old
  // parser.
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
  // The close event reports any error of the socket.
  socket.on('error', () => undefined)
  again.push(first)
  if ('remoteAddress' in socket) Object.assign(again, { remoteAddress: socket.remoteAddress })
  return again
}
