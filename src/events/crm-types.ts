/**
 * The types of the CRM, by their names in crm.enum.ownertype and in the documents of robots
 * (https://apidocs.bitrix24.com/api-reference/crm/data-types.html#object_type). `id` is REST's `entityTypeId`. `short`
 * is the name that product rows use for their owner; the types without one are only known from robots.
 */
export const crmTypes = {
  LEAD: { id: 1, kind: 'lead', short: 'L' },
  DEAL: { id: 2, kind: 'deal', short: 'D' },
  CONTACT: { id: 3, kind: 'contact', short: 'C' },
  COMPANY: { id: 4, kind: 'company', short: 'CO' },
  INVOICE: { id: 5, kind: 'invoice', short: 'I' },
  QUOTE: { id: 7, kind: 'quote', short: 'Q' },
  REQUISITE: { id: 8, kind: 'requisite' },
  ORDER: { id: 14, kind: 'order' },
  SMART_INVOICE: { id: 31, kind: 'item:31', short: 'SI' },
  SMART_DOCUMENT: { id: 36, kind: 'item:36' },
  SMART_B2E_DOC: { id: 39, kind: 'item:39' },
} as const satisfies Readonly<Record<string, CrmType>>

export interface CrmType {
  readonly id: number
  /** The kind of object that events are about. */
  readonly kind: string
  readonly short?: string
}

export const crmTypeByName: ReadonlyMap<string, CrmType> = new Map<string, CrmType>(Object.entries(crmTypes))

/** The types that have a kind of their own, and that crm.item.get and crm.item.list read. */
export const crmItemTypes = [crmTypes.LEAD, crmTypes.DEAL, crmTypes.CONTACT, crmTypes.COMPANY, crmTypes.QUOTE] as const

/** Returns the beginning of the names of events about such an object: `ONCRMDEAL` for `deal`. */
export function crmEventsOf(kind: string): string {
  return kind.startsWith('item:') ? 'ONCRMDYNAMICITEM' : `ONCRM${kind.toUpperCase()}`
}

/** The type numbers of smart processes begin here. */
export const minSmartProcessId = 128
