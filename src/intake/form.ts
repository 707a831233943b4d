import qs from 'qs'
import { Refusal } from '../refusal.ts'
import { decodePercent } from './percent.ts'

/** A decoded body: leaves are strings, objects have no prototype, so a key from the wire can never reach one. */
export type FormValue = string | FormValue[] | Form
export interface Form {
  [key: string]: FormValue
}

/**
 * What a form may ask of us, counted before qs sees it: what qs does grows with the names and their brackets. The longest
 * documented payload has 97 parameters, the deepest has 4 brackets in a name, and PHP itself reads no more than 1,000.
 */
const limits = {
  parameters: 5_000,
  /** Of all names together. */
  brackets: 10_000,
  /** Characters as they came: a Cyrillic letter takes six. */
  name: 2_000,
} as const

/**
 * The qs settings that come closest to PHP's `$_POST`, with every limit that qs would apply silently made to throw:
 * Bitrix24 sends `auth` last, so a silent cut removes the only proof of origin first.
 */
const options = {
  depth: 64, // PHP's max_input_nesting_level; documented payloads nest 5 deep
  strictDepth: true,
  parameterLimit: limits.parameters,
  arrayLimit: 1_000, // only of `a[]`, which http_build_query never writes and qs copies at each step
  throwOnLimitExceeded: true,
  parseArrays: false, // an id in brackets is a key, not a position; settle() finds the real lists
  plainObjects: true, // otherwise qs drops keys such as `constructor`
  duplicates: 'last', // PHP's rule
} as const

const proof = 'auth[application_token]'

/**
 * Decodes a form body as PHP's `$_POST` would. Bytes that are not UTF-8 become U+FFFD, because an event refused is lost
 * for good; only a structure that cannot be understood is refused. `test/intake/form.test.ts` names what still differs.
 *
 * @throws {Refusal} `malformed_form`, with the size and the reason, when it is too deep, has too many parameters or
 *   contradicts itself
 */
export function decodeForm(text: string): Form {
  let proofs = 0
  let form: Form
  try {
    const { names, values } = split(text)
    const known = createNames()
    // qs gets the names, and of each value the number: it would look for brackets in the values, too.
    form = qs.parse(names.join('&'), {
      ...options,
      decoder: (part, _default, _charset, kind) => {
        if (kind === 'value') return decodePart(values[Number(part)] ?? '')
        const decoded = decodePart(part)
        if (!known.add(decoded)) throw contradiction()
        if (decoded === proof) proofs++
        return decoded
      },
    }) as Form
    for (const key of Object.keys(form)) form[key] = settle(form[key] as FormValue)
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    // qs's messages, like ours, name the limit and nothing of the body.
    throw new Refusal('malformed_form', { size: text.length, reason: error.message }, { cause: error })
  }
  // PHP would keep the last of two. A proof of origin that came twice is none.
  if (proofs > 1) delete form['auth']
  return form
}

/**
 * Names as qs reads them, `name=index of its value`, and the values, still escaped. As in PHP the first `=` divides.
 *
 * @throws {RangeError} when there are more than the limits allow, as soon as that is known
 */
function split(text: string): { names: string[]; values: string[] } {
  const names: string[] = []
  const values: string[] = []
  let parameters = 0
  let brackets = 0
  for (let start = 0; start < text.length; ) {
    if (++parameters > limits.parameters) throw new RangeError(`more than ${limits.parameters} parameters`)
    const next = text.indexOf('&', start)
    const part = text.slice(start, next === -1 ? undefined : next)
    start = next === -1 ? text.length : next + 1
    const divider = part.indexOf('=')
    const name = divider === -1 ? part : part.slice(0, divider)
    if (name === '') continue
    if (name.length > limits.name) throw new RangeError(`a name longer than ${limits.name} characters`)
    brackets += countBrackets(name)
    if (brackets > limits.brackets) throw new RangeError(`more than ${limits.brackets} brackets in names`)
    names.push(`${name}=${values.length}`)
    values.push(divider === -1 ? '' : part.slice(divider + 1))
  }
  return { names, values }
}

function countBrackets(name: string): number {
  let count = 0
  for (let at = name.indexOf('['); at !== -1; at = name.indexOf('[', at + 1)) count++
  if (name.includes('%5')) count += name.match(/%5B/gi)?.length ?? 0
  return count
}

function decodePart(part: string): string {
  return part.includes('%') || part.includes('+') ? decodePercent(Buffer.from(part)).toString() : part
}

/** A name, or what stands of one before a bracket. */
interface Name {
  /** It came as a name, and not only as the beginning of others. */
  isWhole: boolean
  readonly longer: Map<string, Name>
}

/**
 * Finds `a=1&a[b]=2`: one name is both a leaf and an object. PHP keeps the last, qs merges them; we do not guess. Names are
 * kept as a tree, so that each sign of a name is looked at once, however many brackets it has.
 */
function createNames(): { readonly add: (name: string) => boolean } {
  const root: Name = { isWhole: false, longer: new Map() }
  return {
    /** Whether it contradicts none of those before. */
    add(name) {
      let at: Name = root
      for (let start = 0; start !== -1; ) {
        if (at.isWhole) return false
        // A bracket in the first place has no name before it.
        const end = name.indexOf('[', start + 1)
        const piece = name.slice(start, end === -1 ? undefined : end)
        const next = at.longer.get(piece) ?? { isWhole: false, longer: new Map<string, Name>() }
        at.longer.set(piece, next)
        at = next
        start = end
      }
      at.isWhole = true
      return at.longer.size === 0
    },
  }
}

function contradiction(): RangeError {
  return new RangeError('contradictory keys')
}

/** Below the root, an object whose keys are 0..n-1 is a list, as PHP's json_encode has it. */
function settle(value: FormValue): FormValue {
  if (typeof value === 'string') return value
  if (Array.isArray(value)) {
    // Of a text and an object under one name, written in ways that PHP reads alike, qs makes a list.
    if (value.some((item) => typeof item !== 'string')) throw contradiction()
    return value
  }
  const keys = Object.keys(value)
  // `a[]=1&a[]=2`, which browsers write and http_build_query does not, comes from qs as {0: [1, 2]}.
  if (keys.length === 1 && Array.isArray(value['0'])) return settle(value['0'])
  for (const key of keys) value[key] = settle(value[key] as FormValue)
  return keys.length > 0 && keys.every((key, index) => key === String(index)) ? Object.values(value) : value
}
