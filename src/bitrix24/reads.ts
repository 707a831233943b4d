/**
 * Methods that only read, although their name does not end like that of a read:
 * https://apidocs.bitrix24.com/api-reference/index.html
 */
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

/**
 * The last word of a method that reads: `get`, `getFields`, `list`, `fields`. Not disk.file.getExternalLink, which
 * creates a link.
 */
const verbs = /^(?:get(?!externallink)\w*|list|fields|search|count)$/

/**
 * Returns whether a method only reads, as far as its name shows. Bitrix24 does not document this, so every other
 * method counts as a write.
 */
export function isRead(method: string): boolean {
  // crm.Deal.Get is crm.deal.get.
  const name = method.toLowerCase()
  return named.has(name) || name.startsWith('crm.enum.') || verbs.test(name.split('.').at(-1) ?? '')
}
