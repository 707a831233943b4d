/** Reads whose name does not end like one: https://apidocs.bitrix24.com/api-reference/index.html */
const named: ReadonlySet<string> = new Set([
  'app.info',
  'bizproc.workflow.instances',
  'crm.duplicate.findbycomm',
  'crm.status.entity.items',
  'crm.status.entity.types',
  'events',
  'methods',
  'profile',
  'scope',
  'server.time',
  'sonet_group.user.groups',
  'timeman.settings',
  'timeman.status',
  'user.admin',
  'user.current',
])

/** The last word of a method that reads: `get`, `getFields`, `list`, `fields`. Not disk.file.getExternalLink, which makes one. */
const verbs = /^(?:get(?!externallink)\w*|list|fields|search|count)$/

/**
 * Whether a method only reads, as far as its name tells. Bitrix24 does not say it of its methods, so what is not known to
 * read is taken for a write.
 */
export function isRead(method: string): boolean {
  // crm.Deal.Get is crm.deal.get.
  const name = method.toLowerCase()
  return named.has(name) || name.startsWith('crm.enum.') || verbs.test(name.split('.').at(-1) ?? '')
}
