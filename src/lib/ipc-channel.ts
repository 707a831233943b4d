import { EventEmitter } from 'node:events'
import type { Duplex } from 'node:stream'

/** A message has at least a type. */
export interface Message {
  readonly type: string
}

interface Events<In> {
  message: [message: In]
  /** The received text is not a message, so later texts may not be messages either. Nothing more is read. */
  garbage: []
  /** The other end is gone, or has closed the channel. */
  close: []
}

/** Messages between two processes of this product. */
export interface Channel<In, Out> {
  readonly events: EventEmitter<Events<In>>
  readonly isOpen: () => boolean
  /**
   * Sends a message. A message that does not arrive is not an error: the other process is ending.
   *
   * @param sent called when the message has left, or cannot leave
   */
  readonly send: (message: Out, sent?: () => void) => void
  readonly close: () => void
}

/** Characters. The longest ordinary messages are metrics and missed events. */
const maxMessageLength = 64 * 1024 ** 2

/**
 * Opens a channel with one line of JSON for each message. Node has its own channel, but that one throws in the parent
 * if the child writes anything else to it, and handlers run in the child.
 */
export function openChannel<In extends Message, Out extends Message>(stream: Duplex): Channel<In, Out> {
  const events = new EventEmitter<Events<In>>()
  let rest = ''
  let isOpen = true

  function read(text: string): void {
    const [first = '', ...others] = text.split('\n')
    const lines = [rest + first, ...others]
    rest = lines.pop() ?? ''
    for (const line of lines) {
      const message = parse<In>(line)
      if (message === undefined) {
        refuse()
        return
      }
      events.emit('message', message)
    }
    if (rest.length > maxMessageLength) refuse()
  }

  function refuse(): void {
    stream.off('data', read)
    events.emit('garbage')
  }

  // After any error the stream also emits `close`.
  stream.setEncoding('utf8').on('error', () => undefined)
  stream.on('data', read)
  stream.once('end', () => stream.destroy())
  stream.once('close', () => {
    isOpen = false
    events.emit('close')
  })

  return {
    events,
    isOpen: () => isOpen,
    send(message, sent = () => undefined) {
      if (isOpen) stream.write(`${JSON.stringify(message)}\n`, () => sent())
      else sent()
    },
    close: () => void stream.destroy(),
  }
}

/** Messages from our own processes are not validated further. */
function parse<In extends Message>(line: string): In | undefined {
  try {
    const message: unknown = JSON.parse(line)
    const isMessage = typeof message === 'object' && message !== null && 'type' in message
    return isMessage && typeof message.type === 'string' ? (message as In) : undefined
  } catch {
    return undefined
  }
}
