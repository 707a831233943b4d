import { isIP } from 'node:net'
import { codeOf } from '../lib/error-code.ts'
import { causeOf, messageOf } from '../lib/error-text.ts'
import { isObject } from '../lib/is-object.ts'
import { parseJson } from '../lib/json.ts'

/** Bytes after decompression. A thousand addresses take 16 KB. */
const maxListBytes = 64 * 1024

/**
 * Reads one of the lists of addresses that Bitrix24 publishes: `{"nodes":["3.217.33.54"]}` for the world, a bare
 * `["195.208.184.200"]` for Russia. Both URLs may return either form. A list with any item that is not an IP address
 * is refused as a whole.
 *
 * @param timeoutMs milliseconds for the whole request
 * @throws {Error} with a message that gives the reason to a person
 * @see https://apidocs.bitrix24.com/settings/cloud-and-on-premise/network-access.html
 */
export async function readPublishedList(url: string, timeoutMs: number, stop: AbortSignal): Promise<readonly string[]> {
  const timeout = AbortSignal.timeout(timeoutMs)
  try {
    const response = await fetch(url, {
      // An operator must check a list that moved before its addresses are allowed.
      redirect: 'manual',
      headers: { accept: 'application/json' },
      signal: AbortSignal.any([timeout, stop]),
    })
    if (response.status === 200) return parsePublishedList(await readText(response))
    await response.body?.cancel()
    throw new Error(`it answered with status ${response.status}`)
  } catch (error) {
    throw new Error(timeout.aborted ? `no answer in ${timeoutMs / 1000} s` : reasonOf(error), { cause: error })
  }
}

/** @throws {Error} */
export function parsePublishedList(text: string): readonly string[] {
  const json = parseJson(text)
  if (json === undefined) throw new Error('it is no JSON')
  const list = addressesIn(json)
  if (list === undefined) throw new Error('it is no list of IP addresses')
  if (list.length === 0) throw new Error('the list is empty')
  return list
}

/** Returns `undefined` for anything except a list of IP addresses. */
export function readAddresses(value: unknown): readonly string[] | undefined {
  const isAddress = (item: unknown): item is string => typeof item === 'string' && isIP(item) !== 0
  return Array.isArray(value) && value.every(isAddress) ? value : undefined
}

function addressesIn(value: unknown): readonly string[] | undefined {
  return readAddresses(isObject(value) && 'nodes' in value ? value['nodes'] : value)
}

async function readText(response: Response): Promise<string> {
  const chunks: Uint8Array[] = []
  let length = 0
  for await (const chunk of response.body ?? []) {
    length += chunk.length
    if (length > maxListBytes) throw new Error(`it is longer than ${maxListBytes / 1024} KB`)
    chunks.push(chunk)
  }
  return new TextDecoder().decode(Buffer.concat(chunks))
}

/** `fetch` hides the reason in the cause, which has no message if several addresses were tried. */
function reasonOf(error: unknown): string {
  const cause = causeOf(error)
  if (!(cause instanceof Error)) return messageOf(error)
  return cause.message || (codeOf(cause) ?? cause.name)
}
