import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import { onTestFinished } from 'vitest'
import type { Alert } from '../../src/alerts/alerts.ts'
import { freePort, until } from './receiver.ts'

/** In the path of a target's URL, and nowhere else. */
export const urlSecret = 'secret0of0the0alert0url'

/** What ALERT_URL names, and what came there. */
export async function startAlertTarget() {
  const took: Alert[] = []
  let requests = 0
  let answer = (response: ServerResponse): void => void response.end()
  const server = createServer((request, response) => {
    requests++
    let body = ''
    request.setEncoding('utf8').on('data', (part: string) => {
      body += part
    })
    request.on('end', () => {
      answer(response)
      if (response.statusCode === 200 && response.writableEnded) took.push(JSON.parse(body))
    })
  })
  const port = await freePort()
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return {
    host: `127.0.0.1:${port}`,
    url: `http://127.0.0.1:${port}/${urlSecret}`,
    took: took as readonly Alert[],
    requests: () => requests,
    answer(how: (response: ServerResponse) => void) {
      answer = how
    },
    /** The alert of this kind and state, once it came. */
    got: (kind: Alert['kind'], state: Alert['state'] = 'on') =>
      until(`${kind} ${state}`, () => took.find((alert) => alert.kind === kind && alert.state === state)),
  }
}
