import { isIP } from 'node:net'

/**
 * Decides whether the private listener answers to a `Host`. An attacker's page can point its own name to this address
 * (DNS rebinding): a browser in this network then sends the request and lets the page read the answer. An IP address or
 * localhost cannot be such a name.
 *
 * @param names further names that the listener answers to; case does not matter
 */
export function createPrivateHosts(names: readonly string[]): (host: string | undefined) => boolean {
  const known = new Set(names.map(normalise))
  return (host) => {
    // Only HTTP/1.0 allows a request without Host, and no browser uses it.
    if (host === undefined) return true
    const [, address = '', text = ''] = /^(?:\[([^\]]*)\]|([^:]*))(?::\d*)?$/.exec(host) ?? []
    const name = normalise(text)
    return isIP(address) === 6 || isIP(name) === 4 || /(^|\.)localhost$/.test(name) || known.has(name)
  }
}

function normalise(name: string): string {
  return name.toLowerCase().replace(/\.$/, '')
}
