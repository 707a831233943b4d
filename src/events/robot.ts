import { crmTypeByName } from './crm-types.ts'

/** The event name of an automation rule's post, to which Bitrix24 gives none. */
export const robotEvent = 'ROBOT'

/**
 * Returns a document's object under the name that events use, so that both share one order: `deal:662` for `crm,
 * CCrmDocumentDeal, DEAL_662`, `item:147:5` for `crm, …\Dynamic, DYNAMIC_147_5`. Returns `undefined` if no event is
 * about it. The last part identifies the document, for the portal too
 * (https://apidocs.bitrix24.com/api-reference/bizproc/bizproc-workflow-start.html).
 *
 * @param document module, class, id
 */
export function objectOfDocument([module, , id = '']: readonly string[]): string | undefined {
  const [, type, number] = /^(?:(\w+)_)?([1-9]\d{0,18})$/.exec(id) ?? []
  if (number === undefined) return undefined
  if (module === 'tasks' && type === undefined) return `task:${number}`
  if (module !== 'crm' || type === undefined) return undefined
  const kind = crmTypeByName.get(type)?.kind ?? /^DYNAMIC_[1-9]\d{0,9}$/.exec(type)?.[0].replace('DYNAMIC_', 'item:')
  return kind && `${kind}:${number}`
}
