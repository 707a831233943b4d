import type { Form, FormValue } from '../intake/form.ts'

/** Reads the object out of an event's `data`; `undefined` when it is not there. */
type ReadObject = (data: FormValue | undefined) => string | undefined

/** `kind:<id>`, the id at the first of the paths that has one; several parts join into `kind:<id>:<id>`. */
function about(kind: string, ...paths: readonly (string | readonly string[])[]): ReadObject {
  return (data) => {
    for (const path of paths) {
      const ids = [path].flat().map((at) => idAt(data, at.split('.')))
      if (ids.every((id) => id !== undefined)) return [kind, ...ids].join(':')
    }
    return undefined
  }
}

/** What the portal writes where it has no id. */
const notIds = new Set(['', '0', 'undefined'])
/** The longest documented one, a call's, has 64 characters; a body's worth of id would only bloat the queue's keys. */
const longestId = 200

function idAt(data: FormValue | undefined, path: readonly string[]): string | undefined {
  let value = data
  for (const key of path) value = typeof value === 'object' ? (value as Form)[key] : undefined
  return typeof value === 'string' && !notIds.has(value) && value.length <= longestId ? value : undefined
}

const fieldsId = (kind: string) => about(kind, 'FIELDS.ID')

const activity = fieldsId('activity')
const address = about('address', ['FIELDS.ENTITY_TYPE_ID', 'FIELDS.ENTITY_ID', 'FIELDS.TYPE_ID'])
const bankDetail = fieldsId('bankdetail')
const booking = about('booking', 'ID')
const bookingResource = about('bookingresource', 'ID')
const bookingResourceType = about('bookingresourcetype', 'ID')
const bookingWaitListItem = about('bookingwaitlistitem', 'ID')
const bot = about('bot', 'BOT_ID')
// A message belongs to its chat, as a comment to its task: order matters within the conversation.
const botChat = about('chat', 'PARAMS.CHAT_ID', 'PARAMS.TO_CHAT_ID')
const botV2 = about('bot', 'bot.id')
const botV2Chat = about('chat', 'chat.id')
const calendarEntry = about('calendarentry', 'id')
const calendarSection = about('calendarsection', 'id')
const call = about('call', 'CALL_ID')
const company = fieldsId('company')
const connectorMessage = about('chat', 'MESSAGES.0.im.chat_id')
const contact = fieldsId('contact')
const currency = fieldsId('currency')
const deal = fieldsId('deal')
const document = fieldsId('document')
const group = fieldsId('group')
const groupSubject = about('groupsubject', 'ID', 'FIELDS.ID')
const hcmLinkDocument = about('hcmlinkdocument', 'id')
const invoice = fieldsId('invoice')
const item = about('item', ['FIELDS.ENTITY_TYPE_ID', 'FIELDS.ID'])
const itemType = fieldsId('itemtype')
const lead = fieldsId('lead')
const line: ReadObject = (data) => about('line', 'line')(typeof data === 'string' ? { line: data } : data)
const lineChat = about('chat', 'DATA.0.chat.id')
const measure = fieldsId('measure')
const nothing: ReadObject = () => undefined
const order = fieldsId('order')
const payment = fieldsId('payment')
const post = about('post', 'FIELDS.POST_ID')
const price = fieldsId('price')
const priceType = fieldsId('pricetype')
const product = fieldsId('product')
const productProperty = fieldsId('productproperty')
const productSection = fieldsId('productsection')
const propertyValue = fieldsId('propertyvalue')
const quote = fieldsId('quote')
const recurringDeal = fieldsId('recurringdeal')
const recurringInvoice = fieldsId('recurringinvoice')
const requisite = fieldsId('requisite')
const rounding = fieldsId('rounding')
const shipment = fieldsId('shipment')
const signDocument = about('signdocument', 'documentUid')
const task = about('task', 'FIELDS_AFTER.ID', 'FIELDS_BEFORE.ID')
const taskComment = about('task', 'FIELDS_AFTER.TASK_ID', 'FIELDS_BEFORE.TASK_ID')
const timelineAction = about('activity', 'activityId')
// The documentation says data[ID]; the portal sends data[FIELDS][ID] (crm/classes/general/restservice.php).
const timelineComment = about('timelinecomment', 'FIELDS.ID', 'ID')
const user = about('user', 'ID')
const userField = about('userfield', ['FIELDS.ENTITY_ID', 'FIELDS.ID'], ['entityId', 'id'])

/**
 * Every documented event and what it is about (https://apidocs.bitrix24.com/api-reference/events/index.html). The object
 * is the unit of order, so what is written here is fixed: a journal of years must mean the same.
 */
const catalogue = {
  ONBOOKINGADD: booking,
  ONBOOKINGDELETE: booking,
  ONBOOKINGUPDATE: booking,
  ONBOOKINGRESOURCEADD: bookingResource,
  ONBOOKINGRESOURCEDELETE: bookingResource,
  ONBOOKINGRESOURCEUPDATE: bookingResource,
  ONBOOKINGRESOURCETYPEADD: bookingResourceType,
  ONBOOKINGRESOURCETYPEDELETE: bookingResourceType,
  ONBOOKINGRESOURCETYPEUPDATE: bookingResourceType,
  ONBOOKINGWAITLISTITEMADD: bookingWaitListItem,
  ONBOOKINGWAITLISTITEMDELETE: bookingWaitListItem,
  ONBOOKINGWAITLISTITEMUPDATE: bookingWaitListItem,
  ONCALENDARENTRYADD: calendarEntry,
  ONCALENDARENTRYDELETE: calendarEntry,
  ONCALENDARENTRYUPDATE: calendarEntry,
  ONCALENDARSECTIONADD: calendarSection,
  ONCALENDARSECTIONDELETE: calendarSection,
  ONCALENDARSECTIONUPDATE: calendarSection,
  'CATALOG.MEASURE.ON.ADD': measure,
  'CATALOG.MEASURE.ON.DELETE': measure,
  'CATALOG.MEASURE.ON.UPDATE': measure,
  'CATALOG.PRICE.TYPE.ON.ADD': priceType,
  'CATALOG.PRICE.TYPE.ON.DELETE': priceType,
  'CATALOG.PRICE.TYPE.ON.UPDATE': priceType,
  'CATALOG.PRICE.ON.ADD': price,
  'CATALOG.PRICE.ON.DELETE': price,
  'CATALOG.PRICE.ON.UPDATE': price,
  'CATALOG.PRODUCT.ON.ADD': product,
  'CATALOG.PRODUCT.ON.DELETE': product,
  'CATALOG.PRODUCT.ON.UPDATE': product,
  'CATALOG.ROUNDING.ON.ADD': rounding,
  'CATALOG.ROUNDING.ON.DELETE': rounding,
  'CATALOG.ROUNDING.ON.UPDATE': rounding,
  ONIMBOTJOINCHAT: botChat,
  ONIMCOMMANDADD: botChat,
  ONIMBOTDELETE: bot,
  ONIMBOTMESSAGEADD: botChat,
  ONIMBOTMESSAGEDELETE: botChat,
  ONIMBOTMESSAGEUPDATE: botChat,
  ONAPPINSTALL: nothing,
  ONAPPMETHODCONFIRM: nothing,
  ONAPPPAYMENT: nothing,
  ONAPPUNINSTALL: nothing,
  ONAPPUPDATE: nothing,
  ONUSERADD: user,
  ONCRMCOMPANYADD: company,
  ONCRMCOMPANYDELETE: company,
  ONCRMCOMPANYUPDATE: company,
  ONCRMCOMPANYUSERFIELDADD: userField,
  ONCRMCOMPANYUSERFIELDDELETE: userField,
  ONCRMCOMPANYUSERFIELDSETENUMVALUES: userField,
  ONCRMCOMPANYUSERFIELDUPDATE: userField,
  ONCRMCONTACTADD: contact,
  ONCRMCONTACTDELETE: contact,
  ONCRMCONTACTUPDATE: contact,
  ONCRMCONTACTUSERFIELDADD: userField,
  ONCRMCONTACTUSERFIELDDELETE: userField,
  ONCRMCONTACTUSERFIELDSETENUMVALUES: userField,
  ONCRMCONTACTUSERFIELDUPDATE: userField,
  ONCRMCURRENCYADD: currency,
  ONCRMCURRENCYDELETE: currency,
  ONCRMCURRENCYUPDATE: currency,
  ONCRMDEALADD: deal,
  ONCRMDEALDELETE: deal,
  ONCRMDEALMOVETOCATEGORY: deal,
  ONCRMDEALUPDATE: deal,
  ONCRMDEALRECURRINGADD: recurringDeal,
  ONCRMDEALRECURRINGDELETE: recurringDeal,
  ONCRMDEALRECURRINGEXPOSE: recurringDeal,
  ONCRMDEALRECURRINGUPDATE: recurringDeal,
  ONCRMDEALUSERFIELDADD: userField,
  ONCRMDEALUSERFIELDDELETE: userField,
  ONCRMDEALUSERFIELDSETENUMVALUES: userField,
  ONCRMDEALUSERFIELDUPDATE: userField,
  ONCRMDOCUMENTGENERATORDOCUMENTADD: document,
  ONCRMDOCUMENTGENERATORDOCUMENTDELETE: document,
  ONCRMDOCUMENTGENERATORDOCUMENTUPDATE: document,
  ONCRMLEADADD: lead,
  ONCRMLEADDELETE: lead,
  ONCRMLEADUPDATE: lead,
  ONCRMLEADUSERFIELDADD: userField,
  ONCRMLEADUSERFIELDDELETE: userField,
  ONCRMLEADUSERFIELDSETENUMVALUES: userField,
  ONCRMLEADUSERFIELDUPDATE: userField,
  ONCRMINVOICEADD: invoice,
  ONCRMINVOICEDELETE: invoice,
  ONCRMINVOICERECURRINGADD: recurringInvoice,
  ONCRMINVOICERECURRINGDELETE: recurringInvoice,
  ONCRMINVOICERECURRINGEXPOSE: recurringInvoice,
  ONCRMINVOICERECURRINGUPDATE: recurringInvoice,
  ONCRMINVOICESETSTATUS: invoice,
  ONCRMINVOICEUPDATE: invoice,
  ONCRMINVOICEUSERFIELDADD: userField,
  ONCRMINVOICEUSERFIELDDELETE: userField,
  ONCRMINVOICEUSERFIELDSETENUMVALUES: userField,
  ONCRMINVOICEUSERFIELDUPDATE: userField,
  ONCRMMEASUREADD: measure,
  ONCRMMEASUREDELETE: measure,
  ONCRMMEASUREUPDATE: measure,
  ONCRMPRODUCTSECTIONADD: productSection,
  ONCRMPRODUCTSECTIONDELETE: productSection,
  ONCRMPRODUCTSECTIONUPDATE: productSection,
  ONCRMPRODUCTADD: product,
  ONCRMPRODUCTDELETE: product,
  ONCRMPRODUCTPROPERTYADD: productProperty,
  ONCRMPRODUCTPROPERTYDELETE: productProperty,
  ONCRMPRODUCTPROPERTYUPDATE: productProperty,
  ONCRMPRODUCTUPDATE: product,
  ONCRMQUOTEADD: quote,
  ONCRMQUOTEDELETE: quote,
  ONCRMQUOTEUPDATE: quote,
  ONCRMQUOTEUSERFIELDADD: userField,
  ONCRMQUOTEUSERFIELDDELETE: userField,
  ONCRMQUOTEUSERFIELDSETENUMVALUES: userField,
  ONCRMQUOTEUSERFIELDUPDATE: userField,
  ONCRMADDRESSREGISTER: address,
  ONCRMADDRESSUNREGISTER: address,
  ONCRMBANKDETAILADD: bankDetail,
  ONCRMBANKDETAILDELETE: bankDetail,
  ONCRMBANKDETAILUPDATE: bankDetail,
  ONCRMREQUISITEADD: requisite,
  ONCRMREQUISITEDELETE: requisite,
  ONCRMREQUISITEUPDATE: requisite,
  ONCRMREQUISITEUSERFIELDADD: userField,
  ONCRMREQUISITEUSERFIELDDELETE: userField,
  ONCRMREQUISITEUSERFIELDSETENUMVALUES: userField,
  ONCRMREQUISITEUSERFIELDUPDATE: userField,
  ONCRMACTIVITYADD: activity,
  ONCRMACTIVITYDELETE: activity,
  ONCRMACTIVITYUPDATE: activity,
  ONCRMTIMELINECOMMENTADD: timelineComment,
  ONCRMTIMELINECOMMENTDELETE: timelineComment,
  ONCRMTIMELINECOMMENTUPDATE: timelineComment,
  ONCRMDYNAMICITEMADD: item,
  ONCRMDYNAMICITEMDELETE: item,
  ONCRMDYNAMICITEMUPDATE: item,
  ONCRMTYPEADD: itemType,
  ONCRMTYPEDELETE: itemType,
  ONCRMTYPEUPDATE: itemType,
  ONCRMTYPEUSERFIELDADD: userField,
  ONCRMTYPEUSERFIELDDELETE: userField,
  ONCRMTYPEUSERFIELDSETENUMVALUES: userField,
  ONCRMTYPEUSERFIELDUPDATE: userField,
  ONOFFLINEEVENT: nothing,
  ONIMCONNECTORDIALOGFINISH: lineChat,
  ONIMCONNECTORDIALOGSTART: lineChat,
  ONIMCONNECTORLINEDELETE: line,
  ONIMCONNECTORMESSAGEADD: connectorMessage,
  ONIMCONNECTORMESSAGEDELETE: connectorMessage,
  ONIMCONNECTORMESSAGEUPDATE: connectorMessage,
  ONIMCONNECTORSTATUSDELETE: line,
  ONOPENLINEMESSAGEADD: lineChat,
  ONOPENLINEMESSAGEDELETE: lineChat,
  ONOPENLINEMESSAGEUPDATE: lineChat,
  ONSESSIONFINISH: lineChat,
  ONSESSIONSTART: lineChat,
  ONLIVEFEEDPOSTADD: post,
  ONLIVEFEEDPOSTDELETE: post,
  ONLIVEFEEDPOSTUPDATE: post,
  ONORDERDELETED: order,
  ONORDERENTITYSAVED: order,
  ONPAYMENTDELETED: payment,
  ONPAYMENTENTITYSAVED: payment,
  ONPROPERTYVALUEDELETED: propertyValue,
  ONPROPERTYVALUEENTITYSAVED: propertyValue,
  ONSALEBEFOREORDERDELETE: order,
  ONSALEORDERSAVED: order,
  ONSHIPMENTDELETED: shipment,
  ONSHIPMENTENTITYSAVED: shipment,
  ONSIGNB2EDOCUMENTSTATUSCHANGED: signDocument,
  ONSIGNB2EMEMBERSTATUSCHANGED: signDocument,
  ONSIGNHCMLINKB2EDOCUMENTSIGNED: hcmLinkDocument,
  ONSONETGROUPADD: group,
  ONSONETGROUPDELETE: group,
  ONSONETGROUPUPDATE: group,
  ONSONETGROUPSUBJECTADD: groupSubject,
  ONSONETGROUPSUBJECTDELETE: groupSubject,
  ONSONETGROUPSUBJECTUPDATE: groupSubject,
  ONTASKCOMMENTADD: taskComment,
  ONTASKCOMMENTDELETE: taskComment,
  ONTASKCOMMENTUPDATE: taskComment,
  ONTASKADD: task,
  ONTASKDELETE: task,
  ONTASKUPDATE: task,
  ONEXTERNALCALLBACKSTART: nothing,
  ONEXTERNALCALLSTART: call,
  ONVOXIMPLANTCALLEND: call,
  ONVOXIMPLANTCALLINIT: call,
  ONVOXIMPLANTCALLSTART: call,
  ONIMBOTV2MESSAGEADD: botV2Chat,
  ONIMBOTV2MESSAGEUPDATE: botV2Chat,
  ONIMBOTV2MESSAGEDELETE: botV2Chat,
  ONIMBOTV2JOINCHAT: botV2Chat,
  ONIMBOTV2DELETE: botV2,
  ONIMBOTV2CONTEXTGET: botV2Chat,
  ONIMBOTV2COMMANDADD: botV2Chat,
  ONIMBOTV2REACTIONCHANGE: botV2Chat,
  ONAPPTEST: nothing,
  ONCRMTIMELINEITEMACTION: timelineAction,
} as const satisfies Record<string, ReadObject>

// A Map, because names come from the wire: `catalogue['constructor']` would find something.
const byName = new Map<string, ReadObject>(Object.entries(catalogue))

/** ONCRMDYNAMICITEMUPDATE_147: the same event for those who subscribed to one type only. */
const typed = /^(ONCRMDYNAMICITEM(?:ADD|UPDATE|DELETE))_(\d+)$/

/** What an event is about: `deal:662`, `task:17`, `item:1032:21`. `event` is upper case. */
export function objectOf(event: string, data: FormValue | undefined): string | undefined {
  const [, name = event, type] = typed.exec(event) ?? []
  const object = byName.get(name)?.(data)
  if (object !== undefined || type === undefined) return object
  return about(`item:${type}`, 'FIELDS.ID')(data)
}

/** Whether the documentation knows this event. `event` is upper case. */
export function isDocumented(event: string): boolean {
  return byName.has(typed.exec(event)?.[1] ?? event)
}

export const documentedEvents: readonly string[] = Object.keys(catalogue)

/** Named like an end, but not that of their object: of a message in a chat, say; and this order may yet be kept. */
const spared: ReadonlySet<string> = new Set([
  'ONIMBOTMESSAGEDELETE',
  'ONIMBOTV2MESSAGEDELETE',
  'ONIMCONNECTORMESSAGEDELETE',
  'ONIMCONNECTORSTATUSDELETE',
  'ONOPENLINEMESSAGEDELETE',
  'ONSALEBEFOREORDERDELETE',
  'ONTASKCOMMENTDELETE',
] satisfies (keyof typeof catalogue)[])

const deletions: ReadonlySet<string> = new Set(
  documentedEvents.filter((event) => /(DELETED?|UNREGISTER)$/.test(event) && !spared.has(event)),
)

/** Whether the event says that its object is no more. `event` is upper case. */
export function isDeletion(event: string): boolean {
  return deletions.has(typed.exec(event)?.[1] ?? event)
}
