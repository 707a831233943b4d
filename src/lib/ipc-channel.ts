import { EventEmitter } from 'node:events'
import type { Duplex } from 'node:stream'

interface Message {
  readonly type: string
}

interface Events<In> {
  message: [message: In]
  /** What came is no message, so what comes after it may be none either: nothing more is read. */
  garbage: []
  /** The other end is gone, or closed it. */
  close: []
}

/** Messages between two processes of ours. */
export interface Channel<In, Out> {
  readonly events: EventEmitter<Events<In>>
  readonly isOpen: () => boolean
  /**
   * What does not get through is no error: then the other end is ending.
   *
   * @param sent called when it has left, or cannot
   */
  readonly send: (message: Out, sent?: () => void) => void
  readonly close: () => void
}

/** Characters of a message. The longest ordinary ones are metrics and events that were missed. */
const longest = 64 * 1024 ** 2

/**
 * A line of JSON for each message. Node has a channel of its own, but one that throws in the parent when the child writes
 * anything else to it; and handlers run in the child.
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
    if (rest.length > longest) refuse()
  }

  function refuse(): void {
    stream.off('data', read)
    events.emit('garbage')
  }

  // Whatever went wrong, it closes after it.
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

/** What our own processes say is not checked further. */
function parse<In extends Message>(line: string): In | undefined {
  try {
    const message: unknown = JSON.parse(line)
    const isMessage = typeof message === 'object' && message !== null && 'type' in message
    return isMessage && typeof message.type === 'string' ? (message as In) : undefined
  } catch {
    return undefined
  }
}
