import { Buffer } from 'node:buffer'
import http from 'node:http'
import https from 'node:https'
import { pipeline } from 'node:stream'
import { text } from 'node:stream/consumers'
import { createGunzip } from 'node:zlib'

export interface Answer {
  readonly status: number
  readonly body: string
}

/**
 * Posts as Bitrix24 does: over HTTP/1.1, with a new connection for every post, without following redirects. `headers`
 * override the defaults.
 */
export function post(
  url: string,
  body: string,
  headers: Readonly<Record<string, string>> = {},
  signal?: AbortSignal,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = (url.startsWith('https:') ? https : http).request(url, {
      method: 'POST',
      agent: false,
      ...(signal && { signal }),
      headers: {
        'user-agent': 'Bitrix24 Webhook Engine',
        'content-type': 'application/x-www-form-urlencoded',
        'content-length': Buffer.byteLength(body),
        'accept-encoding': 'gzip',
        connection: 'close',
        ...headers,
      },
    })
    request.on('error', reject)
    request.on('response', (response) => {
      const isZipped = response.headers['content-encoding'] === 'gzip'
      const answer = isZipped ? pipeline(response, createGunzip(), () => undefined) : response
      text(answer).then((body) => resolve({ status: response.statusCode ?? 0, body }), reject)
    })
    request.end(body)
  })
}
