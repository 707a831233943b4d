import qs from 'qs'
import { Refusal } from '../refusal.ts'

/** A decoded body: leaves are strings, objects have no prototype, so a key from the wire can never reach one. */
export type FormValue = string | FormValue[] | Form
export interface Form {
  [key: string]: FormValue
}

/**
 * The qs settings that come closest to PHP's `$_POST`, with every limit that qs would apply silently made to throw:
 * Bitrix24 sends `auth` last, so a silent cut removes the only proof of origin first.
 */
const options = {
  depth: 64, // PHP's max_input_nesting_level; documented payloads nest 5 deep
  strictDepth: true,
  parameterLimit: 10_000, // the longest documented payload has 97
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
  const keys = new Set<string>()
  let proofs = 0
  let form: Form
  try {
    form = qs.parse(text, {
      ...options,
      decoder: (part, _default, _charset, kind) => {
        const decoded = decodePart(part)
        if (kind === 'key') {
          keys.add(decoded)
          if (decoded === proof) proofs++
        }
        return decoded
      },
    }) as Form
    if (isContradictory(keys)) throw contradiction()
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

/** PHP's urldecode: `+` is a space, an escape that is none stays as it is. */
function decodePart(part: string): string {
  const text = part.includes('+') ? part.replaceAll('+', ' ') : part
  if (!text.includes('%')) return text
  try {
    return decodeURIComponent(text)
  } catch {
    const bytes = Buffer.from(text).toString('latin1')
    const decoded = bytes.replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
    return Buffer.from(decoded, 'latin1').toString()
  }
}

/** `a=1&a[b]=2`: one name is both a leaf and an object. PHP keeps the last, qs merges them; we do not guess. */
function isContradictory(keys: ReadonlySet<string>): boolean {
  for (const key of keys) {
    let at = key.indexOf('[', 1)
    // qs reads no brackets deeper than this, and a key may be as long as a body.
    for (let level = 0; at !== -1 && level <= options.depth; level++) {
      if (keys.has(key.slice(0, at))) return true
      at = key.indexOf('[', at + 1)
    }
  }
  return false
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
