import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Receiver, type ReceiverOptions, spawnReceiver, until } from './receiver.ts'

/** The dispatcher's process id, once the receiver has one that runs. */
export function dispatcherOf(receiver: Receiver): Promise<number> {
  return until('a dispatcher', () => childrenOf(receiver)[0])
}

function childrenOf(receiver: Receiver): number[] {
  try {
    const out = execFileSync('pgrep', ['-P', String(receiver.child.pid)], { encoding: 'utf8' })
    return out
      .split('\n')
      .filter((line) => line !== '')
      .map(Number)
      .filter((pid) => !isGone(pid))
  } catch {
    // pgrep found none.
    return []
  }
}

/** Whether the process ended; one that nobody has reaped yet did. */
export function isGone(pid: number): boolean {
  try {
    // The state stands behind the name, which may hold anything.
    return readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ').at(-1)?.startsWith('Z') ?? true
  } catch {
    return true
  }
}

export const dispatcherScript = fileURLToPath(new URL('../../src/bin/dispatcher.ts', import.meta.url))

/** Runs a dispatcher by itself, as `npm run dispatch` does. */
export function spawnDispatcher(options: ReceiverOptions & { readonly dataDir: string }) {
  return spawnReceiver({
    ...options,
    script: dispatcherScript,
    env: { ...options.env, NODE_OPTIONS: '--disable-warning=ExperimentalWarning' },
  })
}

export const deals = 'ONCRMDEALUPDATE.mjs'

/**
 * A handler file that talks with its test through a folder: `mark` adds a line to a file there, `marked` waits for a
 * file, `has` and `lines` look. `event`, `attempt`, `signal` and `isGuilty`, for deal 666, are there too.
 */
export function scripted(folder: string, body: string): string {
  return `import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
const path = (name) => ${JSON.stringify(folder)} + '/' + name
const mark = (name, line = '') => appendFileSync(path(name), line + '\\n')
const has = (name) => existsSync(path(name))
const lines = (name) => has(name) ? readFileSync(path(name), 'utf8').split('\\n').length - 1 : 0
const marked = async (name) => { while (!has(name)) await sleep(20) }
export default async (event, context) => {
  const { attempt, signal } = context
  const isGuilty = event.object === 'deal:666'
  ${body}
}
`
}

/** What handlers marked in such a file. */
export function linesOf(folder: string, name: string): string[] {
  const path = join(folder, name)
  // A line that is being written has no end yet.
  return existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(0, -1) : []
}
