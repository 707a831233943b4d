import { isDocumented } from '../events/catalogue.ts'
import type { Form, FormValue } from '../events/form.ts'
import { minSecretLength } from '../lib/min-secret-length.ts'
import { type Places, partsOf } from './event-parts.ts'

const credentials = new Set(['access_token', 'refresh_token', 'application_token'])
const namesOfQuery = new Set(['token', 'secret', 'key', 'password', 'auth'])

/** Words of a text that have the form of Bitrix24's secrets. */
const words = /[\w.~-]{16,}/g

/** The text that replaces a secret. */
export const removed = '[removed]'

/** The held secrets that are long enough to be removed from any text from outside. */
export function longSecrets(held: readonly string[]): readonly string[] {
  return held.filter(({ length }) => length >= minSecretLength)
}

/** Whether to remove an entry. Names are in lower case, and a form's own entries have depth 0. */
type Rule = (name: string, item: FormValue, depth: number) => boolean

/**
 * Removes credentials from a body and a query, in place, so that no later code can leak them. Credentials are not
 * only in `auth`: bots and commands have a second block inside `data`, and ONAPPMETHODCONFIRM has a `TOKEN`. A text
 * that equals a removed value, or one of `held`, is also removed in any place if it has at least 16 characters. In a
 * longer text only the secret is replaced: a `held` value anywhere, a removed value only as a whole word. The parts
 * of the event itself stay, whatever they equal: see event-parts.ts.
 */
export function removeSecrets(form: Form, query: Form | undefined, held: readonly string[]): void {
  const long = longSecrets(held)
  const values = new Set(long)
  const known = values.size
  const parts = partsOf(form['event'])
  const isValue = (key: string, item: FormValue) => values.has(key) || (typeof item === 'string' && values.has(item))
  const isSecret = (rule: Rule) => (key: string, item: FormValue, depth: number) => {
    const name = key.toLowerCase()
    const isCredential = credentials.has(name)
    if (!isCredential && !rule(name, item, depth)) return isValue(key, item)
    collect(item, isCredential || typeof item === 'string', values)
    return true
  }

  const { event } = form
  // No event of Bitrix24 has such a name. A sender of it knows the token, and every log line about the event would
  // contain it.
  if (typeof event === 'string' && long.includes(event) && !isDocumented(event.toUpperCase())) delete form['event']
  const isConfirm = typeof event === 'string' && event.toUpperCase() === 'ONAPPMETHODCONFIRM'
  const inForm = isSecret(
    (name, item, depth) => depth > 0 && (name === 'auth' ? typeof item !== 'string' : isConfirm && name === 'token'),
  )
  const inQuery = isSecret((name) => namesOfQuery.has(name))
  remove(form, inForm, parts)
  if (query) remove(query, inQuery, undefined)
  // A value in a public part of the event is not a secret, even if a parameter named `auth` repeats it.
  if (values.size > known) forEachPart(form, parts, (text) => long.includes(text) || values.delete(text))
  const hasFound = values.size > known
  // A value found now may also stand in an earlier place.
  if (hasFound) {
    remove(form, isValue, parts)
    if (query) remove(query, isValue, undefined)
  }
  // A post may bring thousands of values. Each text is scanned once, whatever their number.
  const toWord = hasFound ? (word: string) => (values.has(word) ? removed : word) : undefined
  const clean = (text: string) => {
    let rest = text
    for (const secret of long) if (rest.includes(secret)) rest = rest.replaceAll(secret, removed)
    return toWord === undefined ? rest : rest.replaceAll(words, toWord)
  }
  cleanTexts(form, clean, parts)
  if (query) cleanTexts(query, clean, undefined)
}

/** Whether an entry in these places is a part of the event, or leads to one. */
function stays(places: Places | undefined, item: FormValue): boolean {
  return places !== undefined && (places.isPlace || typeof item !== 'string')
}

/** Cleans every text at any depth. Removes an entry whose name holds a secret. */
function cleanTexts(value: Form | FormValue[], clean: (text: string) => string, parts: Places | undefined): void {
  if (Array.isArray(value)) {
    for (const [at, item] of value.entries()) {
      const below = parts?.below.get(String(at))
      if (typeof item !== 'string') cleanTexts(item, clean, below)
      else if (item.length > minSecretLength && !stays(below, item)) value[at] = clean(item)
    }
    return
  }
  for (const key of Object.keys(value)) {
    const item = value[key] as FormValue
    const below = parts?.below.get(key)
    const isPart = stays(below, item)
    if (!isPart && key.length > minSecretLength && clean(key) !== key) delete value[key]
    else if (typeof item !== 'string') cleanTexts(item, clean, below)
    else if (!isPart && item.length > minSecretLength) value[key] = clean(item)
  }
}

/** Removes every entry that is a secret, at any depth. The items of a list have no key. */
function remove(value: FormValue, isSecret: Rule, parts: Places | undefined, depth = 0): void {
  if (typeof value === 'string') return
  if (Array.isArray(value)) {
    const places = value.map((_, at) => parts?.below.get(String(at)))
    const kept = value.map((item, at) => stays(places[at], item) || !isSecret('', item, depth))
    for (const [at, item] of value.entries()) if (kept[at]) remove(item, isSecret, places[at], depth + 1)
    if (kept.includes(false)) value.splice(0, value.length, ...value.filter((_, at) => kept[at]))
    return
  }
  for (const key of Object.keys(value)) {
    const item = value[key] as FormValue
    const below = parts?.below.get(key)
    if (!stays(below, item) && isSecret(key, item, depth)) delete value[key]
    else remove(item, isSecret, below, depth + 1)
  }
}

/** Calls `use` for the texts in the places of the event's parts. */
function forEachPart(value: FormValue | undefined, { isPlace, below }: Places, use: (text: string) => void): void {
  if (typeof value === 'string') {
    if (isPlace) use(value)
    return
  }
  if (value === undefined) return
  for (const [key, places] of below) forEachPart(Array.isArray(value) ? value[Number(key)] : value[key], places, use)
}

/** Only the credentials of a removed block are secret: its `scope` or `status` may legitimately appear elsewhere. */
function collect(value: FormValue, isCredential: boolean, values: Set<string>): void {
  if (typeof value === 'string') {
    if (isCredential && value.length >= minSecretLength) values.add(value)
  } else {
    for (const [key, item] of Object.entries(value))
      collect(item, isCredential || credentials.has(key.toLowerCase()), values)
  }
}
