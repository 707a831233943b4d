import { ChildProcess, type StdioOptions, spawn } from 'node:child_process'
import { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { type Channel, type Message, openChannel } from './ipc-channel.ts'
import { timesArgs } from './times.ts'

/** How a process ended. */
export interface Exit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  /** Why it could not be started. */
  readonly error?: Error
}

/** Another process of this product. Its errors arrive only as `exited`. */
export interface Child<In, Out> {
  readonly channel: Channel<In, Out>
  /** Resolves when the process is gone, or could not be started. Its last messages may still be unread. */
  readonly exited: Promise<Exit>
  /** Resolves when the process is gone and its channel is closed: no message comes after that. */
  readonly closed: Promise<Exit>
  isAlive(): boolean
  /** Ends the process at once, with SIGKILL. */
  kill(): void
  /**
   * Asks the process to end, kills it after `timeoutMs` if it has not, and resolves when it is gone.
   *
   * @param ask how to ask; the default is SIGTERM
   */
  end(timeoutMs: number, ask?: () => void): Promise<void>
}

export interface ChildOptions {
  readonly script: URL
  readonly args?: readonly string[]
  /** The child writes to our stderr what it writes to stdout, because stdout is for results. */
  readonly isStdoutReserved?: boolean
}

/** The descriptor after stdin, stdout and stderr. */
const channelFd = 3

/** Names the option that passes the parent's process id to a child. */
export const parentOption = 'parent'

const nodeArgs = [
  // Disables the debugger on SIGUSR1 from the start of the process.
  '--disable-sigusr1',
  // A handlers folder needs no package.json, and the warning that node:sqlite is experimental is of no use to users.
  '--disable-warning=ExperimentalWarning',
  '--disable-warning=MODULE_TYPELESS_PACKAGE_JSON',
]

/**
 * Starts another Node process of this product, which opens its end of the channel with `openParent`. Its output is not
 * read here: a handler that writes much would cost this process time.
 */
export function startChild<In extends Message, Out extends Message>(options: ChildOptions): Child<In, Out> {
  const { script, args = [], isStdoutReserved = false } = options
  const child = spawnNode(
    [...nodeArgs, fileURLToPath(script), `--${parentOption}=${process.pid}`, ...timesArgs(), ...args],
    ['ignore', isStdoutReserved ? 2 : 'inherit', 'inherit', 'pipe'],
  )
  // A process that could not be started may have no stream.
  const stream = child.stdio?.[channelFd]
  const channel = openChannel<In, Out>(
    stream instanceof Duplex ? stream : new Duplex({ read: () => undefined }).destroy(),
  )
  const isAlive = () => child.pid !== undefined && child.exitCode === null && child.signalCode === null
  const exited = new Promise<Exit>((resolve) => {
    child.once('exit', (code, signal) => resolve({ code, signal }))
    // A process that could not be started has no `exit` event. A signal that cannot be sent is an error event, too.
    child.on('error', (error) => isAlive() || resolve({ code: null, signal: null, error }))
  })
  const channelClosed = new Promise<void>((resolve) => channel.events.once('close', resolve))
  return {
    channel,
    exited,
    closed: channelClosed.then(() => exited),
    isAlive,
    kill: () => void child.kill('SIGKILL'),
    async end(timeoutMs, ask = () => void child.kill('SIGTERM')) {
      if (!isAlive()) return
      ask()
      const killer = setTimeout(() => child.kill('SIGKILL'), timeoutMs)
      await exited
      clearTimeout(killer)
    },
  }
}

/**
 * A failure to start is always an `error` event. Node emits one for most reasons, but throws if memory is short, and an
 * exception from a timer would end the receiver.
 */
function spawnNode(args: readonly string[], stdio: StdioOptions): ChildProcess {
  try {
    return spawn(process.execPath, args, { stdio })
  } catch (error) {
    const child = new ChildProcess()
    process.nextTick(() => child.emit('error', error))
    return child
  }
}

/**
 * Opens the channel to the process that started this one.
 *
 * @param mayBlock this process runs handlers, which may block its event loop: a thread kills it when its parent is gone
 */
export function openParent<In extends Message, Out extends Message>({ mayBlock = false } = {}): Channel<In, Out> {
  // The parent's process id is in the arguments, because the parent may already be gone.
  const option = `--${parentOption}=`
  const workerData = Number(process.argv.find((arg) => arg.startsWith(option))?.slice(option.length))
  if (mayBlock) new Worker(new URL('../bin/parent-watch.ts', import.meta.url), { workerData }).unref()
  return openChannel(new Socket({ fd: channelFd, readable: true, writable: true }))
}
