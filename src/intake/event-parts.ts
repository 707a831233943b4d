import { entryOf } from '../events/catalogue.ts'
import type { FormValue } from '../events/form.ts'

/** Places in a form: whether a text in this place is part of the event, and the places below it. */
export interface Places {
  isPlace: boolean
  readonly below: Map<string, Places>
}

const everywhere = [
  ...[['event'], ['event_handler_id'], ['ts']],
  ...['domain', 'member_id', 'client_endpoint', 'server_endpoint'].map((name) => ['auth', name]),
  // The module, class and id of a robot's document.
  ...['0', '1', '2'].map((at) => ['document_id', at]),
]

/** By object rule. There are some dozens of rules, and each post needs one. */
const known = new Map<unknown, Places>()

/**
 * The places of the values that make up an event: its name, number, time and portal, and every place where the
 * catalogue looks for the id of its object. Without these values no handler can receive the event.
 */
export function partsOf(event: FormValue | undefined): Places {
  const rule = typeof event === 'string' ? entryOf(event.toUpperCase())?.object : undefined
  const found = known.get(rule)
  if (found !== undefined) return found
  const root: Places = { isPlace: false, below: new Map() }
  for (const path of everywhere) add(root, path)
  for (const keys of rule?.ids.flat() ?? []) add(root, ['data', ...keys])
  known.set(rule, root)
  return root
}

function add(root: Places, path: readonly string[]): void {
  let places = root
  for (const key of path) {
    const next = places.below.get(key) ?? { isPlace: false, below: new Map() }
    places.below.set(key, next)
    places = next
  }
  places.isPlace = true
}
