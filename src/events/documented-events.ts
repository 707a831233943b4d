import { about, type ObjectRule } from './object.ts'
import type { ShapeName } from './shapes.ts'

/** Events about one kind of object, which are documented together. */
interface Family<Kind extends string = string> {
  /** The REST scope that an application needs for them. */
  readonly scope: string
  /** Whether an outgoing webhook may subscribe; `undefined` if the documentation does not say. */
  readonly webhook: boolean | undefined
  /** `undefined` for events that are not about anything with an id. */
  readonly object: ObjectRule<Kind> | undefined
  /** The beginning of their pages' addresses. */
  readonly pages: string
}

const family =
  (scope: string, webhook: boolean | undefined) =>
  <Kind extends string = never>(object: ObjectRule<Kind> | undefined, pages: string): Family<Kind> => ({
    scope,
    webhook,
    object,
    pages,
  })

const webhookMay = true
const webhookMayNot = false
const notSaid = undefined

const basic = family('basic', webhookMayNot)
const booking = family('booking', webhookMay)
const bots = family('imbot', webhookMayNot)
const botsBefore = family('imbot', notSaid)
const calendar = family('calendar', webhookMay)
const catalog = family('catalog', webhookMayNot)
const connector = family('imconnector', webhookMayNot)
const crm = family('crm', webhookMay)
const crmApplication = family('crm', webhookMayNot)
const crmBefore = family('crm', notSaid)
const feed = family('log', webhookMay)
const openLine = family('imopenlines', webhookMayNot)
const sale = family('sale', webhookMay)
const sign = family('sign.b2e', webhookMayNot)
const sonet = family('sonet', webhookMay)
const sonetBefore = family('sonet', notSaid)
const task = family('task', webhookMay)
const telephony = family('telephony', webhookMay)
const telephonyApplication = family('telephony', webhookMayNot)
const user = family('user', webhookMayNot)

const fieldsId = <const Kind extends string>(kind: Kind) => about(kind, 'FIELDS.ID')

// A message belongs to its chat, as a comment belongs to its task: the order matters within the conversation.
const botChat = about('chat', 'PARAMS.CHAT_ID', 'PARAMS.TO_CHAT_ID')
const botV2Chat = about('chat', 'chat.id')
const call = about('call', 'CALL_ID')
const deal = fieldsId('deal')
const item = about('item', ['FIELDS.ENTITY_TYPE_ID', 'FIELDS.ID'])
const line = about('line', '', 'line')
const lineChat = about('chat', 'DATA.0.chat.id')
const userField = about('userfield', ['FIELDS.ENTITY_ID', 'FIELDS.ID'], ['entityId', 'id'])

const addresses = crm(
  about('address', ['FIELDS.ENTITY_TYPE_ID', 'FIELDS.ENTITY_ID', 'FIELDS.TYPE_ID']),
  'crm/requisites/events/on-crm-address-',
)
const applications = basic(undefined, 'common/events/on-app-')
const bookingResources = booking(about('bookingresource', 'ID'), 'booking/resource/events/on-booking-resource-')
const bookingResourceTypes = booking(
  about('bookingresourcetype', 'ID'),
  'booking/resource/resource-type/events/on-booking-resource-type-',
)
const bookingWaitListItems = booking(
  about('bookingwaitlistitem', 'ID'),
  'booking/waitlist/events/on-booking-waitlistitem-',
)
const botMessages = botsBefore(botChat, 'chat-bots/outdated/messages/events/on-imbot-message-')
const botV2Chats = bots(botV2Chat, 'chat-bots/chat-bots-v2/imbot.v2/events/events#onimbotv2')
const botV2Deletions = bots(about('bot', 'bot.id'), 'chat-bots/chat-bots-v2/imbot.v2/events/events#onimbotv2')
const calendarEntries = calendar(about('calendarentry', 'id'), 'calendar/calendar-event/events/on-calendar-entry-')
const calendarSections = calendar(about('calendarsection', 'id'), 'calendar/events/on-calendar-section-')
const calls = telephony(call, 'telephony/voximplant/events/on-voximplant-call-')
const catalogMeasures = catalog(fieldsId('measure'), 'catalog/measure/events/catalog-measure-on-')
const catalogProducts = catalog(fieldsId('product'), 'catalog/product/events/catalog-product-on-')
const companyUserFields = crm(userField, 'crm/companies/userfields/events/on-crm-company-user-field-')
const connectorDialogs = connector(lineChat, 'imopenlines/imconnector/events/on-im-connector-dialog-')
const connectorLines = connector(line, 'imopenlines/imconnector/events/on-im-connector-')
const connectorMessages = connector(
  about('chat', 'MESSAGES.0.im.chat_id'),
  'imopenlines/imconnector/events/on-im-connector-message-',
)
const contactUserFields = crm(userField, 'crm/contacts/userfield/events/on-crm-contact-user-field-')
const dealUserFields = crm(userField, 'crm/deals/user-defined-fields/events/on-crm-deal-user-field-')
const documents = crm(
  fieldsId('document'),
  'crm/document-generator/documents/events/on-crm-document-generator-document-',
)
const groupSubjects = sonetBefore(
  about('groupsubject', 'ID', 'FIELDS.ID'),
  'sonet-group/outdated/on-sonet-group-subject-',
)
const handlerEvents = basic(undefined, 'events/')
const hcmLinkDocuments = sign(about('hcmlinkdocument', 'id'), 'sign/events/on-sign-hcm-link-b2e-')
const invoices = crmBefore(fieldsId('invoice'), 'crm/outdated/invoice/events-invoice/on-crm-invoice-')
const invoiceUserFields = crmBefore(userField, 'crm/outdated/invoice/events-invoice/on-crm-invoice-user-field-')
const itemsOfOneType = crmBefore(item, 'crm/universal/events/')
const itemTypeUserFields = crm(userField, 'crm/universal/userfieldconfig/events/on-crm-type-user-field-')
const leadUserFields = crm(userField, 'crm/leads/userfield/events/on-crm-lead-user-field-')
const openLines = openLine(lineChat, 'imopenlines/openlines/events/on-')
const priceTypes = catalog(fieldsId('pricetype'), 'catalog/price-type/events/catalog-price-type-on-')
const productProperties = crmBefore(
  fieldsId('productproperty'),
  'crm/outdated/products/events-custom/on-crm-product-property-',
)
const products = crmBefore(fieldsId('product'), 'crm/outdated/products/events-custom/on-crm-product-')
const productSections = crmBefore(
  fieldsId('productsection'),
  'crm/outdated/product-section/events/on-crm-product-section-',
)
const quoteUserFields = crm(userField, 'crm/quote/user-field/events/on-crm-quote-user-field-')
const recurringDeals = crm(fieldsId('recurringdeal'), 'crm/deals/recurring-deals/events/on-crm-deal-recurring-')
const recurringInvoices = crmBefore(
  fieldsId('recurringinvoice'),
  'crm/outdated/invoice/events-invoice/on-crm-invoice-recurring-',
)
const requisiteUserFields = crm(userField, 'crm/requisites/events/on-crm-requisite-user-field-')
const roundings = catalog(fieldsId('rounding'), 'catalog/rounding-rule/events/catalog-rounding-on-')
const shopOrders = sale(fieldsId('order'), 'sale/events/on-sale-')
const signedDocuments = sign(about('signdocument', 'documentUid'), 'sign/events/on-sign-b2e-')
const taskComments = task(
  about('task', 'FIELDS_AFTER.TASK_ID', 'FIELDS_BEFORE.TASK_ID'),
  'tasks/comment-item/events-comment/on-task-comment-',
)
const tasks = task(about('task', 'FIELDS_AFTER.ID', 'FIELDS_BEFORE.ID'), 'tasks/events-tasks/on-task-')
const timelineActions = crmApplication(
  about('activity', 'activityId'),
  'crm/timeline/activities/configurable/structure/',
)
// The documentation says data[ID], but the portal sends data[FIELDS][ID] (crm/classes/general/restservice.php).
const timelineComments = crm(
  about('timelinecomment', 'FIELDS.ID', 'ID'),
  'crm/timeline/comments/events/on-Crm-Timeline-Comment-',
)

type Rows<Base extends string, F, S, Verb extends string> = {
  readonly [V in Verb as `${Base}${V}`]: readonly [family: F, shape: S, page: string]
}

/** Several events of a family that have one shape: by the ends of their names, the ends of their pages' addresses. */
const rows =
  <Verb extends string>(verbs: Readonly<Record<Verb, string>>) =>
  <Base extends string, F extends Family, S extends ShapeName>(base: Base, family: F, shape: S) =>
    Object.fromEntries(
      Object.entries(verbs).map(([verb, page]) => [base + verb, [family, shape, page]]),
    ) as unknown as Rows<Base, F, S, Verb>

const changes = rows({ ADD: 'add', DELETE: 'delete', UPDATE: 'update' })
const saves = rows({ DELETED: 'deleted', ENTITYSAVED: 'entity-saved' })
const userFieldChanges = rows({ ADD: 'add', DELETE: 'delete', SETENUMVALUES: 'set-enum-values', UPDATE: 'update' })

/**
 * Every documented event: its family, the shape of its `data`, and the rest of its page's address. docs/events.md lists
 * them one by one. The object is the unit of order, so a family's object rule must not change: a journal of several
 * years must keep its meaning.
 */
export const documented = {
  ...changes('ONBOOKING', booking(about('booking', 'ID'), 'booking/booking/events/on-booking-'), 'id'),
  ...changes('ONBOOKINGRESOURCE', bookingResources, 'id'),
  ...changes('ONBOOKINGRESOURCETYPE', bookingResourceTypes, 'id'),
  ...changes('ONBOOKINGWAITLISTITEM', bookingWaitListItems, 'id'),
  ...changes('ONCALENDARENTRY', calendarEntries, 'lowerCaseId'),
  ...changes('ONCALENDARSECTION', calendarSections, 'lowerCaseId'),
  ...changes('CATALOG.MEASURE.ON.', catalogMeasures, 'fieldsId'),
  ...changes('CATALOG.PRICE.TYPE.ON.', priceTypes, 'fieldsId'),
  ...changes('CATALOG.PRICE.ON.', catalog(fieldsId('price'), 'catalog/price/events/catalog-price-on-'), 'fieldsId'),
  ...changes('CATALOG.PRODUCT.ON.', catalogProducts, 'catalogProduct'),
  ...changes('CATALOG.ROUNDING.ON.', roundings, 'fieldsId'),
  ONIMBOTJOINCHAT: [botsBefore(botChat, 'chat-bots/outdated/chats/events/on-imbot-'), 'botJoin', 'join-chat'],
  ONIMCOMMANDADD: [botsBefore(botChat, 'chat-bots/outdated/commands/events/on-im-'), 'botCommand', 'command-add'],
  ONIMBOTDELETE: [botsBefore(about('bot', 'BOT_ID'), 'chat-bots/outdated/events/on-imbot-'), 'botDelete', 'delete'],
  ...changes('ONIMBOTMESSAGE', botMessages, 'botMessage'),
  ONAPPINSTALL: [applications, 'appInstall', 'install'],
  ONAPPMETHODCONFIRM: [applications, 'appMethodConfirm', 'method-confirm'],
  ONAPPPAYMENT: [applications, 'appPayment', 'payment'],
  ONAPPUNINSTALL: [applications, 'appUninstall', 'uninstall'],
  ONAPPUPDATE: [applications, 'appUpdate', 'update'],
  ONUSERADD: [user(about('user', 'ID'), 'common/events/on-user-'), 'newUser', 'add'],
  ...changes('ONCRMCOMPANY', crm(fieldsId('company'), 'crm/companies/events/on-crm-company-'), 'fieldsId'),
  ...userFieldChanges('ONCRMCOMPANYUSERFIELD', companyUserFields, 'userField'),
  ...changes('ONCRMCONTACT', crm(fieldsId('contact'), 'crm/contacts/events/on-crm-contact-'), 'fieldsId'),
  ...userFieldChanges('ONCRMCONTACTUSERFIELD', contactUserFields, 'userField'),
  ...changes('ONCRMCURRENCY', crm(fieldsId('currency'), 'crm/currency/events/on-crm-currency-'), 'fieldsId'),
  ...changes('ONCRMDEAL', crm(deal, 'crm/deals/events/on-crm-deal-'), 'fieldsId'),
  ONCRMDEALMOVETOCATEGORY: [crmApplication(deal, 'crm/deals/events/on-crm-deal-'), 'movedDeal', 'move-to-category'],
  ONCRMDEALRECURRINGADD: [recurringDeals, 'recurringDeal', 'add'],
  ONCRMDEALRECURRINGDELETE: [recurringDeals, 'fieldsId', 'delete'],
  ONCRMDEALRECURRINGEXPOSE: [recurringDeals, 'exposedDeal', 'expose'],
  ONCRMDEALRECURRINGUPDATE: [recurringDeals, 'recurringDeal', 'update'],
  ...userFieldChanges('ONCRMDEALUSERFIELD', dealUserFields, 'userField'),
  ...changes('ONCRMDOCUMENTGENERATORDOCUMENT', documents, 'crmDocument'),
  ...changes('ONCRMLEAD', crm(fieldsId('lead'), 'crm/leads/events/on-crm-lead-'), 'fieldsId'),
  ...userFieldChanges('ONCRMLEADUSERFIELD', leadUserFields, 'userField'),
  ...changes('ONCRMINVOICE', invoices, 'fieldsId'),
  ...changes('ONCRMINVOICERECURRING', recurringInvoices, 'fieldsId'),
  ONCRMINVOICERECURRINGEXPOSE: [recurringInvoices, 'fieldsId', 'expose'],
  ONCRMINVOICESETSTATUS: [invoices, 'fieldsId', 'set-status'],
  ...userFieldChanges('ONCRMINVOICEUSERFIELD', invoiceUserFields, 'invoiceUserField'),
  ...changes('ONCRMMEASURE', crmBefore(fieldsId('measure'), 'crm/outdated/measure/events/on-crm-measure-'), 'fieldsId'),
  ...changes('ONCRMPRODUCTSECTION', productSections, 'fieldsId'),
  ...changes('ONCRMPRODUCT', products, 'fieldsId'),
  ...changes('ONCRMPRODUCTPROPERTY', productProperties, 'fieldsId'),
  ...changes('ONCRMQUOTE', crm(fieldsId('quote'), 'crm/quote/events/on-crm-quote-'), 'fieldsId'),
  ...userFieldChanges('ONCRMQUOTEUSERFIELD', quoteUserFields, 'userField'),
  ONCRMADDRESSREGISTER: [addresses, 'crmAddress', 'register'],
  ONCRMADDRESSUNREGISTER: [addresses, 'crmAddress', 'unregister'],
  ...changes('ONCRMBANKDETAIL', crm(fieldsId('bankdetail'), 'crm/requisites/events/on-crm-bank-detail-'), 'fieldsId'),
  ...changes('ONCRMREQUISITE', crm(fieldsId('requisite'), 'crm/requisites/events/on-crm-requisite-'), 'fieldsId'),
  ...userFieldChanges('ONCRMREQUISITEUSERFIELD', requisiteUserFields, 'userField'),
  ...changes('ONCRMACTIVITY', crm(fieldsId('activity'), 'crm/timeline/activities/events/on-crm-activity-'), 'fieldsId'),
  ONCRMTIMELINECOMMENTADD: [timelineComments, 'fieldsId', 'Add'],
  ONCRMTIMELINECOMMENTDELETE: [timelineComments, 'fieldsId', 'Delete'],
  ONCRMTIMELINECOMMENTUPDATE: [timelineComments, 'fieldsId', 'Update'],
  ...changes('ONCRMDYNAMICITEM', crm(item, 'crm/universal/events/on-crm-dynamic-item-'), 'dynamicItem'),
  ...changes('ONCRMTYPE', crm(fieldsId('itemtype'), 'crm/universal/events/type/on-crm-type-'), 'fieldsId'),
  ...userFieldChanges('ONCRMTYPEUSERFIELD', itemTypeUserFields, 'userField'),
  ONOFFLINEEVENT: [handlerEvents, 'nothing', 'on-offline-event'],
  ONIMCONNECTORDIALOGFINISH: [connectorDialogs, 'connectorDialog', 'finish'],
  ONIMCONNECTORDIALOGSTART: [connectorDialogs, 'connectorDialog', 'start'],
  ONIMCONNECTORLINEDELETE: [connectorLines, 'text', 'line-delete'],
  ...changes('ONIMCONNECTORMESSAGE', connectorMessages, 'connectorMessage'),
  ONIMCONNECTORSTATUSDELETE: [connectorLines, 'connectorStatus', 'status-delete'],
  ONOPENLINEMESSAGEADD: [openLines, 'lineMessage', 'open-line-message-add'],
  ONOPENLINEMESSAGEDELETE: [openLines, 'lineMessageChange', 'open-line-message-delete'],
  ONOPENLINEMESSAGEUPDATE: [openLines, 'lineMessageChange', 'open-line-message-update'],
  ONSESSIONFINISH: [openLines, 'lineSession', 'session-finish'],
  ONSESSIONSTART: [openLines, 'lineSession', 'session-start'],
  ...changes('ONLIVEFEEDPOST', feed(about('post', 'FIELDS.POST_ID'), 'log/events/on-live-feed-post-'), 'feedPost'),
  ...saves('ONORDER', sale(fieldsId('order'), 'sale/events/on-order-'), 'fieldsId'),
  ...saves('ONPAYMENT', sale(fieldsId('payment'), 'sale/events/on-payment-'), 'fieldsId'),
  ...saves('ONPROPERTYVALUE', sale(fieldsId('propertyvalue'), 'sale/events/on-property-value-'), 'fieldsId'),
  ONSALEBEFOREORDERDELETE: [shopOrders, 'shopOrder', 'before-order-delete'],
  ONSALEORDERSAVED: [shopOrders, 'shopOrder', 'order-saved'],
  ...saves('ONSHIPMENT', sale(fieldsId('shipment'), 'sale/events/on-shipment-'), 'fieldsId'),
  ONSIGNB2EDOCUMENTSTATUSCHANGED: [signedDocuments, 'signDocument', 'document-status-changed'],
  ONSIGNB2EMEMBERSTATUSCHANGED: [signedDocuments, 'signMember', 'member-status-changed'],
  ONSIGNHCMLINKB2EDOCUMENTSIGNED: [hcmLinkDocuments, 'hcmLinkDocument', 'document-signed'],
  ...changes('ONSONETGROUP', sonet(fieldsId('group'), 'sonet-group/events/on-sonet-group-'), 'fieldsId'),
  ...changes('ONSONETGROUPSUBJECT', groupSubjects, 'id'),
  ...changes('ONTASKCOMMENT', taskComments, 'taskComment'),
  ...changes('ONTASK', tasks, 'task'),
  ONEXTERNALCALLBACKSTART: [telephony(undefined, 'telephony/events/on-external-call-back-'), 'callBack', 'start'],
  ONEXTERNALCALLSTART: [telephonyApplication(call, 'telephony/events/on-external-call-'), 'externalCall', 'start'],
  ONVOXIMPLANTCALLEND: [calls, 'callEnd', 'end'],
  ONVOXIMPLANTCALLINIT: [calls, 'callInit', 'init'],
  ONVOXIMPLANTCALLSTART: [calls, 'callStart', 'start'],
  ONIMBOTV2MESSAGEADD: [botV2Chats, 'botV2Message', 'messageadd'],
  ONIMBOTV2MESSAGEUPDATE: [botV2Chats, 'botV2Message', 'messageupdate'],
  ONIMBOTV2MESSAGEDELETE: [botV2Chats, 'botV2MessageDelete', 'messagedelete'],
  ONIMBOTV2JOINCHAT: [botV2Chats, 'botV2Join', 'joinchat'],
  ONIMBOTV2DELETE: [botV2Deletions, 'botV2Delete', 'delete'],
  ONIMBOTV2CONTEXTGET: [botV2Chats, 'botV2Context', 'contextget'],
  ONIMBOTV2COMMANDADD: [botV2Chats, 'botV2Command', 'commandadd'],
  ONIMBOTV2REACTIONCHANGE: [botV2Chats, 'botV2Reaction', 'reactionchange'],
  ONAPPTEST: [handlerEvents, 'appTest', 'test-handler'],
  ONCRMTIMELINEITEMACTION: [timelineActions, 'timelineAction', 'action#event'],
  'ONCRMDYNAMICITEMADD_{entityTypeId}': [itemsOfOneType, 'dynamicItem', 'index'],
  'ONCRMDYNAMICITEMUPDATE_{entityTypeId}': [itemsOfOneType, 'dynamicItem', 'index'],
  'ONCRMDYNAMICITEMDELETE_{entityTypeId}': [itemsOfOneType, 'dynamicItem', 'index'],
} as const satisfies Readonly<Record<string, readonly [Family, ShapeName, string]>>
