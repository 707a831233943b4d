import { Problem } from './values.ts'
import { editsBetween } from '../events/nearest.ts'

export type Env = Readonly<Record<string, string | undefined>>

/**
 * The text of a variable, without the spaces around it; `undefined` where it is unset or empty.
 *
 * What looks like a part of a `.env` file's syntax is refused: `docker run --env-file` passes quotes and comments on as
 * they stand, and every reader does so with one quote alone. A folder named `"` is nobody's wish.
 */
export function readText(env: Env, name: string): string | undefined | Problem {
  const given = env[name] ?? ''
  if (given === '') return undefined
  const text = given.trim()
  // For a list of who may post, "nobody named" is not "anybody".
  if (text === '') return new Problem('is blank: remove it, or give it a value')
  if (/^["'`]|["'`]$/.test(text)) return new Problem('begins or ends with a quote: write the value without quotes')
  if (/\s#/.test(text)) return new Problem('holds a comment: write it on a line of its own, above the setting')
  return text
}

const byteOrderMark = '\uFEFF'

/** Why the first setting of `.env` is not read: the file begins with a byte-order mark, which became part of its name. */
export function findByteOrderMark(env: Env): string | undefined {
  const name = Object.keys(env).find((one) => one.startsWith(byteOrderMark))
  return (
    name &&
    `${name.slice(1)} is not read, because .env begins with a byte-order mark: save it as UTF-8 without one ("UTF-8", not "UTF-8 with BOM")`
  )
}

/** Fewer letters of another program's variable are easily near to one of ours, such as `HOME` and `HOST`. */
const shortestGuess = 8

export interface Misspelt {
  readonly name: string
  readonly nearest: string
}

/** Variables that are none of `names`, and nearly one of them: what they were set for is not in effect. */
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
