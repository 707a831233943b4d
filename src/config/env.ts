import { readFileSync } from 'node:fs'
import { messageOf } from '../lib/error-text.ts'
import { Problem } from './values.ts'

export type Env = Readonly<Record<string, string | undefined>>

/** Returns the text of a variable without surrounding spaces, or `undefined` if it is unset or empty. */
export function readText(env: Env, name: string): string | undefined | Problem {
  const text = env[name] ?? ''
  return text === '' ? undefined : trim(text)
}

/** Reads the variable, or the file that NAME_FILE names. */
export function readSecret(env: Env, name: string): string | undefined | Problem {
  const variable = `${name}_FILE`
  const text = readText(env, name)
  const file = readText(env, variable)
  if (file === undefined) return text
  if (text !== undefined) return new Problem(`is set, and so is ${variable}: set one of them`)
  if (file instanceof Problem) return new Problem(file.text, variable)
  try {
    const content = readFileSync(file, 'utf8')
    const found = content.trim() === '' ? new Problem('is empty') : trim(content)
    return found instanceof Problem ? new Problem(`${file} ${found.text}`, variable) : found
  } catch (error) {
    return new Problem(`cannot be read: ${messageOf(error)}`, variable)
  }
}

/**
 * Quotes and comments of a `.env` file are refused: `docker run --env-file` passes them on unchanged, and every reader
 * passes on a single quote. A folder named `"` is never intended.
 */
function trim(given: string): string | Problem {
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
