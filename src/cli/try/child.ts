import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Config } from '../../config/config.ts'
import { noDebugger } from '../../lib/child-process.ts'
import { exitCodes } from '../exit-codes.ts'
import type { FromTry, ToTry } from './messages.ts'

/** Milliseconds from the start of its process. */
const longestLoad = 30_000

interface ChildDeps {
  readonly file: string
  readonly config: Config
  /** Returns the message with the run to start. */
  readonly onLoaded: (loaded: Extract<FromTry, { type: 'loaded' }>) => Promise<ToTry>
  readonly onMessage: (message: FromTry) => Promise<void>
}

/** Runs a handler in a separate process, which the handler may block or end. @returns the exit code */
export async function runInChild({ file, config, onLoaded, onMessage }: ChildDeps): Promise<number> {
  const child = fork(fileURLToPath(new URL('../../bin/try-process.ts', import.meta.url)), [file], {
    // The same options as a dispatcher's.
    execArgv: [noDebugger, '--disable-warning=ExperimentalWarning', '--disable-warning=MODULE_TYPELESS_PACKAGE_JSON'],
    // stdout is reserved for the report.
    stdio: ['ignore', 2, 2, 'ipc'],
  })
  const say = (message: ToTry) => void (child.connected && child.send(message, () => undefined))
  let code: number | undefined
  let failure: unknown
  /** Why the process was killed. */
  let reason: string | undefined
  let isRunning = false
  /** Set by the first message, because the process may take longer to start than a handler may block it. */
  let heard: number | undefined
  let working = Promise.resolve()

  const kill = (why: string) => {
    reason ??= why
    child.kill('SIGKILL')
  }
  let isInterrupted = false
  const interrupt = () => {
    if (!isRunning) kill('it was interrupted')
    else if (isInterrupted) kill('it was interrupted, and ignored its signal')
    else say({ type: 'interrupt' })
    isInterrupted = true
  }
  process.on('SIGINT', interrupt)

  const loading = setTimeout(() => kill(`it was not loaded within ${longestLoad / 1000} s`), longestLoad)
  const stall = config.handlerStall
  const interval = Math.min(1_000, stall / 2)
  let looked = performance.now()
  const watch = setInterval(() => {
    const now = performance.now()
    // After a pause of this process, for example by Ctrl-Z, messages of the child may still be unread.
    const wasLate = now - looked > 2 * interval
    looked = now
    if (!wasLate && heard !== undefined && now - heard > stall)
      kill(`it blocks its process for longer than HANDLER_STALL (${stall} ms); the receiver kills it, too`)
  }, interval)
  child.on('message', (message: FromTry) => {
    heard = performance.now()
    if (message.type === 'loaded' || message.type === 'broken') clearTimeout(loading)
    if (message.type === 'ended' || message.type === 'broken') code = exitCodeOf(message)
    working = working
      .then(async () => {
        await onMessage(message)
        if (message.type !== 'loaded') return
        const order = await onLoaded(message)
        isRunning = true
        say(order)
      })
      .catch((error: unknown) => {
        failure ??= error
        child.kill('SIGKILL')
      })
  })
  await Promise.all([once(child, 'exit'), once(child, 'disconnect')])
  clearTimeout(loading)
  clearInterval(watch)
  await working
  if (failure !== undefined) throw failure
  if (code !== undefined) return code
  const end = child.signalCode ?? `exit code ${child.exitCode}`
  throw new Error(reason ?? `its process ended while it ran (${end}): the receiver would run it again, alone`)
}

function exitCodeOf(message: Extract<FromTry, { type: 'ended' | 'broken' }>): number {
  const isWell = message.type === 'ended' && message.error === undefined
  return isWell ? exitCodes.done : exitCodes.failed
}
