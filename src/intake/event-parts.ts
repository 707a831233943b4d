import { objectRuleOf } from '../events/catalogue.ts'
import type { FormValue } from './form.ts'

/** Places in a form: whether a text at this one belongs to them, and those below it. */
export interface Places {
  isPlace: boolean
  readonly below: Map<string, Places>
}

const everywhere = [
  ...[['event'], ['event_handler_id'], ['ts']],
  ...['domain', 'member_id', 'client_endpoint', 'server_endpoint'].map((name) => ['auth', name]),
  // Module, class and id of what a robot's post is about.
  ...['0', '1', '2'].map((at) => ['document_id', at]),
]

/** By the rule of the object: there are some dozens, and each post asks. */
const known = new Map<unknown, Places>()

/**
 * Where what an event is made of stands: its name, its number, its time, its portal, and the id of its object wherever
 * the catalogue looks for it. Without these there is no event to hand to anybody.
 */
export function partsOf(event: FormValue | undefined): Places {
  const rule = typeof event === 'string' ? objectRuleOf(event.toUpperCase()) : undefined
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
