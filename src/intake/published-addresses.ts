import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import { StartError } from '../lib/start-error.ts'
import { type AllowedAddresses, createAllowedAddresses } from './allowed-addresses.ts'
import { copyPath, type PublishedCopy, readCopies, writeCopies } from './published-copy.ts'
import { readPublishedList } from './published-list.ts'

/**
 * The lists for the world and for Russia:
 * https://apidocs.bitrix24.com/settings/cloud-and-on-premise/network-access.html, and its Russian original.
 */
export const publishedLists = [
  'https://dl.bitrix24.com/webhook/app-world.json',
  'https://repos.1c-bitrix.ru/webhook/app.json',
]

/**
 * Milliseconds. Bitrix24 asks clients to read the list every five to ten minutes, and at most once a minute. It lists
 * a new server five to ten minutes before that server sends, so a refresh every ten minutes could be too late.
 */
const rhythm = { refresh: 300_000, again: 60_000, patience: 10_000 }

export interface PublishedDeps {
  readonly dataDir: string
  readonly log: FastifyBaseLogger
  readonly urls?: readonly string[]
  readonly times?: Partial<typeof rhythm>
}

export interface PublishedAddresses extends AllowedAddresses {
  /** Resolves when all background work has ended. */
  readonly close: () => Promise<void>
}

/**
 * Opens the lists in which Bitrix24 publishes the addresses of its queue servers. They are refreshed in the
 * background, each list independently. A list that cannot be read keeps its last content, also after a restart. Only
 * without a copy of any list does this function wait for the lists, because a receiver without addresses would refuse
 * every event.
 *
 * @throws {StartError} if there is no copy and no list can be read
 */
export async function openPublishedAddresses(deps: PublishedDeps): Promise<PublishedAddresses> {
  const { dataDir, log, urls = publishedLists } = deps
  const times = { ...rhythm, ...deps.times }
  const stop = new AbortController()
  /** URL of a list, or path of the copies → why it fails. */
  const failing = new Map<string, string>()
  let known = new Set<string>()
  let allowed = createAllowedAddresses([])
  let saved = Promise.resolve()

  const copies = await readCopies(dataDir, urls).catch((error: unknown) => {
    log.warn({ err: error }, 'the copy of the allowed addresses cannot be read')
    return new Map<string, PublishedCopy>()
  })
  const isFirstStart = copies.size === 0
  if (isFirstStart) await Promise.all(urls.map(refresh))
  if (copies.size === 0) throw new StartError(explain(failing))
  apply()
  const following = urls.map((url) => follow(url, isFirstStart ? pace(url) : rest(copies.get(url))))

  return {
    has: (address) => allowed.has(address),
    async close() {
      stop.abort()
      await Promise.all(following)
      await saved
    },
  }

  async function follow(url: string, wait: number): Promise<void> {
    for (let next = wait; await pause(next); next = pace(url)) await refresh(url)
  }

  function pace(url: string): number {
    return failing.has(url) ? times.again : times.refresh
  }

  async function refresh(url: string): Promise<void> {
    const fetchedAt = new Date().toISOString()
    try {
      copies.set(url, { fetchedAt, addresses: await readPublishedList(url, times.patience, stop.signal) })
    } catch (error) {
      if (stop.signal.aborted) return
      // The previous content is still the best available.
      const reason = error instanceof Error ? error.message : String(error)
      const lastGood = copies.get(url)?.fetchedAt ?? 'none: posts from its addresses are refused'
      if (!failing.has(url)) log.warn({ url, reason, last_good: lastGood }, 'a list of allowed addresses cannot be had')
      failing.set(url, reason)
      return
    }
    if (failing.delete(url)) log.info({ url }, 'a list of allowed addresses can be had again')
    apply()
    // The saves run one after the other, because they write one file.
    saved = saved.then(save)
  }

  function apply(): void {
    const addresses = new Set([...copies.values()].flatMap((copy) => copy.addresses))
    const added = [...addresses].filter((address) => !known.has(address)).length
    const removed = [...known].filter((address) => !addresses.has(address)).length
    if (added + removed === 0) return
    known = addresses
    allowed = createAllowedAddresses([...addresses])
    log.info({ added, removed, addresses: addresses.size }, 'the allowed addresses changed')
  }

  async function save(): Promise<void> {
    const path = copyPath(dataDir)
    try {
      await writeCopies(dataDir, copies)
      failing.delete(path)
    } catch (error) {
      // The addresses are in memory. Only the next start may have to wait for the lists.
      if (!failing.has(path)) log.warn({ err: error }, 'the copy of the allowed addresses cannot be written')
      failing.set(path, String(error))
    }
  }

  /** Repeated restarts must not read the lists more often than once a minute. */
  function rest(copy: PublishedCopy | undefined): number {
    const age = copy === undefined ? Number.NaN : Date.now() - Date.parse(copy.fetchedAt)
    return age >= 0 && age < times.again ? times.again - age : 0
  }

  /** @returns whether the refresh continues */
  async function pause(ms: number): Promise<boolean> {
    return sleep(ms, true, { ref: false, signal: stop.signal }).catch(() => false)
  }
}

function explain(reasons: ReadonlyMap<string, string>): string {
  const lines = [...reasons].map(([url, reason]) => `  ${url}  ${reason}`)
  return `B24_ALLOWED_IPS=auto, but no list of Bitrix24's addresses can be had, and DATA_DIR has no copy of an earlier one:
${lines.join('\n')}
Let this machine reach one of them, or set B24_ALLOWED_IPS to addresses, or unset it to take posts from anywhere`
}
