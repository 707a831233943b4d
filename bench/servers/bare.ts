import { createServer } from 'node:http'

/** The floor: Node's own server, which reads the body and says OK. */
createServer((request, response) => {
  let body = ''
  request.on('data', (chunk: Buffer) => {
    body += chunk.toString()
  })
  request.on('end', () => response.end(body === '' ? 'empty' : 'OK'))
}).listen({ port: Number(process.env['PORT']), host: '127.0.0.1', backlog: 4096 })
