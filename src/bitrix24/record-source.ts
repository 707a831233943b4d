import { type CrmType, crmItemTypes } from '../events/crm-types.ts'
import { isObject } from '../lib/is-object.ts'
import type { Bitrix24Error } from './bitrix24-error.ts'
import type { Params } from './commands.ts'
import type { LooseRecord } from './record.ts'

/** The method that reads the record of an object. */
export interface RecordSource {
  readonly method: string
  readonly params: Params
  /**
   * Returns the record in the method's result; `null` if the object is deleted.
   *
   * @throws {TypeError} if the result does not fit the method
   */
  readonly read: (result: unknown) => LooseRecord | null
  /** Returns whether the method's error means that the object is deleted. */
  readonly isGone: (error: Bitrix24Error) => boolean
}

interface Reading {
  readonly method: string
  readonly params: (...ids: string[]) => Params
  /** The key in the result of the record, or of a list with only that record. */
  readonly at?: string | undefined
  /** The method's own error code for a deleted object, if it has one. */
  readonly gone?: string | undefined
}

/**
 * Methods such as `crm.activity.get`: the parameter is the id, and the result is the record or, if `at` is set,
 * contains it.
 */
function byId(method: string, at?: string, gone?: string): Reading {
  return { method, params: (id) => ({ id }), at, gone }
}

const anyItem = {
  method: 'crm.item.get',
  params: (entityTypeId: string | number, id: string) => ({ entityTypeId, id, useOriginalUfNames: 'Y' }),
  at: 'item',
}

function item({ id: entityTypeId }: CrmType): Reading {
  return { ...anyItem, params: (id) => anyItem.params(entityTypeId, id) }
}

const typesWithUserFields = ['COMPANY', 'CONTACT', 'DEAL', 'INVOICE', 'LEAD', 'QUOTE', 'REQUISITE']

/**
 * By the kinds of `src/events/documented-events.ts`. The missing kinds have no method that reads an object by its id alone,
 * or have one that does not find every object: log.blogpost.get omits posts that are not for all users.
 *
 * https://apidocs.bitrix24.com/api-reference/index.html: each method's page, "Possible Error Codes"
 */
const table: Readonly<Record<string, Reading>> = {
  activity: byId('crm.activity.get'),
  address: {
    method: 'crm.address.list',
    params: (entityType, entity, type) => ({
      filter: { ENTITY_TYPE_ID: entityType, ENTITY_ID: entity, TYPE_ID: type },
    }),
  },
  bankdetail: byId('crm.requisite.bankdetail.get'),
  booking: byId('booking.v1.booking.get', 'booking', '1021'),
  bookingresource: byId('booking.v1.resource.get', 'resource', '1009'),
  bookingresourcetype: byId('booking.v1.resourceType.get', 'resourceType', '1013'),
  bookingwaitlistitem: byId('booking.v1.waitlist.get', 'waitList', '1040'),
  calendarentry: byId('calendar.event.getbyid'),
  ...Object.fromEntries(crmItemTypes.map((type) => [type.kind, item(type)])),
  currency: byId('crm.currency.get'),
  document: byId('crm.documentgenerator.document.get', 'document'),
  // Without IS_ADMIN an administrator only finds the groups that an ordinary user would find.
  group: { method: 'sonet_group.get', params: (id) => ({ FILTER: { ID: id }, IS_ADMIN: 'Y' }) },
  invoice: byId('crm.invoice.get'),
  item: anyItem,
  // crm.type.get has no code for a deleted type; its text is in the portal's language.
  itemtype: { method: 'crm.type.list', params: (id) => ({ filter: { id } }), at: 'types' },
  measure: byId('catalog.measure.get', 'measure', '200600000020'),
  order: byId('sale.order.get', 'order', '200540400001'),
  payment: byId('sale.payment.get', 'payment', '200640400001'),
  price: byId('catalog.price.get', 'price'),
  pricetype: byId('catalog.priceType.get', 'priceType', '201000000000'),
  product: byId('catalog.product.get', 'product'),
  productproperty: byId('catalog.productProperty.get', 'productProperty'),
  productsection: byId('catalog.section.get', 'section', '200700300030'),
  propertyvalue: byId('sale.propertyvalue.get', 'propertyValue', '201040400001'),
  recurringdeal: byId('crm.deal.recurring.get'),
  requisite: byId('crm.requisite.get'),
  rounding: byId('catalog.roundingRule.get', 'roundingRule', '200900000000'),
  shipment: byId('sale.shipment.get', 'shipment', '201140400001'),
  task: {
    method: 'tasks.task.get',
    // Custom fields only come if one is requested, and then all of them come.
    params: (taskId) => ({ taskId, select: ['*', 'UF_CRM_TASK'] }),
    at: 'task',
  },
  timelinecomment: byId('crm.timeline.comment.get'),
  ...Object.fromEntries(
    typesWithUserFields.map((type) => [`userfield:CRM_${type}`, byId(`crm.${type.toLowerCase()}.userfield.get`)]),
  ),
  user: { method: 'user.get', params: (id) => ({ ID: id }) },
}

// A Map, because kinds come from a journal: `table['constructor']` would find a value.
export const readings: ReadonlyMap<string, Reading> = new Map(Object.entries(table))

/**
 * @param object such as `deal:662` or `item:1032:21`
 * @throws {TypeError} if no method reads it
 */
export function sourceOf(object: string): RecordSource {
  const [kind = '', ...parts] = object.split(':')
  const narrow = readings.get(`${kind}:${parts[0]}`)
  const reading = narrow ?? readings.get(kind)
  if (!reading) throw new TypeError(`no REST method reads a ${kind} by its id: ${object} has no record`)
  const ids = narrow ? parts.slice(1) : parts
  // An id comes from outside, and `$result[…]` in a batch would be another command's result.
  if (ids.length !== reading.params.length || !ids.every((id) => /^\w+$/.test(id)))
    throw new TypeError(`${object} has no id that a REST method reads, and so no record`)
  const { method, at, gone } = reading
  return {
    method,
    params: reading.params(...ids),
    read: (result) => readRecord({ method, at, result }),
    isGone: ({ code, description }) => {
      if (code === 'NOT_FOUND' || code === 'ERROR_NOT_FOUND' || code === gone) return true
      // Older methods have no error codes, and "Access denied." means something else.
      return (code === 'NO_CODE' || code === '0') && /not found|does not exist/i.test(description)
    },
  }
}

function readRecord({ method, at, result }: { method: string; at: string | undefined; result: unknown }) {
  if (isNothing(result)) return null
  const there = at === undefined || !isObject(result) ? result : result[at]
  if (isNothing(there)) return null
  const record: unknown = Array.isArray(there) ? there[0] : there
  if (!isObject(record) || Array.isArray(record)) throw new TypeError(`${method} was answered without a record`)
  return record
}

/**
 * PHP writes an empty value in one of these ways. `undefined` is not among them: it means that the expected value is
 * missing.
 */
function isNothing(value: unknown): boolean {
  return value === null || value === false || value === '' || (Array.isArray(value) && value.length === 0)
}
