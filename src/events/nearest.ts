import { documentedEvents, eventsOfType } from './catalogue.ts'
import { robotEvent } from './robot.ts'

const names: readonly string[] = [...documentedEvents, robotEvent]

/**
 * The documented name that a misspelt one, or a pattern that matches none, most likely means; `undefined` when none is
 * near. `name` is upper case.
 */
export function nearestName(name: string): string | undefined {
  let nearest: string | undefined
  let fewest = Number.POSITIVE_INFINITY
  for (const known of candidates(name)) {
    const edits = editsBetween(name, known)
    // More than a third of it wrong is another name.
    const length = name.includes('*') ? name.replaceAll('*', '').length : Math.max(name.length, known.length)
    if (edits >= fewest || edits > length / 3) continue
    nearest = known
    fewest = edits
  }
  return nearest
}

/** Up to three of the names that are most like one that is none of them; whether upper case or with underlines is all the same. */
export function nearNames(name: string, names: readonly string[]): string[] {
  const plain = (text: string) => text.replaceAll('_', '').toLowerCase()
  const wanted = plain(name)
  return names
    .map((known) => ({ known, edits: editsBetween(wanted, plain(known)) }))
    .filter(({ known, edits }) => {
      const length = Math.max(wanted.length, plain(known).length)
      // Two letters in the wrong order are two edits, which in a short name is much.
      return edits <= Math.min(length / 2, Math.max(2, length / 3))
    })
    .sort((a, b) => a.edits - b.edits)
    .slice(0, 3)
    .map(({ known }) => known)
}

/** The names that a name or a pattern may mean: where it ends in a number, also those of the dynamic type of that number. */
export function candidates(name: string): readonly string[] {
  const type = /(\d+|\*)$/.exec(name)?.[0].replace('*', '1')
  return type === undefined ? names : [...names, ...eventsOfType(type)]
}

/** Levenshtein's distance, except that a `*` of the pattern stands for any text at no cost. */
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
