import type { Form, FormValue } from './form.ts'

const credentials = new Set(['access_token', 'refresh_token', 'application_token'])
const namesOfQuery = new Set(['token', 'secret', 'key', 'password', 'auth'])

/**
 * A removed value shorter than this is not looked for elsewhere: `?key=1` must not empty every field that says 1.
 * Bitrix24's own tokens are 32 characters and longer.
 */
const shortestSecret = 8

/** Whether an entry is to go; names are in lower case, the depth of a form's own entries is 0. */
type Rule = (name: string, item: FormValue, depth: number) => boolean

/**
 * Removes credentials from a body and a query, in place, so that no later code can leak them. They are not only in
 * `auth`: bots and commands carry a second block inside `data`, and ONAPPMETHODCONFIRM a `TOKEN`. Whatever equals a
 * removed value, or one of `held`, goes too, wherever it stands.
 */
export function removeSecrets(form: Form, query: Form | undefined, held: readonly string[]): void {
  const values = new Set(held)
  const known = values.size
  const isValue = (key: string, item: FormValue) => values.has(key) || (typeof item === 'string' && values.has(item))
  const isSecret = (rule: Rule) => (key: string, item: FormValue, depth: number) => {
    const name = key.toLowerCase()
    const isCredential = credentials.has(name)
    if (!isCredential && !rule(name, item, depth)) return isValue(key, item)
    collect(item, isCredential || typeof item === 'string', values)
    return true
  }

  const { event } = form
  const isConfirm = typeof event === 'string' && event.toUpperCase() === 'ONAPPMETHODCONFIRM'
  const inForm = isSecret(
    (name, item, depth) => depth > 0 && (name === 'auth' ? typeof item !== 'string' : isConfirm && name === 'token'),
  )
  const inQuery = isSecret((name) => namesOfQuery.has(name))
  remove(form, inForm)
  if (query) remove(query, inQuery)
  // What was found now may stand before the place where it was found.
  if (values.size === known) return
  remove(form, isValue)
  if (query) remove(query, isValue)
}

/** Removes every entry that is a secret, at any depth; the items of a list have no key. */
function remove(value: FormValue, isSecret: Rule, depth = 0): void {
  if (typeof value === 'string') return
  if (Array.isArray(value)) {
    const kept = value.filter((item) => !isSecret('', item, depth))
    if (kept.length < value.length) value.splice(0, value.length, ...kept)
    for (const item of kept) remove(item, isSecret, depth + 1)
    return
  }
  for (const key of Object.keys(value)) {
    const item = value[key] as FormValue
    if (isSecret(key, item, depth)) delete value[key]
    else remove(item, isSecret, depth + 1)
  }
}

/** Of a removed block only the credentials are secret: its `scope` or `status` may well stand elsewhere. */
function collect(value: FormValue, isCredential: boolean, values: Set<string>): void {
  if (typeof value === 'string') {
    if (isCredential && value.length >= shortestSecret) values.add(value)
  } else {
    for (const [key, item] of Object.entries(value))
      collect(item, isCredential || credentials.has(key.toLowerCase()), values)
  }
}
