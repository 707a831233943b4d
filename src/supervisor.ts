import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Logger } from 'pino'

export interface Supervisor {
  /** Ends the dispatcher and starts another, which loads the handlers anew. */
  restart(): Promise<void>
  /** Resolves when it is gone; whoever still runs after `grace` milliseconds is killed and runs again after the next start. */
  stop(grace: number): Promise<void>
}

const shortestPause = 500
const longestPause = 30_000
/** A dispatcher that lived this long did not die of its start. */
const healthyAfter = 60_000

/**
 * Keeps one dispatcher process running. What it does, or fails to do, never reaches the receiver but by its exit.
 */
export function superviseDispatcher({ log, grace }: { readonly log: Logger; readonly grace: number }): Supervisor {
  let pause = shortestPause
  let timer: NodeJS.Timeout | undefined
  let ending: 'stop' | 'restart' | undefined
  let child = start()

  function start(): ChildProcess {
    const startedAt = Date.now()
    const fresh = fork(fileURLToPath(new URL('dispatch/main.ts', import.meta.url)), {
      // A handlers folder needs no package.json, and node:sqlite is no experiment to us.
      execArgv: ['--disable-warning=ExperimentalWarning', '--disable-warning=MODULE_TYPELESS_PACKAGE_JSON'],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    fresh.once('error', (error) => log.error({ err: error }, 'the dispatcher cannot be started'))
    fresh.once('exit', (code, signal) => {
      if (ending !== undefined) return
      if (Date.now() - startedAt > healthyAfter) pause = shortestPause
      log.error({ exit_code: code, signal, restart_in_ms: pause }, 'the dispatcher died; events wait in the journal')
      timer = setTimeout(() => {
        child = start()
      }, pause)
      pause = Math.min(pause * 2, longestPause)
    })
    return fresh
  }

  async function end(limit: number): Promise<void> {
    clearTimeout(timer)
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return
    const gone = new Promise((resolve) => child.once('exit', resolve))
    if (child.connected) child.send('stop')
    const killer = setTimeout(() => child.kill('SIGKILL'), limit)
    await gone
    clearTimeout(killer)
  }

  return {
    async restart() {
      if (ending !== undefined) return
      ending = 'restart'
      await end(grace)
      // stop() may have come meanwhile.
      if ((ending as string) !== 'restart') return
      ending = undefined
      child = start()
    },
    async stop(limit) {
      ending = 'stop'
      await end(limit)
    },
  }
}
