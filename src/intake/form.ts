import qs from 'qs'
import type { Form, FormValue } from '../events/form.ts'
import { decodePercent } from './percent.ts'
import { Refusal } from './refusal.ts'

/**
 * Limits of a form, checked before qs parses it, because the work of qs grows with the names and their brackets. The
 * longest documented payload has 97 parameters, the deepest has 4 brackets in a name, and PHP itself reads at most
 * 1,000 parameters.
 */
const limits = {
  parameters: 5_000,
  /** In all names together. */
  brackets: 10_000,
  /** Characters before decoding: a Cyrillic letter takes six. */
  name: 2_000,
  /** Under one name such as `a[]`, which http_build_query never writes. */
  items: 1_000,
} as const

/**
 * The qs settings closest to PHP's `$_POST`. Every limit that qs would apply silently throws instead: Bitrix24 sends
 * `auth` last, so a silent cut would first remove the only proof of origin.
 */
const options = {
  depth: 64, // PHP's max_input_nesting_level; documented payloads nest 5 deep
  strictDepth: true,
  parameterLimit: limits.parameters,
  arrayLimit: limits.items,
  throwOnLimitExceeded: true,
  parseArrays: false, // an id in brackets is a key, not a position; toLists() finds the real lists
  plainObjects: true, // otherwise qs drops keys such as `constructor`
  duplicates: 'last', // PHP's rule
} as const

const proof = 'auth[application_token]'

/**
 * Decodes a form body as PHP's `$_POST` would. Bytes that are not UTF-8 become U+FFFD, because a refused event is
 * lost for good. Only a structure that cannot be understood is refused. `test/unit/intake/form.test.ts` lists the
 * remaining differences.
 *
 * @throws {Refusal} `malformed_form`, with the size and the reason, if the form is too deep, has too many parameters
 *   or contradicts itself
 */
export function decodeForm(text: string): Form {
  let form: Form
  let isProven: boolean
  try {
    const { fields, proofs } = readFields(text)
    // qs gets the parsed fields and only nests them. Given the text, it would split it again and look for brackets in
    // the values.
    form = qs.parse(fields as Record<string, string>, options) as Form
    for (const key of Object.keys(form)) form[key] = toLists(form[key] as FormValue)
    isProven = proofs <= 1
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    // The messages of qs, like ours, name the limit and contain nothing from the body.
    throw new Refusal('malformed_form', { size: text.length, reason: error.message }, { cause: error })
  }
  // PHP would keep the last of two. A repeated proof of origin does not count.
  if (!isProven) delete form['auth']
  return form
}

interface Fields {
  /** By the whole name, such as `data[FIELDS][ID]`. A list holds the values under one name that ends in `[]`. */
  readonly fields: Record<string, string | string[]>
  /** How many times a proof of origin came. */
  readonly proofs: number
}

/**
 * Returns the decoded parameters as qs would read them. As in PHP, the first `=` separates name and value, and of two
 * equal names the last counts.
 *
 * @throws {RangeError} as soon as the parameters exceed the limits or contradict each other
 */
function readFields(text: string): Fields {
  const fields = Object.create(null) as Fields['fields']
  const decode = createDecoder()
  let proofs = 0
  let parameters = 0
  let brackets = 0
  for (let start = 0; start < text.length; ) {
    if (++parameters > limits.parameters) throw new RangeError(`more than ${limits.parameters} parameters`)
    const next = text.indexOf('&', start)
    const part = text.slice(start, next === -1 ? undefined : next)
    start = next === -1 ? text.length : next + 1
    const divider = part.indexOf('=')
    const raw = divider === -1 ? part : part.slice(0, divider)
    if (raw === '') continue
    if (raw.length > limits.name) throw new RangeError(`a name longer than ${limits.name} characters`)
    brackets += countBrackets(raw)
    if (brackets > limits.brackets) throw new RangeError(`more than ${limits.brackets} brackets in names`)
    const name = decode(raw)
    const value = divider === -1 ? '' : decode(part.slice(divider + 1))
    if (name === proof) proofs++
    const before = fields[name]
    if (before === undefined || !name.endsWith('[]')) fields[name] = value
    else if (typeof before === 'string') fields[name] = [before, value]
    else if (before.push(value) > limits.items) throw new RangeError(`more than ${limits.items} items of a list`)
  }
  refuseContradiction(Object.keys(fields))
  return { fields, proofs }
}

function countBrackets(name: string): number {
  let count = 0
  for (let at = name.indexOf('['); at !== -1; at = name.indexOf('[', at + 1)) count++
  for (let at = name.indexOf('%5'); at !== -1; at = name.indexOf('%5', at + 2)) {
    const digit = name[at + 2]
    if (digit === 'B' || digit === 'b') count++
  }
  return count
}

/**
 * Makes a decoder for the parts of one form. JavaScript's own decoder is faster and can decode what Bitrix24 writes.
 * A failure costs a stack trace, so after the first one this form no longer uses it.
 */
function createDecoder(): (part: string) => string {
  let isPlain = true
  return (part) => {
    if (!part.includes('%') && !part.includes('+')) return part
    if (isPlain)
      try {
        return decodeURIComponent(part.includes('+') ? part.replaceAll('+', ' ') : part)
      } catch {
        isPlain = false
      }
    return decodePercent(Buffer.from(part)).toString()
  }
}

/**
 * Refuses `a=1&a[b]=2`, in which one name is both a leaf and an object. PHP keeps the last and qs merges them, so no
 * choice is safe. The limits bound the number of names to check.
 *
 * @throws {RangeError}
 */
function refuseContradiction(names: readonly string[]): void {
  const known = new Set(names)
  // A bracket in the first position has no name before it.
  for (const name of names)
    for (let at = name.indexOf('[', 1); at !== -1; at = name.indexOf('[', at + 1))
      if (known.has(name.slice(0, at))) throw contradiction()
}

function contradiction(): RangeError {
  return new RangeError('contradictory keys')
}

/** Below the root, an object whose keys are 0..n-1 is a list, as PHP's json_encode treats it. */
function toLists(value: FormValue): FormValue {
  if (typeof value === 'string') return value
  if (Array.isArray(value)) {
    // If a text and an object share one name, in spellings that PHP reads alike, qs makes a list of them.
    if (value.some((item) => typeof item !== 'string')) throw contradiction()
    return value
  }
  const keys = Object.keys(value)
  // qs turns `a[]=1&a[]=2`, which browsers write and http_build_query does not, into {0: [1, 2]}.
  if (keys.length === 1 && Array.isArray(value['0'])) return toLists(value['0'])
  for (const key of keys) value[key] = toLists(value[key] as FormValue)
  return keys.length > 0 && keys.every((key, index) => key === String(index)) ? Object.values(value) : value
}
