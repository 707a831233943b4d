import { ChildProcess, type ForkOptions, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/**
 * Starts another Node of ours. One that cannot be started always says so by its `error`: so does Node for most reasons,
 * but for want of memory it throws, and thrown from a timer that would end the receiver.
 */
export function startChild(script: URL, args: readonly string[], options: ForkOptions): ChildProcess {
  try {
    return fork(fileURLToPath(script), args, options)
  } catch (error) {
    const child = new ChildProcess()
    process.nextTick(() => child.emit('error', error))
    return child
  }
}
