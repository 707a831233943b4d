import http from 'node:http'
import { dealBody } from './receiver.ts'

/** Not the address of a proxy, so that the journal shows whose it is. Only Linux has all of 127.0.0.0/8. */
export const clientAddress = process.platform === 'linux' ? '127.0.0.9' : '127.0.0.1'

/**
 * Posts a deal from `clientAddress`, on a new connection, with a forged header that must not be believed. Resolves to the
 * status of the answer, or the error.
 */
export function postFrom(url: string, id: number, body = dealBody(id)): Promise<number | string> {
  return new Promise((resolve) => {
    const request = http.request(url, {
      method: 'POST',
      agent: false,
      localAddress: clientAddress,
      headers: {
        'content-type': 'application/x-www-form-urlencoded',
        'content-length': body.length,
        'user-agent': 'Bitrix24 Webhook Engine',
        'x-forwarded-for': '203.0.113.99',
        connection: 'close',
      },
    })
    request.on('error', (error) => resolve(String(error)))
    request.on('response', (response) => {
      response.on('error', (error) => resolve(String(error)))
      response.on('end', () => resolve(response.statusCode ?? 0))
      response.resume()
    })
    request.end(body)
  })
}
