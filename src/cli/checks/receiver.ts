import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createServer } from 'node:net'
import { readSettings } from '../../config.ts'
import { codeOf } from '../../error-code.ts'
import { isObject } from '../../is-object.ts'
import { findHolder, type Holder } from '../../journal/lock.ts'
import { askAdmin, toUrlHost } from '../admin.ts'
import { type Check, reasonOf } from './check.ts'

const name = 'receiver'

/** What the running one says of itself; where none runs, whether one could. */
export async function checkReceiver(): Promise<readonly Check[]> {
  const { DATA_DIR: dataDir } = readSettings(process.env, 'DATA_DIR')
  const holder = existsSync(dataDir) ? findHolder(dataDir, 'receiver') : undefined
  return holder ? [await checkReadiness(holder), await checkListener()] : [await checkPort(dataDir)]
}

async function checkReadiness({ pid, host }: Holder): Promise<Check> {
  const runs = `it runs as pid ${pid} on ${host}`
  try {
    const { body } = await askAdmin('/readyz')
    const { status, ...reasons } = isObject(body) ? body : { status: 'unknown' }
    const text = `${runs}, and is ${String(status)}`
    if (status === 'ready') return { name, state: 'ok', text }
    const advice = `${JSON.stringify(reasons)}; its log says more`
    return { name, state: status === 'degraded' ? 'warn' : 'FAIL', text, advice }
  } catch (error) {
    return { name, state: 'FAIL', text: `${runs}, but does not tell how it is`, advice: reasonOf(error) }
  }
}

async function checkListener(): Promise<Check> {
  const { HOST, PORT } = readSettings(process.env, 'HOST', 'PORT')
  const url = `http://${toUrlHost(HOST)}:${PORT}/healthz`
  try {
    const { status } = await fetch(url, { redirect: 'manual', signal: AbortSignal.timeout(5_000) })
    if (status === 200) return { name: 'listener', state: 'ok', text: `${url} answers` }
    return {
      name: 'listener',
      state: 'FAIL',
      text: `${url} answers ${status}`,
      advice: 'is PORT that of the receiver?',
    }
  } catch {
    return {
      name: 'listener',
      state: 'FAIL',
      text: `${url} does not answer`,
      advice: 'are HOST and PORT those of the receiver?',
    }
  }
}

async function checkPort(dataDir: string): Promise<Check> {
  const { HOST: host, PORT: port } = readSettings(process.env, 'HOST', 'PORT')
  const text = `none runs on ${dataDir}`
  const probe = createServer()
  try {
    probe.listen(port, host)
    await once(probe, 'listening')
    return { name, state: 'warn', text, advice: `${host}:${port} is free for one: npm start` }
  } catch (error) {
    const reason = codeOf(error) === 'EADDRINUSE' ? 'is taken by another process' : `cannot be had (${codeOf(error)})`
    return {
      name,
      state: 'FAIL',
      text: `${text}, and ${host}:${port} ${reason}`,
      advice: 'free it, or set PORT and HOST',
    }
  } finally {
    probe.close()
  }
}
