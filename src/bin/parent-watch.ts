import { workerData } from 'node:worker_threads'

/**
 * Runs in a worker thread of the dispatcher, which gives it the receiver's process id: when the receiver is gone (SIGKILL,
 * out of memory), so is the dispatcher, even while a handler blocks its event loop. Otherwise it would hold the data
 * directory against the next one.
 */
setInterval(() => {
  if (process.ppid !== workerData) process.kill(process.pid, 'SIGKILL')
}, 250)
