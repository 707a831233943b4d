import { ChildProcess, spawn } from 'node:child_process'
import { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { type Channel, openChannel } from './ipc-channel.ts'

/** Another process of ours. */
export interface Child<In, Out> {
  readonly process: ChildProcess
  readonly channel: Channel<In, Out>
}

interface Message {
  readonly type: string
}

/** Behind stdin, stdout and stderr. */
const channelFd = 3

/** Another process of ours is told from its start on that SIGUSR1 is not to open a debugger. */
export const noDebugger = '--disable-sigusr1'

/** Tells a process of ours which other one started it, by its id. */
export const parentOption = 'parent'

/**
 * Starts another Node of ours, which finds its end of the channel with `openParent`. One that cannot be started always says
 * so by its `error`: so does Node for most reasons, but for want of memory it throws, and thrown from a timer that would end
 * the receiver.
 */
export function startChild<In extends Message, Out extends Message>(
  script: URL,
  args: readonly string[],
  nodeArgs: readonly string[] = [],
): Child<In, Out> {
  const child = start([noDebugger, ...nodeArgs, fileURLToPath(script), `--${parentOption}=${process.pid}`, ...args])
  // Of one that could not be started there may be none.
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

/** To one that was never started. */
function closed(): Duplex {
  return new Duplex({ read: () => undefined }).destroy()
}

/** The channel to whoever started this process. */
export function openParent<In extends Message, Out extends Message>(): Channel<In, Out> {
  return openChannel(new Socket({ fd: channelFd, readable: true, writable: true }))
}

export function isAlive({ process: child }: { readonly process: ChildProcess }): boolean {
  return child.pid !== undefined && child.exitCode === null && child.signalCode === null
}
