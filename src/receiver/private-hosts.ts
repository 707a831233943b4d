import { isIP } from 'node:net'

/**
 * Whether the private listener answers to a `Host`. The page of a stranger can lead its own name here (DNS rebinding): then
 * the browser of somebody in this network asks for it and lets the page read the answer. Neither an address nor localhost
 * can be such a name.
 *
 * @param names that it answers to as well, in any case
 */
export function createPrivateHosts(names: readonly string[]): (host: string | undefined) => boolean {
  const known = new Set(names.map(normalise))
  return (host) => {
    // Only HTTP/1.0 allows that, which no browser speaks.
    if (host === undefined) return true
    const [, address = '', text = ''] = /^(?:\[([^\]]*)\]|([^:]*))(?::\d*)?$/.exec(host) ?? []
    const name = normalise(text)
    return isIP(address) === 6 || isIP(name) === 4 || /(^|\.)localhost$/.test(name) || known.has(name)
  }
}

function normalise(name: string): string {
  return name.toLowerCase().replace(/\.$/, '')
}
