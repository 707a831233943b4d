import type { FormValue } from '../intake/form.ts'

/** What events are about, such as a deal, and where in `data` its id stands. */
export interface ObjectRule<Kind extends string = string> {
  readonly kind: Kind
  /**
   * Places of the id: the first that has one counts, and one of several parts needs them all. A place is the keys on the
   * way to it; with none it is `data` itself.
   */
  readonly ids: readonly (readonly (readonly string[])[])[]
}

/** `about('item', ['FIELDS.ENTITY_TYPE_ID', 'FIELDS.ID'])` reads `item:<type>:<id>`; several places are tried in turn. */
export function about<const Kind extends string>(
  kind: Kind,
  ...places: readonly (string | readonly string[])[]
): ObjectRule<Kind> {
  const keysOf = (place: string) => (place === '' ? [] : place.split('.'))
  return { kind, ids: places.map((parts) => [parts].flat().map(keysOf)) }
}

/** Reads the object out of an event's `data`; `undefined` when it is not there. */
export function readObject({ kind, ids }: ObjectRule, data: FormValue | undefined): string | undefined {
  for (const parts of ids) {
    const found = parts.map((keys) => idAt(data, keys))
    if (found.every((id) => id !== undefined)) return [kind, ...found].join(':')
  }
  return undefined
}

/** What the portal writes where it has no id. */
const notIds = new Set(['', '0', 'undefined'])
/** The longest documented one, a call's, has 64 characters; a body's worth of id would only bloat the queue's keys. */
const longestId = 200

function idAt(data: FormValue | undefined, keys: readonly string[]): string | undefined {
  let value = data
  for (const key of keys) {
    if (typeof value !== 'object') return undefined
    value = Array.isArray(value) ? value[Number(key)] : value[key]
  }
  return typeof value === 'string' && !notIds.has(value) && value.length <= longestId ? value : undefined
}
