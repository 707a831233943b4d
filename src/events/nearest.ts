import { documentedEvents, eventsOfType } from './catalogue.ts'
import { robotEvent } from './robot.ts'

const names: readonly string[] = [...documentedEvents, robotEvent]

/**
 * Returns the documented name that a misspelt name, or a pattern without a match, most likely means; `undefined` if
 * none is near. `name` is upper case.
 */
export function nearestName(name: string): string | undefined {
  let nearest: string | undefined
  let minEdits = Number.POSITIVE_INFINITY
  for (const known of candidates(name)) {
    const edits = editsBetween(name, known)
    // If more than a third differs, it is another name.
    const length = name.includes('*') ? name.replaceAll('*', '').length : Math.max(name.length, known.length)
    if (edits >= minEdits || edits > length / 3) continue
    nearest = known
    minEdits = edits
  }
  return nearest
}

/** Returns up to three known names that are most similar to an unknown one. Case and underscores are ignored. */
export function nearNames(name: string, names: readonly string[]): string[] {
  const plain = (text: string) => text.replaceAll('_', '').toLowerCase()
  const wanted = plain(name)
  return names
    .map((known) => ({ known, edits: editsBetween(wanted, plain(known)) }))
    .filter(({ known, edits }) => {
      const length = Math.max(wanted.length, plain(known).length)
      // Two swapped letters are two edits, which is a lot in a short name.
      return edits <= Math.min(length / 2, Math.max(2, length / 3))
    })
    .sort((a, b) => a.edits - b.edits)
    .slice(0, 3)
    .map(({ known }) => known)
}

/**
 * Returns the names that a name or a pattern may mean. If it ends in a number, they include those of the dynamic type
 * with that number.
 */
export function candidates(name: string): readonly string[] {
  const type = /(\d+|\*)$/.exec(name)?.[0].replace('*', '1')
  return type === undefined ? names : [...names, ...eventsOfType(type)]
}

/** Returns Levenshtein's distance, except that a `*` of the pattern matches any text at no cost. */
export function editsBetween(pattern: string, text: string): number {
  let row = Array.from({ length: text.length + 1 }, (_, length) => length)
  for (const sign of pattern) {
    const above = row
    const cost = sign === '*' ? 0 : 1
    row = [(above[0] ?? 0) + cost]
    for (let end = 1; end <= text.length; end++) {
      const [left = 0, up = 0, diagonal = 0] = [row[end - 1], above[end], above[end - 1]]
      const kept = sign === '*' ? up : diagonal + (sign === text[end - 1] ? 0 : 1)
      row[end] = Math.min(kept, up + cost, left + (sign === '*' ? 0 : 1))
    }
  }
  return row[text.length] ?? 0
}
