import { editsBetween } from '../events/nearest.ts'
import { Problem } from './values.ts'

export type Env = Readonly<Record<string, string | undefined>>

/**
 * Returns the text of a variable without surrounding spaces, or `undefined` if it is unset or empty.
 *
 * Quotes and comments of a `.env` file are refused: `docker run --env-file` passes them on unchanged, and every reader
 * passes on a single quote. A folder named `"` is never intended.
 */
export function readText(env: Env, name: string): string | undefined | Problem {
  const given = env[name] ?? ''
  if (given === '') return undefined
  const text = given.trim()
  // A blank value must not count as unset: a blank list of allowed addresses would allow every address.
  if (text === '') return new Problem('is blank: remove it, or give it a value')
  if (/^["'`]|["'`]$/.test(text)) return new Problem('begins or ends with a quote: write the value without quotes')
  if (/\s#/.test(text)) return new Problem('holds a comment: write it on a line of its own, above the setting')
  return text
}

const byteOrderMark = '\uFEFF'

/**
 * Explains why the first setting of `.env` is not read: the file begins with a
 * byte-order mark, which became part of the name.
 */
export function findByteOrderMark(env: Env): string | undefined {
  const name = Object.keys(env).find((one) => one.startsWith(byteOrderMark))
  return (
    name &&
    `${name.slice(1)} is not read, because .env begins with a byte-order mark: save it as UTF-8 without one ("UTF-8", not "UTF-8 with BOM")`
  )
}

/** Characters. A shorter variable of another program is too easily close to a setting, such as `HOME` and `HOST`. */
const shortestGuess = 8

export interface Misspelt {
  readonly name: string
  readonly nearest: string
}

/** Returns variables that are close to one of `names` but not equal to it, so they have no effect. */
export function findMisspelt(env: Env, names: readonly string[]): Misspelt[] {
  return Object.keys(env).flatMap((name) => {
    if (names.includes(name) || (name.length < shortestGuess && !name.startsWith('B24_'))) return []
    const wanted = name.toUpperCase()
    const [nearest] = names
      .map((known) => ({ known, edits: editsBetween(wanted, known) }))
      .filter(({ known, edits }) => edits <= (known.length < shortestGuess ? 1 : 2))
      .sort((a, b) => a.edits - b.edits)
    return nearest ? [{ name, nearest: nearest.known }] : []
  })
}
