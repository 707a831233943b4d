import type { Event } from '../events/event.ts'
import type { Form, FormValue } from '../events/form.ts'
import { isEventId } from '../journal/event-id.ts'
import { isObject } from '../lib/is-object.ts'
import { parseJson } from '../lib/json.ts'
import { removeSecrets } from './secrets.ts'

type Check = (value: unknown) => boolean

const isText: Check = (value) => typeof value === 'string'
const isAbsentOr =
  (check: Check): Check =>
  (value) =>
    value === undefined || check(value)

/** The fields of an event in a journal line. */
const fields: Readonly<Record<keyof Event, Check>> = {
  id: (value) => typeof value === 'string' && isEventId(value),
  webhook: isAbsentOr(isText),
  event: (value) => isText(value) && value !== '',
  object: isAbsentOr(isText),
  document_id: isAbsentOr((value) => Array.isArray(value) && value.every(isText)),
  shape: isAbsentOr((value) => value === 'unexpected'),
  source: isAbsentOr((value) => value === 'backfill'),
  handler: isAbsentOr(isText),
  event_handler_id: isAbsentOr(isText),
  ts: isAbsentOr(isText),
  data: isAbsentOr((value) => isFormValue(value)),
  auth: isAbsentOr((value) => isForm(value)),
  query: isAbsentOr((value) => isForm(value)),
  extra: isAbsentOr((value) => isForm(value)),
  remote: isText,
}

/** The receiver's log also has lines with an id and an event, but with other fields. */
const names = new Set([...Object.keys(fields), 'level', 'time', 'msg'])

function isEventLine(line: unknown): line is Record<string, unknown> & Event {
  if (!isObject(line) || Object.keys(line).some((name) => !names.has(name))) return false
  return Object.entries(fields).every(([name, check]) => check(line[name]))
}

/**
 * Returns the event of a line that the journal refused and that went to stderr instead; `undefined` if the line holds
 * no event. The collector of stderr may have added a prefix. The receiver writes such lines without secrets, but a
 * line may also be handmade.
 *
 * @param held tokens that must not reach the journal in any place
 */
export function parseRefusedLine(text: string, held: readonly string[]): Event | undefined {
  const line = parseJson(text.slice(Math.max(0, text.indexOf('{"level":'))))
  if (!isEventLine(line)) return undefined
  const { level: _level, time: _time, msg: _msg, ...event } = line
  const { data, auth, extra } = event
  const form: Form = {
    ...{ event: event.event, ...(data !== undefined && { data }), ...(auth && { auth }), ...(extra && { extra }) },
  }
  removeSecrets(form, event.query, held)
  const formAt = (name: string) => (isForm(form[name]) ? form[name] : undefined)
  return { ...event, data: form['data'], auth: formAt('auth'), extra: formAt('extra') }
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

/** Deeper than a form may be (src/intake/form.ts), and shallow enough that recursion cannot overflow the stack. */
const maxDepth = 100

function isForm(value: unknown, depth = 0): value is Form {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
  return Object.values(value).every((one) => isFormValue(one, depth + 1))
}

function isFormValue(value: unknown, depth = 0): value is FormValue {
  if (typeof value === 'string') return true
  if (depth > maxDepth) return false
  return Array.isArray(value) ? value.every((one) => isFormValue(one, depth + 1)) : isForm(value, depth)
}
