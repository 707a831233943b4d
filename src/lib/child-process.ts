import { ChildProcess, spawn } from 'node:child_process'
import { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { type Channel, openChannel } from './ipc-channel.ts'
import { timesArgs } from './times.ts'

/** Another process of this product. */
export interface Child<In, Out> {
  readonly process: ChildProcess
  readonly channel: Channel<In, Out>
}

interface Message {
  readonly type: string
}

/** The descriptor after stdin, stdout and stderr. */
const channelFd = 3

/** Disables the debugger on SIGUSR1 from the start of a child process. */
export const noDebugger = '--disable-sigusr1'

/** Names the option that passes the parent's process id to a child. */
export const parentOption = 'parent'

/**
 * Starts another Node process of this product, which opens its end of the channel with `openParent`. A failure to
 * start always arrives as its `error` event. Node does that for most reasons, but throws if memory is short, and an
 * exception thrown from a timer would end the receiver.
 */
export function startChild<In extends Message, Out extends Message>(
  script: URL,
  args: readonly string[],
  nodeArgs: readonly string[] = [],
): Child<In, Out> {
  const ownArgs = [`--${parentOption}=${process.pid}`, ...timesArgs(), ...args]
  const child = start([noDebugger, ...nodeArgs, fileURLToPath(script), ...ownArgs])
  // A process that could not be started may have no stream.
  const stream = child.stdio?.[channelFd]
  return { process: child, channel: openChannel(stream instanceof Duplex ? stream : closed()) }
}

function start(args: readonly string[]): ChildProcess {
  try {
    return spawn(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit', 'pipe'] })
  } catch (error) {
    const child = new ChildProcess()
    process.nextTick(() => child.emit('error', error))
    return child
  }
}

/** The stream for a process that never started. */
function closed(): Duplex {
  return new Duplex({ read: () => undefined }).destroy()
}

/** The channel to the parent of this process. */
export function openParent<In extends Message, Out extends Message>(): Channel<In, Out> {
  return openChannel(new Socket({ fd: channelFd, readable: true, writable: true }))
}

export function isAlive({ process: child }: { readonly process: ChildProcess }): boolean {
  return child.pid !== undefined && child.exitCode === null && child.signalCode === null
}
