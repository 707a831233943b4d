import type { Child } from './child-process.ts'
import type { Channel, Message } from './ipc-channel.ts'

/** Says that the event loop of the process turns. */
export interface Alive extends Message {
  readonly type: 'alive'
}

export interface StallWatchdogOptions {
  /** Milliseconds for which the child may send nothing. */
  readonly stallMs: number
  /** Called again and again until the child is gone. */
  readonly onStall: (silentMs: number) => void
}

/**
 * Watches for a child whose event loop is blocked, for example by a handler in an endless loop: its own process cannot
 * report that. The child sends messages with `sendAlive`.
 */
export function watchForStall<In extends Message, Out>(
  { channel, exited }: Pick<Child<In, Out>, 'channel' | 'exited'>,
  { stallMs, onStall }: StallWatchdogOptions,
): void {
  const intervalMs = Math.min(1_000, stallMs / 2)
  // Not the time of day, because the clock may be put forward.
  let heardAt = performance.now()
  channel.events.on('message', () => {
    heardAt = performance.now()
  })
  // The watch begins with the first message: a process may take longer to start than it may block.
  channel.events.once('message', () => {
    let lookedAt = performance.now()
    const timer = setInterval(() => {
      const now = performance.now()
      // If this event loop was late, for example after Ctrl-Z, messages of the child may be unread.
      const wasLate = now - lookedAt > 2 * intervalMs
      lookedAt = now
      if (!wasLate && now - heardAt > stallMs) onStall(Math.round(now - heardAt))
    }, intervalMs)
    void exited.then(() => clearInterval(timer))
  })
}

/** The child's end: sends `alive` often enough for a parent that watches for `stallMs`. */
export function sendAlive(parent: Pick<Channel<never, Alive>, 'send'>, stallMs: number): void {
  const send = () => parent.send({ type: 'alive' })
  send()
  setInterval(send, Math.min(1_000, stallMs / 4))
}
