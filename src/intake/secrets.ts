import { isDocumented } from '../events/catalogue.ts'
import { type Places, partsOf } from './event-parts.ts'
import type { Form, FormValue } from './form.ts'

const credentials = new Set(['access_token', 'refresh_token', 'application_token'])
const namesOfQuery = new Set(['token', 'secret', 'key', 'password', 'auth'])

/**
 * A value with fewer characters is removed by its name only, and looked for nowhere else: it may equal an id, a name or
 * any word, and whoever wants it can guess it. Bots have tokens such as 777, and `?key=1` must not empty every field that
 * says 1. Bitrix24's own tokens have 32 characters and more, and `ROBOT_PATH` must end in 16.
 */
export const shortestSecret = 16

/** What of a text may be such a secret as Bitrix24 makes them. */
const words = /[\w.~-]{16,}/g

/** Stands where a secret stood. */
export const removed = '[removed]'

/** Those of the secrets that we hold which no text from outside may hold. */
export function longSecrets(held: readonly string[]): readonly string[] {
  return held.filter(({ length }) => length >= shortestSecret)
}

/** Whether an entry is to go; names are in lower case, the depth of a form's own entries is 0. */
type Rule = (name: string, item: FormValue, depth: number) => boolean

/**
 * Removes credentials from a body and a query, in place, so that no later code can leak them. They are not only in
 * `auth`: bots and commands carry a second block inside `data`, and ONAPPMETHODCONFIRM a `TOKEN`. Whatever equals a
 * removed value, or one of `held`, goes too, wherever it stands, if it has 16 characters; of a longer text only the
 * secret goes: one of `held` wherever it stands, a removed value where it is a word. What the event is made of stays
 * whatever equals it: see event-parts.ts.
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
  // No event of Bitrix24 has such a name. Whoever posts it knows the token, and it would be in every line about the event.
  if (typeof event === 'string' && long.includes(event) && !isDocumented(event.toUpperCase())) delete form['event']
  const isConfirm = typeof event === 'string' && event.toUpperCase() === 'ONAPPMETHODCONFIRM'
  const inForm = isSecret(
    (name, item, depth) => depth > 0 && (name === 'auth' ? typeof item !== 'string' : isConfirm && name === 'token'),
  )
  const inQuery = isSecret((name) => namesOfQuery.has(name))
  remove(form, inForm, parts)
  if (query) remove(query, inQuery, undefined)
  // What the event says of itself in the open is no secret, although a parameter named `auth` says it, too.
  if (values.size > known) forEachPart(form, parts, (text) => long.includes(text) || values.delete(text))
  const hasFound = values.size > known
  // What was found now may stand before the place where it was found.
  if (hasFound) {
    remove(form, isValue, parts)
    if (query) remove(query, isValue, undefined)
  }
  // A post may bring thousands: each text is read once, whatever their number.
  const toWord = hasFound ? (word: string) => (values.has(word) ? removed : word) : undefined
  const clean = (text: string) => {
    let rest = text
    for (const secret of long) if (rest.includes(secret)) rest = rest.replaceAll(secret, removed)
    return toWord === undefined ? rest : rest.replaceAll(words, toWord)
  }
  cleanTexts(form, clean, parts)
  if (query) cleanTexts(query, clean, undefined)
}

/** Whether an entry at these places is one that the event is made of, or on the way to one. */
function stays(places: Places | undefined, item: FormValue): boolean {
  return places !== undefined && (places.isPlace || typeof item !== 'string')
}

/** Every text at any depth; an entry whose name holds a secret goes. */
function cleanTexts(value: Form | FormValue[], clean: (text: string) => string, parts: Places | undefined): void {
  if (Array.isArray(value)) {
    for (const [at, item] of value.entries()) {
      const below = parts?.below.get(String(at))
      if (typeof item !== 'string') cleanTexts(item, clean, below)
      else if (item.length > shortestSecret && !stays(below, item)) value[at] = clean(item)
    }
    return
  }
  for (const key of Object.keys(value)) {
    const item = value[key] as FormValue
    const below = parts?.below.get(key)
    const isPart = stays(below, item)
    if (!isPart && key.length > shortestSecret && clean(key) !== key) delete value[key]
    else if (typeof item !== 'string') cleanTexts(item, clean, below)
    else if (!isPart && item.length > shortestSecret) value[key] = clean(item)
  }
}

/** Removes every entry that is a secret, at any depth; the items of a list have no key. */
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

/** The texts that stand where the event's parts do. */
function forEachPart(value: FormValue | undefined, { isPlace, below }: Places, use: (text: string) => void): void {
  if (typeof value === 'string') {
    if (isPlace) use(value)
    return
  }
  if (value === undefined) return
  for (const [key, places] of below) forEachPart(Array.isArray(value) ? value[Number(key)] : value[key], places, use)
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
