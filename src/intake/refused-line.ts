import type { Event } from '../events/event.ts'
import type { Form, FormValue } from '../events/form.ts'

import { removeSecrets } from './secrets.ts'

/** The fields that a journal line may have. The receiver's log also has lines with an id and an event. */
const names = new Set([
  ...[
    'level',
    'time',
    'id',
    'webhook',
    'event',
    'object',
    'shape',
    'source',
    'handler',
    'event_handler_id',
    'ts',
    'document_id',
  ],
  ...['data', 'auth', 'query', 'extra', 'remote', 'msg'],
])

/**
 * Returns the event of a line that the journal refused and that went to stderr instead; `undefined` if the line holds
 * no event. The collector of stderr may have added a prefix. The receiver writes such lines without secrets, but a
 * line may also be handmade.
 *
 * @param held tokens that must not reach the journal in any place
 */
export function parseRefusedLine(text: string, held: readonly string[]): Event | undefined {
  const line = readObject(text.slice(Math.max(0, text.indexOf('{"level":'))))
  if (line === undefined || Object.keys(line).some((name) => !names.has(name))) return undefined
  const {
    id,
    event,
    remote,
    object,
    webhook,
    shape,
    source,
    handler,
    event_handler_id,
    ts,
    document_id,
    data,
    auth,
    query,
    extra,
  } = line
  if (typeof id !== 'string' || !uuid.test(id)) return undefined
  if (typeof event !== 'string' || event === '' || typeof remote !== 'string') return undefined
  if (
    !isTextOrNone(object) ||
    !isTextOrNone(webhook) ||
    !isTextOrNone(handler) ||
    !isTextOrNone(event_handler_id) ||
    !isTextOrNone(ts)
  )
    return undefined
  if (shape !== undefined && shape !== 'unexpected') return undefined
  if (source !== undefined && source !== 'backfill') return undefined
  if (document_id !== undefined && !isTexts(document_id)) return undefined
  if (data !== undefined && !isFormValue(data)) return undefined
  if (auth !== undefined && !isForm(auth)) return undefined
  if ((query !== undefined && !isForm(query)) || (extra !== undefined && !isForm(extra))) return undefined
  const form: Form = { event, ...(data !== undefined && { data }), ...(auth && { auth }), ...(extra && { extra }) }
  removeSecrets(form, query, held)
  return {
    ...{ id, webhook, event, object, shape, source, handler, event_handler_id, ts, document_id },
    ...{ data: form['data'], auth: isForm(form['auth']) ? form['auth'] : undefined, query },
    ...{ extra: isForm(form['extra']) ? form['extra'] : undefined, remote },
  }
}

/**
 * Returns the events of a line as `parseRefusedLine` reads them. A disk that damages a line may remove the newline
 * between two lines, or leave other bytes around them.
 */
export function parseRefusedLines(text: string, held: readonly string[]): readonly Event[] {
  const starts = [...text.matchAll(/\{"level":\d+,/g)].map(({ index }) => index)
  // A handmade line may begin with any text.
  if (starts.length === 0) return [parseRefusedLine(text, held)].filter((event) => event !== undefined)
  return starts.flatMap((start, at) => {
    const one = text.slice(start, starts[at + 1])
    return parseRefusedLine(one.slice(0, one.lastIndexOf('}') + 1), held) ?? []
  })
}

const uuid = /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/

function readObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? { ...value } : undefined
  } catch {
    return undefined
  }
}

function isTextOrNone(value: unknown): value is string | undefined {
  return value === undefined || typeof value === 'string'
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((one) => typeof one === 'string')
}

/** Deeper than a form may be (src/intake/form.ts), and shallow enough that recursion cannot overflow the stack. */
const deepest = 100

function isForm(value: unknown, depth = 0): value is Form {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
  return Object.values(value).every((one) => isFormValue(one, depth + 1))
}

function isFormValue(value: unknown, depth = 0): value is FormValue {
  if (typeof value === 'string') return true
  if (depth > deepest) return false
  return Array.isArray(value) ? value.every((one) => isFormValue(one, depth + 1)) : isForm(value, depth)
}
