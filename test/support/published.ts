import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import { onTestFinished } from 'vitest'

/** How a list is answered; `null` is not at all. */
export type ListAnswer = RequestListener | string | null

/** A real HTTP server that publishes lists of addresses, by path, and does with each what the test wants at the moment. */
export async function startPublisher(answers: Record<string, ListAnswer> = {}) {
  const asked: string[] = []
  const server = createServer((request, response) => {
    const path = request.url ?? ''
    asked.push(path)
    const answer = answers[path]
    if (typeof answer === 'function') answer(request, response)
    else if (typeof answer === 'string')
      response.setHeader('content-type', 'application/json').setHeader('connection', 'close').end(answer)
    else if (answer === undefined) response.writeHead(500).end('<html>no</html>')
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the server listens on no port')
  const origin = `http://127.0.0.1:${address.port}`
  return {
    origin,
    urlOf: (path: string) => `${origin}${path}`,
    /** How often a list was asked for. */
    asked: (path: string) => asked.filter((each) => each === path).length,
    /** What comes next; `undefined` is a status of 500. */
    answer(path: string, answer: ListAnswer | undefined) {
      if (answer === undefined) delete answers[path]
      else answers[path] = answer
    },
  }
}

export const world = '/webhook/app-world.json'
export const russia = '/webhook/app.json'
export const nodes = (...addresses: string[]) => JSON.stringify({ nodes: addresses })
