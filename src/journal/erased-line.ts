import { isObject } from '../lib/is-object.ts'

/** What an erased line keeps: its place in the order, its ids and times, and what it was about. All else may be personal. */
const kept = [
  ...['level', 'time', 'id', 'webhook', 'event', 'object', 'shape', 'source', 'event_handler_id', 'ts', 'auth'],
  ...['remote', 'erased', 'msg'],
]
/** Of `auth`: the portal. */
const keptOfAuth = ['domain', 'member_id']

/**
 * The line that takes the place of this one when its event is erased. It is as long, in bytes, so that no position comes to
 * mean another line, and begins with the same fields, so that one that was half written is still known by its id.
 *
 * @param line without its newline
 * @throws when it has no room for the mark, which no line of ours lacks
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
    // Spaces within the object: some readers of lines know none behind it.
    if (room >= 0) return Buffer.from(`${text.slice(0, -1)}${' '.repeat(room)}}`)
  }
  throw new Error(`the line of event ${String(line['id'])} has no room to be marked as erased`)
}

function pick(from: Readonly<Record<string, unknown>>, names: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(names.filter((name) => from[name] !== undefined).map((name) => [name, from[name]]))
}
