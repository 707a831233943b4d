/** What the post of an automation rule becomes; Bitrix24 gives it no event name. */
export const robotEvent = 'ROBOT'

/**
 * A document's type in the CRM, and the object that events are about: what crm.enum.ownertype lists
 * (https://apidocs.bitrix24.com/api-reference/crm/auxiliary/enum/crm-enum-owner-type.html), and orders.
 */
const kinds: ReadonlyMap<string, string> = new Map([
  ['LEAD', 'lead'],
  ['DEAL', 'deal'],
  ['CONTACT', 'contact'],
  ['COMPANY', 'company'],
  ['QUOTE', 'quote'],
  ['INVOICE', 'invoice'],
  ['ORDER', 'order'],
  ['REQUISITE', 'requisite'],
  ['SMART_INVOICE', 'item:31'],
  ['SMART_DOCUMENT', 'item:36'],
  ['SMART_B2E_DOC', 'item:39'],
])

/**
 * What a document is, as events name it, so that both have one order: `deal:662` of `crm, CCrmDocumentDeal, DEAL_662`,
 * `item:147:5` of `crm, …\Dynamic, DYNAMIC_147_5`. `undefined` for one that no event is about. The last part tells it all,
 * to the portal too (https://apidocs.bitrix24.com/api-reference/bizproc/bizproc-workflow-start.html).
 *
 * @param document module, class, id
 */
export function objectOfDocument([module, , id = '']: readonly string[]): string | undefined {
  const [, type, number] = /^(?:(\w+)_)?([1-9]\d{0,18})$/.exec(id) ?? []
  if (number === undefined) return undefined
  if (module === 'tasks' && type === undefined) return `task:${number}`
  if (module !== 'crm' || type === undefined) return undefined
  const kind = kinds.get(type) ?? /^DYNAMIC_[1-9]\d{0,9}$/.exec(type)?.[0].replace('DYNAMIC_', 'item:')
  return kind && `${kind}:${number}`
}
