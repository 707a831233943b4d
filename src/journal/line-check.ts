import { isUtf8 } from 'node:buffer'
import { isObject } from '../lib/is-object.ts'
import { parseJson } from '../lib/json.ts'
import { uuidVersion } from '../lib/uuid.ts'

const isText = (value: unknown) => typeof value === 'string'

/** The fields that every line has. Other fields depend on the event. */
const fields: readonly { readonly name: string; readonly is: (value: unknown) => boolean; readonly what: string }[] = [
  { name: 'level', is: (value) => typeof value === 'number', what: 'a number' },
  { name: 'time', is: (value) => isText(value) && !Number.isNaN(Date.parse(value)), what: 'a time' },
  { name: 'id', is: (value) => typeof value === 'string' && uuidVersion(value) !== undefined, what: 'a UUID' },
  { name: 'event', is: (value) => isText(value) && value !== '', what: 'a name' },
  { name: 'remote', is: isText, what: 'a text' },
  { name: 'msg', is: isText, what: 'a text' },
]

/** The values of a line that are compared with earlier lines. */
export interface CheckedLine {
  readonly id: string
  /** ISO 8601. */
  readonly time: string
}

/** @returns the line, or a description of what is wrong with it */
export function checkLine(bytes: Buffer): CheckedLine | string {
  if (bytes.includes(0)) return 'holds NUL bytes, as a power cut leaves them'
  if (!isUtf8(bytes)) return 'is not UTF-8'
  const parsed = parseJson(bytes.toString())
  if (parsed === undefined) return 'is no JSON'
  // A value that is not an object has no fields.
  const line = isObject(parsed) ? parsed : {}
  const wrong = fields.find(({ name, is }) => !is(line[name]))
  if (wrong)
    return `is no event: ${line[wrong.name] === undefined ? `it has no ${wrong.name}` : `its ${wrong.name} is not ${wrong.what}`}`
  return { id: String(line['id']), time: String(line['time']) }
}
