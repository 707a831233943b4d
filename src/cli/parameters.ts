import { parseJson } from '../lib/json.ts'
import { UsageError } from './usage-error.ts'

/** The value under a name: a set of further names, or a plain value. */
type Branch = Map<string, unknown>

/**
 * Parses `ID=42`, `fields[TITLE]=Boat` or `fields.TITLE=Boat`, and `select[]=ID` for a list. After `:=` the value is
 * JSON, as in `filter:={"STAGE_ID":"NEW"}`. Any text may stand between brackets, such as `>=DATE_CREATE`.
 *
 * @throws {UsageError} that says which word is wrong, without a part that may be a secret
 */
export function parseParameters(args: readonly string[]): Record<string, unknown> {
  const root: Branch = new Map()
  for (const [index, word] of args.entries()) {
    const [, first, rest = '', sign, text = ''] =
      /^([^[\].:=]+)((?:\[[^\]]*\]|\.[^[\].:=]+)*)(:?=)(.*)$/s.exec(word) ?? []
    if (first === undefined) throw new UsageError(`parameter ${index + 1} is not of the form KEY=VALUE or KEY:=JSON`)
    const key = `${first}${rest}`
    const path = [first, ...[...rest.matchAll(/\[([^\]]*)\]|\.([^[\].]+)/g)].map(([, a, b]) => a ?? b ?? '')]
    const name = path.pop() ?? ''
    const branch = path.reduce((at, step) => descend(at, step, key), root)
    const own = name === '' ? String(branch.size) : name
    if (branch.has(own)) throw new UsageError(`${key} is set twice`)
    branch.set(own, sign === ':=' ? toJson(text, key) : text)
  }
  return Object.fromEntries([...root].map(([name, value]) => [name, toValue(value)]))
}

function descend(branch: Branch, step: string, key: string): Branch {
  const own = step === '' ? String(branch.size) : step
  const next = branch.get(own) ?? new Map<string, unknown>()
  if (!(next instanceof Map)) throw new UsageError(`${key} is set in another that has a value`)
  branch.set(own, next)
  return next
}

/** The names 0, 1, 2, … make a list, as in PHP. */
function toValue(value: unknown): unknown {
  if (!(value instanceof Map)) return value
  const entries = [...value].map(([name, inner]): [string, unknown] => [String(name), toValue(inner)])
  return entries.every(([name], index) => name === String(index))
    ? entries.map(([, inner]) => inner)
    : Object.fromEntries(entries)
}

function toJson(text: string, key: string): unknown {
  const value = parseJson(text)
  if (value === undefined) throw new UsageError(`what ${key} is set to is no JSON`)
  return value
}
