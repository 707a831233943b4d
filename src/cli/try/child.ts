import type { Config } from '../../config/config.ts'
import { startChild } from '../../lib/child-process.ts'
import { watchForStall } from '../../lib/stall-watchdog.ts'
import { exitCodes } from '../exit-codes.ts'
import type { FromTry, LoadedMessage, ToTry } from './messages.ts'

/** Milliseconds from the start of its process. */
const loadTimeoutMs = 30_000

interface ChildDeps {
  readonly file: string
  readonly config: Config
  /** Returns the message with the run to start. */
  readonly onLoaded: (loaded: LoadedMessage) => Promise<ToTry>
  readonly onMessage: (message: FromTry) => Promise<void>
}

/** Runs a handler in a separate process, which the handler may block or end. @returns the exit code */
export async function runInChild({ file, config, onLoaded, onMessage }: ChildDeps): Promise<number> {
  const script = new URL('../../bin/try-process.ts', import.meta.url)
  const child = startChild<FromTry, ToTry>({ script, args: [file], isStdoutReserved: true })
  const { channel } = child
  const stallMs = config.handlerStall
  let code: number | undefined
  let failure: unknown
  /** Why the process was killed. */
  let reason: string | undefined
  let isRunning = false
  let isInterrupted = false
  let working = Promise.resolve()

  const kill = (why: string) => {
    reason ??= why
    child.kill()
  }
  process.on('SIGINT', () => {
    if (!isRunning) kill('it was interrupted')
    else if (isInterrupted) kill('it was interrupted, and ignored its signal')
    else channel.send({ type: 'interrupt' })
    isInterrupted = true
  })
  const loading = setTimeout(() => kill(`it was not loaded within ${loadTimeoutMs / 1000} s`), loadTimeoutMs)
  watchForStall(child, {
    stallMs,
    onStall: () =>
      kill(`it blocks its process for longer than HANDLER_STALL (${stallMs} ms); the receiver kills it, too`),
  })
  channel.events.once('garbage', () => {
    kill('it writes to descriptor 3, the channel of its process; the receiver kills it, too')
    channel.close()
  })
  channel.events.on('message', (message) => {
    if (message.type === 'loaded' || message.type === 'broken') clearTimeout(loading)
    if (message.type === 'ended' || message.type === 'broken') code = exitCodeOf(message)
    working = working
      .then(async () => {
        await onMessage(message)
        if (message.type !== 'loaded') return
        const order = await onLoaded(message)
        isRunning = true
        channel.send(order)
      })
      .catch((error: unknown) => {
        failure ??= error
        child.kill()
      })
  })
  const exit = await child.closed
  clearTimeout(loading)
  await working
  if (failure !== undefined) throw failure
  if (code !== undefined) return code
  if (exit.error) throw exit.error
  const end = exit.signal ?? `exit code ${exit.code}`
  throw new Error(reason ?? `its process ended while it ran (${end}): the receiver would run it again, alone`)
}

function exitCodeOf(message: Extract<FromTry, { type: 'ended' | 'broken' }>): number {
  const isWell = message.type === 'ended' && message.error === undefined
  return isWell ? exitCodes.done : exitCodes.failed
}
