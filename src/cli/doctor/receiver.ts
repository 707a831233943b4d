import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { hostname } from 'node:os'
import { readSettings } from '../../config/config.ts'
import { descriptorLimit, lowLimit } from '../../intake/connections.ts'
import { findHolder, type Holder } from '../../journal/lock.ts'
import { codeOf } from '../../lib/error-code.ts'
import { messageOf } from '../../lib/error-text.ts'
import { isObject } from '../../lib/is-object.ts'
import { askAdmin, toUrlHost } from '../admin.ts'
import { type Check, fail, ok, warn } from './check.ts'

const name = 'receiver'

/** Reports what the running receiver says about itself. If none runs, it checks whether one could start. */
export async function checkReceiver(): Promise<readonly Check[]> {
  const { dataDir } = readSettings(process.env, 'dataDir')
  const holder = existsSync(dataDir) ? findHolder(dataDir, 'receiver') : undefined
  if (holder === undefined)
    return [await checkPort(dataDir), checkDescriptors(descriptorLimit(), 'a process started here')]
  const limit = limitOf(holder)
  const descriptors = limit === undefined ? [] : [checkDescriptors(limit, 'the receiver')]
  return [await checkReadiness(holder), await checkListener(), ...descriptors]
}

/**
 * Returns how many descriptors the running receiver may open; `undefined` if it is another user's or on another
 * machine, or if this is not Linux.
 */
function limitOf({ pid, host }: Holder): number | undefined {
  if (host !== hostname()) return undefined
  try {
    const [, soft] = /^Max open files +(\d+)/m.exec(readFileSync(`/proc/${pid}/limits`, 'utf8')) ?? []
    return soft === undefined ? undefined : Number(soft)
  } catch {
    return undefined
  }
}

function checkDescriptors(limit: number, who: string): Check {
  const text = `${who} may have ${limit} open, one for each connection`
  if (limit >= lowLimit) return ok('descriptors', text)
  const advice = `a bulk edit opens a thousand connections at once: allow ${lowLimit} and more, with LimitNOFILE= of systemd, ulimits of Docker, ulimit -n`
  return warn('descriptors', text, advice)
}

async function checkReadiness({ pid, host }: Holder): Promise<Check> {
  const runs = `it runs as pid ${pid} on ${host}`
  try {
    const { body } = await askAdmin('/readyz')
    const { status, ...reasons } = isObject(body) ? body : { status: 'unknown' }
    const text = `${runs}, and is ${String(status)}`
    if (status === 'ready') return ok(name, text)
    return (status === 'degraded' ? warn : fail)(name, text, `${JSON.stringify(reasons)}; its log says more`)
  } catch (error) {
    return fail(name, `${runs}, but does not answer /readyz`, messageOf(error))
  }
}

async function checkListener(): Promise<Check> {
  const { host, port } = readSettings(process.env, 'host', 'port')
  const url = `http://${toUrlHost(host)}:${port}/healthz`
  try {
    const { status } = await fetch(url, { redirect: 'manual', signal: AbortSignal.timeout(5_000) })
    if (status === 200) return ok('listener', `${url} answers`)
    return fail('listener', `${url} answers ${status}`, 'is PORT that of the receiver?')
  } catch {
    return fail('listener', `${url} does not answer`, 'are HOST and PORT those of the receiver?')
  }
}

async function checkPort(dataDir: string): Promise<Check> {
  const { host, port } = readSettings(process.env, 'host', 'port')
  const text = `none runs on ${dataDir}`
  const probe = createServer()
  try {
    probe.listen(port, host)
    await once(probe, 'listening')
    return warn(name, text, `${host}:${port} is free for one: npm start`)
  } catch (error) {
    const reason = codeOf(error) === 'EADDRINUSE' ? 'is taken by another process' : `cannot be had (${codeOf(error)})`
    return fail(name, `${text}, and ${host}:${port} ${reason}`, 'free it, or set PORT and HOST')
  } finally {
    probe.close()
  }
}
