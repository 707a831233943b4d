import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import { onTestFinished } from 'vitest'
import type { Alert } from '../../src/alerts/alerts.ts'
import { isGone } from './dispatcher.ts'
import { freePort, type Receiver, until } from './receiver.ts'

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

/** The process id of the alerter that a process has started; `undefined` when there is none. */
export function alerterOf({ child }: Pick<Receiver, 'child'>): number | undefined {
  try {
    const out = execFileSync('pgrep', ['-P', String(child.pid), '-f', 'src/bin/alerter.ts'], { encoding: 'utf8' })
    return out
      .trim()
      .split('\n')
      .map(Number)
      .find((pid) => !isGone(pid))
  } catch {
    // pgrep found none.
    return undefined
  }
}
