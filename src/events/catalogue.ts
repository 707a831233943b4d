import { documented } from './documented-events.ts'
import type { FormValue } from './form.ts'
import { about, type ObjectRule, readObject } from './object.ts'
import { type Check, checkOf, type Shape } from './shape.ts'
import { type ShapeName, shapes } from './shapes.ts'

export type Catalogue = typeof documented

/** The catalogue's entry for an event. */
export interface Entry {
  /** As the documentation writes it, such as `ONCRMDYNAMICITEMADD_{entityTypeId}`. */
  readonly name: string
  readonly scope: string
  readonly webhook: boolean | undefined
  readonly object: ObjectRule | undefined
  readonly shapeName: ShapeName
  readonly shape: Shape
  readonly hasShape: Check
  /** The documentation page. */
  readonly page: string
}

export const entries: readonly Entry[] = Object.entries(documented).map(([name, [family, shapeName, rest]]) => {
  const [path, anchor] = `${family.pages}${rest}`.split('#')
  const page = `https://apidocs.bitrix24.com/api-reference/${path}.html${anchor === undefined ? '' : `#${anchor}`}`
  const { scope, webhook, object } = family
  const shape = shapes[shapeName]
  return { name, scope, webhook, object, shapeName, shape, hasShape: checkOf(shape), page }
})

// Maps, because names come from the wire: `documented['constructor']` would find a value.
const byName = new Map<string, Entry>()
/** ONCRMDYNAMICITEMUPDATE_147 is the same event, for subscribers to one type only. */
const byBase = new Map<string, Entry>()
for (const entry of entries) {
  const [base = '', placeholder] = entry.name.split('_{')
  if (placeholder === undefined) byName.set(base, entry)
  else byBase.set(base, entry)
}
const ofOneType = /^([A-Z]+)_(\d+)$/

/** `event` is upper case. */
export function entryOf(event: string): Entry | undefined {
  return byName.get(event) ?? byBase.get(ofOneType.exec(event)?.[1] ?? '')
}

/** Returns what an event is about: `deal:662`, `task:17`, `item:1032:21`. `event` is upper case. */
export function objectOf(event: string, data: FormValue | undefined): string | undefined {
  const rule = entryOf(event)?.object
  if (rule === undefined) return undefined
  const object = readObject(rule, data)
  if (object !== undefined || byName.has(event)) return object
  return readObject(about(`item:${ofOneType.exec(event)?.[2]}`, 'FIELDS.ID'), data)
}

/** Returns whether this event is documented. `event` is upper case. */
export function isDocumented(event: string): boolean {
  return entryOf(event) !== undefined
}

/**
 * Returns whether `data` is as documented. For an undocumented event it always returns `true`. `event` is upper case.
 */
export function hasDocumentedShape(event: string, data: FormValue | undefined): boolean {
  return entryOf(event)?.hasShape(data) ?? true
}

export const documentedEvents: readonly string[] = [...byName.keys()]

/** Returns the events of one dynamic type, such as `ONCRMDYNAMICITEMADD_147`. */
export function eventsOfType(type: string): string[] {
  return [...byBase.keys()].map((base) => `${base}_${type}`)
}

/**
 * Events named like a deletion that do not delete their object. For example, only a message of a chat is deleted, or
 * the order is not deleted yet.
 */
const spared: ReadonlySet<string> = new Set([
  'ONIMBOTMESSAGEDELETE',
  'ONIMBOTV2MESSAGEDELETE',
  'ONIMCONNECTORMESSAGEDELETE',
  'ONIMCONNECTORSTATUSDELETE',
  'ONOPENLINEMESSAGEDELETE',
  'ONSALEBEFOREORDERDELETE',
  'ONTASKCOMMENTDELETE',
] satisfies (keyof Catalogue)[])

const deletions: ReadonlySet<string> = new Set(
  documentedEvents.filter((event) => /(DELETED?|UNREGISTER)$/.test(event) && !spared.has(event)),
)

/** Returns whether the event says that its object was deleted. `event` is upper case. */
export function isDeletion(event: string): boolean {
  return deletions.has(entryOf(event)?.name.split('_{')[0] ?? event)
}
