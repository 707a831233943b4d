import { editsBetween } from '../events/nearest.ts'
import type { Env } from './env.ts'
import { type Setting, settings } from './settings.ts'

/** Every variable that the program reads. DOMAIN and similar names are for compose.yaml. */
const names = Object.values<Setting<unknown>>(settings).flatMap(({ name, isSecret }) =>
  isSecret ? [name, `${name}_FILE`] : [name],
)

/** A variable with this prefix is meant for this program. */
const prefix = 'B24_'

/** Characters. A shorter variable of another program is too easily close to a setting, such as `HOME` and `HOST`. */
const minGuessLength = 8

/** Returns warnings about variables that have the program's prefix or are close to a setting's name, but are not read. */
export function unknownSettings(env: Env): string[] {
  return Object.keys(env).flatMap((name) => {
    const wanted = name.toUpperCase()
    const hasPrefix = wanted.startsWith(prefix)
    if (names.includes(name) || (name.length < minGuessLength && !hasPrefix)) return []
    const [nearest] = names
      .map((known) => ({ known, edits: editsBetween(wanted, known) }))
      .filter(({ known, edits }) => edits <= (known.length < minGuessLength ? 1 : 2))
      .sort((a, b) => a.edits - b.edits)
    if (nearest) return [`${name} is not a setting. Did you mean ${nearest.known}?`]
    return hasPrefix ? [`${name} is not a setting`] : []
  })
}

/** Returns the environment without this program's settings, for a receiver that gets its own. */
export function withoutSettings(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !names.includes(name)))
}
