import type { Answer, Call, Method } from './methods.ts'
import { page } from './paging.ts'
import { asText, isJsonObject, type Json, type JsonObject, phpDate } from './php.ts'
import type { PortalRecord, RecordType } from './records.ts'
import { RestError } from './rest-error.ts'

/** https://apidocs.bitrix24.com/api-reference/crm/data-types.html#object_type */
const oldTypes = { lead: 1, deal: 2, contact: 3, company: 4, quote: 7 } as const
const oldInvoice = 5

const notFound = () => new RestError('NOT_FOUND', 'Element not found')
/** The older methods have no code for it. */
const notFoundOld = () => new RestError('', 'Not found')
const noActivity = () => new RestError('', 'Activity is not found')

export const crmMethods: Record<string, Method> = {
  'crm.item.get': (call) => ({ result: { item: item(found(call, typeOf(call)), call) } }),
  'crm.item.list': (call) => {
    const { rows, ...counts } = page(
      call.records.list(typeOf(call)).map((record) => item(record, call)),
      call.params,
    )
    return { result: { items: rows }, ...counts }
  },
  'crm.item.add': (call) => ({
    result: { item: item(call.records.add(typeOf(call), fieldsOf(call), call.user), call) },
  }),
  'crm.item.update': (call) => {
    const type = typeOf(call)
    const after = call.records.update(type, idOf(call), fieldsOf(call), call.user)
    if (!after) throw notFound()
    return { result: { item: item(after, call) } }
  },
  'crm.item.delete': (call) => {
    if (!call.records.remove(typeOf(call), idOf(call))) throw notFound()
    return { result: [] }
  },
  'crm.invoice.get': (call) => ({ result: oldItem(found(call, oldInvoice, notFoundOld)) }),
  'crm.activity.get': (call) => ({ result: oldItem(found(call, 'activity', noActivity)) }),
  ...Object.assign({}, ...Object.entries(oldTypes).map(([name, type]) => oldMethods(name, type))),
}

/** `crm.deal.get` and its like: upper case, and every value a text. */
function oldMethods(name: string, type: number): Record<string, Method> {
  return {
    [`crm.${name}.get`]: (call) => ({ result: oldItem(found(call, type, notFoundOld)) }),
    [`crm.${name}.list`]: (call): Answer => {
      const { rows, ...counts } = page(call.records.list(type).map(oldItem), call.params)
      return { result: rows, ...counts }
    },
    [`crm.${name}.add`]: (call) => ({ result: call.records.add(type, newFields(fieldsOf(call)), call.user).id }),
    [`crm.${name}.update`]: (call) => {
      const fields = newFields(fieldsOf(call))
      if (!call.records.update(type, idOf(call), fields, call.user, { always: true })) throw notFoundOld()
      return { result: true }
    },
    [`crm.${name}.delete`]: (call) => {
      if (!call.records.remove(type, idOf(call))) throw notFoundOld()
      return { result: true }
    },
  }
}

function typeOf({ params }: Call): number {
  const type = Number(params['entityTypeId'])
  // Old invoices, 5, have no universal methods; smart invoices are 31 and smart processes begin at 128.
  if (![1, 2, 3, 4, 7, 31].includes(type) && !(type >= 128)) throw new RestError('NOT_FOUND', 'SPA not found')
  return type
}

function idOf({ params }: Call): number {
  return Number(params['id'] ?? params['ID'])
}

function found(call: Call, type: RecordType, missing = notFound): PortalRecord {
  const record = call.records.get(type, idOf(call))
  if (!record) throw missing()
  return record
}

function fieldsOf({ params }: Call): JsonObject {
  const fields = params['fields'] ?? params['FIELDS'] ?? {}
  if (!isJsonObject(fields)) throw new RestError('', "Parameter 'fields' must be array.")
  return Object.fromEntries(Object.entries(fields).map(([name, value]) => [originalName(name), value]))
}

function item(record: PortalRecord, { params }: Call): JsonObject {
  const isOriginal = params['useOriginalUfNames'] === 'Y'
  return {
    id: record.id,
    createdTime: phpDate(record.createdTime),
    updatedTime: phpDate(record.updatedTime),
    createdBy: record.createdBy,
    updatedBy: record.updatedBy,
    ...Object.fromEntries(
      Object.entries(record.fields).map(([name, value]) => [isOriginal ? name : camelName(name), value]),
    ),
    entityTypeId: Number(record.type),
  }
}

/** `UF_CRM_2_1639669411830` → `ufCrm2_1639669411830`: an underline stays before a number that has one behind it. */
function camelName(name: string): string {
  if (!name.startsWith('UF_')) return name
  const [first = '', ...rest] = name.toLowerCase().split('_')
  return rest.reduce((all, part) => {
    const isLong = /^\d{3,}/.test(part)
    return all + (isLong ? `_${part}` : part.charAt(0).toUpperCase() + part.slice(1))
  }, first)
}

function originalName(name: string): string {
  if (!/^ufCrm/.test(name)) return name
  return name
    .replace(/(?<![_\d])(\d+)/g, '_$1')
    .replace(/([A-Z])/g, '_$1')
    .toUpperCase()
}

function oldItem(record: PortalRecord): JsonObject {
  return {
    ID: String(record.id),
    ...Object.fromEntries(
      Object.entries(record.fields).map(([name, value]) => [
        oldName(name),
        typeof value === 'number' ? asText(value) : value,
      ]),
    ),
    CREATED_BY_ID: String(record.createdBy),
    MODIFY_BY_ID: String(record.updatedBy),
    DATE_CREATE: phpDate(record.createdTime),
    DATE_MODIFY: phpDate(record.updatedTime),
  }
}

const oldName = (name: string) => (name.startsWith('UF_') ? name : name.replace(/([A-Z])/g, '_$1').toUpperCase())

function newFields(fields: JsonObject): JsonObject {
  const newName = (name: string) =>
    name.startsWith('UF_') ? name : name.toLowerCase().replace(/_(.)/g, (_, letter: string) => letter.toUpperCase())
  return Object.fromEntries(Object.entries(fields).map(([name, value]): [string, Json] => [newName(name), value]))
}
