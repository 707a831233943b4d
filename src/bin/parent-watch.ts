import { workerData } from 'node:worker_threads'

/**
 * Runs in a worker thread of a child process, which passes its parent's process id. When the parent is gone (SIGKILL, out
 * of memory), the thread kills the child, even while a handler blocks its event loop. Otherwise an orphaned dispatcher
 * would keep the data directory locked for the next one.
 */
setInterval(() => {
  if (process.ppid !== workerData) process.kill(process.pid, 'SIGKILL')
}, 250)
