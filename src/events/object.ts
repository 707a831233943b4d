import type { FormValue } from './form.ts'

/** The kind of object that events are about, such as a deal, and the place of its id in `data`. */
export interface ObjectRule<Kind extends string = string> {
  readonly kind: Kind
  /**
   * Places of the id. The first place with an id counts, and an id of several parts needs all of them. A place is the
   * list of keys that leads to it. An empty list means `data` itself.
   */
  readonly ids: readonly (readonly (readonly string[])[])[]
}

/**
 * `about('item', ['FIELDS.ENTITY_TYPE_ID', 'FIELDS.ID'])` reads `item:<type>:<id>`. Several places are tried in turn.
 */
export function about<const Kind extends string>(
  kind: Kind,
  ...places: readonly (string | readonly string[])[]
): ObjectRule<Kind> {
  const keysOf = (place: string) => (place === '' ? [] : place.split('.'))
  return { kind, ids: places.map((parts) => [parts].flat().map(keysOf)) }
}

/** Reads the object from an event's `data`. Returns `undefined` if it is not there. */
export function readObject({ kind, ids }: ObjectRule, data: FormValue | undefined): string | undefined {
  for (const parts of ids) {
    const found = parts.map((keys) => idAt(data, keys))
    if (found.every((id) => id !== undefined)) return [kind, ...found].join(':')
  }
  return undefined
}

/** The values that the portal writes instead of a missing id. */
const notIds = new Set(['', '0', 'undefined'])
/**
 * The longest documented id, a call's, has 64 characters. An id as long as a body would only bloat the queue's keys.
 */
const maxIdLength = 200

function idAt(data: FormValue | undefined, keys: readonly string[]): string | undefined {
  let value = data
  for (const key of keys) {
    if (typeof value !== 'object') return undefined
    value = Array.isArray(value) ? value[Number(key)] : value[key]
  }
  return typeof value === 'string' && !notIds.has(value) && value.length <= maxIdLength ? value : undefined
}
