import { lookup } from 'node:dns/promises'
import https from 'node:https'
import { BlockList, isIPv6 } from 'node:net'
import { text as readText } from 'node:stream/consumers'
import { TLSSocket } from 'node:tls'
import { codeOf } from '../../lib/error-code.ts'
import { messageOf } from '../../lib/error-text.ts'
import { isObject } from '../../lib/is-object.ts'
import { type Check, fail, ok, warn } from './check.ts'

/** Milliseconds. Bitrix24's own timeout is not documented. */
const timeoutMs = 10_000

/** Checks whether Bitrix24 would accept the address, as far as this machine can see. */
export async function checkPublicUrl(address: string): Promise<readonly Check[]> {
  if (!URL.canParse(address))
    return [fail('url', `${address} is no URL`, 'it is such as https://hooks.example.com/bitrix24')]
  const url = new URL(address)
  if (url.protocol !== 'https:')
    return [
      fail(
        'url',
        `${url.protocol}// is not taken by Bitrix24`,
        'put a proxy with a certificate in front, such as Caddy',
      ),
    ]
  const resolved = await checkAddress(url)
  return resolved.state === 'FAIL' ? [resolved] : [resolved, ...(await checkServer(url))]
}

const privateAddresses = new BlockList()
privateAddresses.addSubnet('10.0.0.0', 8)
privateAddresses.addSubnet('100.64.0.0', 10)
privateAddresses.addSubnet('127.0.0.0', 8)
privateAddresses.addSubnet('169.254.0.0', 16)
privateAddresses.addSubnet('172.16.0.0', 12)
privateAddresses.addSubnet('192.168.0.0', 16)
privateAddresses.addAddress('::1', 'ipv6')
privateAddresses.addSubnet('fc00::', 7, 'ipv6')
privateAddresses.addSubnet('fe80::', 10, 'ipv6')

async function checkAddress({ hostname }: URL): Promise<Check> {
  const name = 'address'
  const host = hostname.replace(/^\[|\]$/g, '')
  try {
    const addresses = (await lookup(host, { all: true })).map(({ address }) => address)
    const text = `${host} is ${addresses.join(', ')}`
    const isHidden = addresses.some((one) => privateAddresses.check(one, isIPv6(one) ? 'ipv6' : 'ipv4'))
    if (!isHidden) return ok(name, text)
    return warn(name, text, 'only a Bitrix24 in the same network reaches that; is it another address outside?')
  } catch (error) {
    return fail(name, `${host} is not found (${codeOf(error)})`, 'let its DNS name point to this server')
  }
}

interface Seen {
  readonly certificate: { readonly from: Date; readonly to: Date; readonly error: string | undefined }
  readonly status: number
  readonly location: string | undefined
  readonly body: string
  readonly ms: number
}

async function checkServer(url: URL): Promise<readonly Check[]> {
  try {
    const seen = await get(url)
    return [checkCertificate(seen), checkAnswer(seen)]
  } catch (error) {
    const reason =
      codeOf(error) === 'ABORT_ERR' ? `within ${timeoutMs / 1000} s` : `(${codeOf(error) ?? messageOf(error)})`
    const advice = 'does the proxy run, and does the firewall let its port in?'
    return [fail('answer', `${url.host} does not answer https ${reason}`, advice)]
  }
}

/** Sends a GET, for which the receiver logs one `refused`. A wrong certificate is inspected, too. */
function get(url: URL): Promise<Seen> {
  const started = performance.now()
  return new Promise((resolve, reject) => {
    const options = { agent: false, rejectUnauthorized: false, signal: AbortSignal.timeout(timeoutMs) }
    const request = https.get(url, options, (response) => {
      const { socket, statusCode: status = 0, headers } = response
      if (!(socket instanceof TLSSocket)) return reject(new Error('no TLS'))
      const ms = Math.round(performance.now() - started)
      const { valid_from: from, valid_to: to } = socket.getPeerCertificate()
      // @types/node declares an Error, but the value is an error code.
      const error = socket.authorized ? undefined : String(socket.authorizationError)
      const certificate = { from: new Date(from), to: new Date(to), error }
      readText(response).then((body) => resolve({ certificate, status, location: headers.location, body, ms }), reject)
    })
    request.on('error', reject)
  })
}

const day = 86_400_000

function checkCertificate({ certificate: { from, to, error } }: Seen): Check {
  const name = 'certificate'
  const days = Math.floor((to.getTime() - Date.now()) / day)
  if (error !== undefined)
    return fail(
      name,
      explain(error),
      'Bitrix24 takes only one that a public authority has signed, with its whole chain',
    )
  const text = `valid for ${days} days`
  // The clients of certificate authorities renew after two thirds of the lifetime at the latest.
  const isOld = to.getTime() - Date.now() < (to.getTime() - from.getTime()) / 6
  return isOld ? warn(name, text, 'is it renewed by itself?') : ok(name, text)
}

function explain(code: string): string {
  if (code === 'CERT_HAS_EXPIRED') return `it has expired (${code})`
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') return `it is for another name (${code})`
  if (/SELF_SIGNED/.test(code)) return `it is self-signed (${code})`
  return `it is not trusted (${code})`
}

function checkAnswer({ status, location, body, ms }: Seen): Check {
  const name = 'answer'
  if (status >= 300 && status < 400)
    return fail(
      name,
      `${status}: it redirects to ${location}`,
      'Bitrix24 does not follow: give it the address at the end',
    )
  const code = codeIn(body)
  if (status === 405 && code === 'method_not_allowed') {
    const text = `the receiver answers, in ${ms} ms`
    return ms > 2_000 ? warn(name, text, 'Bitrix24 slows down for those that answer slowly') : ok(name, text)
  }
  if (code === 'not_found') return fail(name, `${status}: the receiver has nothing there`, 'is the path WEBHOOK_PATH?')
  if (status >= 502 && status <= 504)
    return fail(
      name,
      `${status}: the proxy does not reach the receiver`,
      'does it run, and where the proxy looks for it?',
    )
  return fail(name, `${status}: that is not the receiver's answer`, 'does the proxy pass this path on to the receiver?')
}

function codeIn(body: string): unknown {
  try {
    const answer: unknown = JSON.parse(body)
    return isObject(answer) ? answer['error'] : undefined
  } catch {
    return undefined
  }
}
