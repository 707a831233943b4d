import { isObject } from '../lib/is-object.ts'

/**
 * The fields that an erased line keeps: its place in the order, its ids and times, and its object. Every other field
 * may be personal.
 */
const kept = [
  ...['level', 'time', 'id', 'webhook', 'event', 'object', 'shape', 'source', 'event_handler_id', 'ts', 'auth'],
  ...['remote', 'erased', 'msg'],
]
/** The fields of `auth` that identify the portal. */
const keptOfAuth = ['domain', 'member_id']

/**
 * Returns the line that replaces this one when its event is erased. It has the same length in bytes, so that every
 * position still means the same line. It begins with the same fields, so that a half-written line is still identified
 * by its id.
 *
 * @param line without its newline
 * @throws if the line has no room for the mark; every line of the receiver has it
 */
export function eraseLine(line: Readonly<Record<string, unknown>>, length: number): Buffer {
  const { auth } = line
  const marked = {
    ...line,
    ...(isObject(auth) && { auth: pick(auth, keptOfAuth) }),
    erased: true,
  }
  for (const msg of [line['msg'], '']) {
    const text = JSON.stringify(pick({ ...marked, msg }, kept))
    const room = length - Buffer.byteLength(text)
    // The spaces go inside the object, because some readers of lines accept none after it.
    if (room >= 0) return Buffer.from(`${text.slice(0, -1)}${' '.repeat(room)}}`)
  }
  throw new Error(`the line of event ${String(line['id'])} has no room to be marked as erased`)
}

function pick(from: Readonly<Record<string, unknown>>, names: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(names.filter((name) => from[name] !== undefined).map((name) => [name, from[name]]))
}
