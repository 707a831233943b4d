import type { Form, FormValue } from './form.ts'

const credentials = new Set(['access_token', 'refresh_token', 'application_token'])
const namesOfQuery = new Set(['token', 'secret', 'key', 'password', 'auth'])

/**
 * A removed value shorter than this is not looked for elsewhere: `?key=1` must not empty every field that says 1.
 * Bitrix24's own tokens are 32 characters and longer.
 */
const shortestSecret = 8

/** In a longer text a shorter one is not looked for: it may be a word like any other. */
const shortestInText = 16

/** What of a text may be such a secret as Bitrix24 makes them. */
const words = /[\w.~-]{16,}/g

/** Stands where a secret stood. */
export const removed = '[removed]'

/** Whether an entry is to go; names are in lower case, the depth of a form's own entries is 0. */
type Rule = (name: string, item: FormValue, depth: number) => boolean

/**
 * Removes credentials from a body and a query, in place, so that no later code can leak them. They are not only in
 * `auth`: bots and commands carry a second block inside `data`, and ONAPPMETHODCONFIRM a `TOKEN`. Whatever equals a
 * removed value, or one of `held`, goes too, wherever it stands. Of a longer text only the secret goes, if it has 16
 * characters: one of `held` wherever it stands, a removed value where it is a word.
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
  if (values.size > known) {
    remove(form, isValue)
    if (query) remove(query, isValue)
  }
  const long = held.filter(({ length }) => length >= shortestInText)
  // A post may bring thousands: each text is read once, whatever their number.
  const toWord = values.size > known ? (word: string) => (values.has(word) ? removed : word) : undefined
  const clean = (text: string) => {
    let rest = text
    for (const secret of long) if (rest.includes(secret)) rest = rest.replaceAll(secret, removed)
    return toWord === undefined ? rest : rest.replaceAll(words, toWord)
  }
  cleanTexts(form, clean)
  if (query) cleanTexts(query, clean)
}

/** Every text at any depth; an entry whose name holds a secret goes. */
function cleanTexts(value: Form | FormValue[], clean: (text: string) => string): void {
  if (Array.isArray(value)) {
    for (const [at, item] of value.entries()) {
      if (typeof item !== 'string') cleanTexts(item, clean)
      else if (item.length > shortestInText) value[at] = clean(item)
    }
    return
  }
  for (const key of Object.keys(value)) {
    const item = value[key] as FormValue
    if (key.length > shortestInText && clean(key) !== key) delete value[key]
    else if (typeof item !== 'string') cleanTexts(item, clean)
    else if (item.length > shortestInText) value[key] = clean(item)
  }
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
