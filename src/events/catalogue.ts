import type { FormValue } from './form.ts'
import { about, type ObjectRule, readObject } from './object.ts'
import { type Check, checkOf, type Shape } from './shape.ts'
import { type ShapeName, shapes } from './shapes.ts'

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

const activities = crm(fieldsId('activity'), 'crm/timeline/activities/events/on-crm-activity-')
const addresses = crm(
  about('address', ['FIELDS.ENTITY_TYPE_ID', 'FIELDS.ENTITY_ID', 'FIELDS.TYPE_ID']),
  'crm/requisites/events/on-crm-address-',
)
const applications = basic(undefined, 'common/events/on-app-')
const bankDetails = crm(fieldsId('bankdetail'), 'crm/requisites/events/on-crm-bank-detail-')
const bookingResources = booking(about('bookingresource', 'ID'), 'booking/resource/events/on-booking-resource-')
const bookingResourceTypes = booking(
  about('bookingresourcetype', 'ID'),
  'booking/resource/resource-type/events/on-booking-resource-type-',
)
const bookings = booking(about('booking', 'ID'), 'booking/booking/events/on-booking-')
const bookingWaitListItems = booking(
  about('bookingwaitlistitem', 'ID'),
  'booking/waitlist/events/on-booking-waitlistitem-',
)
const botCommands = botsBefore(botChat, 'chat-bots/outdated/commands/events/on-im-')
const botDeletions = botsBefore(about('bot', 'BOT_ID'), 'chat-bots/outdated/events/on-imbot-')
const botJoins = botsBefore(botChat, 'chat-bots/outdated/chats/events/on-imbot-')
const botMessages = botsBefore(botChat, 'chat-bots/outdated/messages/events/on-imbot-message-')
const botV2Chats = bots(botV2Chat, 'chat-bots/chat-bots-v2/imbot.v2/events/events#onimbotv2')
const botV2Deletions = bots(about('bot', 'bot.id'), 'chat-bots/chat-bots-v2/imbot.v2/events/events#onimbotv2')
const calendarEntries = calendar(about('calendarentry', 'id'), 'calendar/calendar-event/events/on-calendar-entry-')
const calendarSections = calendar(about('calendarsection', 'id'), 'calendar/events/on-calendar-section-')
const callBacks = telephony(undefined, 'telephony/events/on-external-call-back-')
const calls = telephony(call, 'telephony/voximplant/events/on-voximplant-call-')
const catalogMeasures = catalog(fieldsId('measure'), 'catalog/measure/events/catalog-measure-on-')
const catalogProducts = catalog(fieldsId('product'), 'catalog/product/events/catalog-product-on-')
const companies = crm(fieldsId('company'), 'crm/companies/events/on-crm-company-')
const companyUserFields = crm(userField, 'crm/companies/userfields/events/on-crm-company-user-field-')
const connectorDialogs = connector(lineChat, 'imopenlines/imconnector/events/on-im-connector-dialog-')
const connectorLines = connector(line, 'imopenlines/imconnector/events/on-im-connector-')
const connectorMessages = connector(
  about('chat', 'MESSAGES.0.im.chat_id'),
  'imopenlines/imconnector/events/on-im-connector-message-',
)
const contacts = crm(fieldsId('contact'), 'crm/contacts/events/on-crm-contact-')
const contactUserFields = crm(userField, 'crm/contacts/userfield/events/on-crm-contact-user-field-')
const currencies = crm(fieldsId('currency'), 'crm/currency/events/on-crm-currency-')
const dealMoves = crmApplication(deal, 'crm/deals/events/on-crm-deal-')
const deals = crm(deal, 'crm/deals/events/on-crm-deal-')
const dealUserFields = crm(userField, 'crm/deals/user-defined-fields/events/on-crm-deal-user-field-')
const documents = crm(
  fieldsId('document'),
  'crm/document-generator/documents/events/on-crm-document-generator-document-',
)
const externalCalls = telephonyApplication(call, 'telephony/events/on-external-call-')
const groups = sonet(fieldsId('group'), 'sonet-group/events/on-sonet-group-')
const groupSubjects = sonetBefore(
  about('groupsubject', 'ID', 'FIELDS.ID'),
  'sonet-group/outdated/on-sonet-group-subject-',
)
const handlerEvents = basic(undefined, 'events/')
const hcmLinkDocuments = sign(about('hcmlinkdocument', 'id'), 'sign/events/on-sign-hcm-link-b2e-')
const invoices = crmBefore(fieldsId('invoice'), 'crm/outdated/invoice/events-invoice/on-crm-invoice-')
const invoiceUserFields = crmBefore(userField, 'crm/outdated/invoice/events-invoice/on-crm-invoice-user-field-')
const items = crm(item, 'crm/universal/events/on-crm-dynamic-item-')
const itemsOfOneType = crmBefore(item, 'crm/universal/events/')
const itemTypes = crm(fieldsId('itemtype'), 'crm/universal/events/type/on-crm-type-')
const itemTypeUserFields = crm(userField, 'crm/universal/userfieldconfig/events/on-crm-type-user-field-')
const leads = crm(fieldsId('lead'), 'crm/leads/events/on-crm-lead-')
const leadUserFields = crm(userField, 'crm/leads/userfield/events/on-crm-lead-user-field-')
const measures = crmBefore(fieldsId('measure'), 'crm/outdated/measure/events/on-crm-measure-')
const openLines = openLine(lineChat, 'imopenlines/openlines/events/on-')
const orders = sale(fieldsId('order'), 'sale/events/on-order-')
const payments = sale(fieldsId('payment'), 'sale/events/on-payment-')
const posts = feed(about('post', 'FIELDS.POST_ID'), 'log/events/on-live-feed-post-')
const prices = catalog(fieldsId('price'), 'catalog/price/events/catalog-price-on-')
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
const propertyValues = sale(fieldsId('propertyvalue'), 'sale/events/on-property-value-')
const quotes = crm(fieldsId('quote'), 'crm/quote/events/on-crm-quote-')
const quoteUserFields = crm(userField, 'crm/quote/user-field/events/on-crm-quote-user-field-')
const recurringDeals = crm(fieldsId('recurringdeal'), 'crm/deals/recurring-deals/events/on-crm-deal-recurring-')
const recurringInvoices = crmBefore(
  fieldsId('recurringinvoice'),
  'crm/outdated/invoice/events-invoice/on-crm-invoice-recurring-',
)
const requisites = crm(fieldsId('requisite'), 'crm/requisites/events/on-crm-requisite-')
const requisiteUserFields = crm(userField, 'crm/requisites/events/on-crm-requisite-user-field-')
const roundings = catalog(fieldsId('rounding'), 'catalog/rounding-rule/events/catalog-rounding-on-')
const shipments = sale(fieldsId('shipment'), 'sale/events/on-shipment-')
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
const users = user(about('user', 'ID'), 'common/events/on-user-')

/**
 * Every documented event: its family, the shape of its `data`, and the rest of its page's address. The object is the
 * unit of order, so a family's object rule must not change: a journal of several years must keep its meaning.
 */
const catalogue = {
  ONBOOKINGADD: [bookings, 'id', 'add'],
  ONBOOKINGDELETE: [bookings, 'id', 'delete'],
  ONBOOKINGUPDATE: [bookings, 'id', 'update'],
  ONBOOKINGRESOURCEADD: [bookingResources, 'id', 'add'],
  ONBOOKINGRESOURCEDELETE: [bookingResources, 'id', 'delete'],
  ONBOOKINGRESOURCEUPDATE: [bookingResources, 'id', 'update'],
  ONBOOKINGRESOURCETYPEADD: [bookingResourceTypes, 'id', 'add'],
  ONBOOKINGRESOURCETYPEDELETE: [bookingResourceTypes, 'id', 'delete'],
  ONBOOKINGRESOURCETYPEUPDATE: [bookingResourceTypes, 'id', 'update'],
  ONBOOKINGWAITLISTITEMADD: [bookingWaitListItems, 'id', 'add'],
  ONBOOKINGWAITLISTITEMDELETE: [bookingWaitListItems, 'id', 'delete'],
  ONBOOKINGWAITLISTITEMUPDATE: [bookingWaitListItems, 'id', 'update'],
  ONCALENDARENTRYADD: [calendarEntries, 'lowerCaseId', 'add'],
  ONCALENDARENTRYDELETE: [calendarEntries, 'lowerCaseId', 'delete'],
  ONCALENDARENTRYUPDATE: [calendarEntries, 'lowerCaseId', 'update'],
  ONCALENDARSECTIONADD: [calendarSections, 'lowerCaseId', 'add'],
  ONCALENDARSECTIONDELETE: [calendarSections, 'lowerCaseId', 'delete'],
  ONCALENDARSECTIONUPDATE: [calendarSections, 'lowerCaseId', 'update'],
  'CATALOG.MEASURE.ON.ADD': [catalogMeasures, 'fieldsId', 'add'],
  'CATALOG.MEASURE.ON.DELETE': [catalogMeasures, 'fieldsId', 'delete'],
  'CATALOG.MEASURE.ON.UPDATE': [catalogMeasures, 'fieldsId', 'update'],
  'CATALOG.PRICE.TYPE.ON.ADD': [priceTypes, 'fieldsId', 'add'],
  'CATALOG.PRICE.TYPE.ON.DELETE': [priceTypes, 'fieldsId', 'delete'],
  'CATALOG.PRICE.TYPE.ON.UPDATE': [priceTypes, 'fieldsId', 'update'],
  'CATALOG.PRICE.ON.ADD': [prices, 'fieldsId', 'add'],
  'CATALOG.PRICE.ON.DELETE': [prices, 'fieldsId', 'delete'],
  'CATALOG.PRICE.ON.UPDATE': [prices, 'fieldsId', 'update'],
  'CATALOG.PRODUCT.ON.ADD': [catalogProducts, 'catalogProduct', 'add'],
  'CATALOG.PRODUCT.ON.DELETE': [catalogProducts, 'catalogProduct', 'delete'],
  'CATALOG.PRODUCT.ON.UPDATE': [catalogProducts, 'catalogProduct', 'update'],
  'CATALOG.ROUNDING.ON.ADD': [roundings, 'fieldsId', 'add'],
  'CATALOG.ROUNDING.ON.DELETE': [roundings, 'fieldsId', 'delete'],
  'CATALOG.ROUNDING.ON.UPDATE': [roundings, 'fieldsId', 'update'],
  ONIMBOTJOINCHAT: [botJoins, 'botJoin', 'join-chat'],
  ONIMCOMMANDADD: [botCommands, 'botCommand', 'command-add'],
  ONIMBOTDELETE: [botDeletions, 'botDelete', 'delete'],
  ONIMBOTMESSAGEADD: [botMessages, 'botMessage', 'add'],
  ONIMBOTMESSAGEDELETE: [botMessages, 'botMessage', 'delete'],
  ONIMBOTMESSAGEUPDATE: [botMessages, 'botMessage', 'update'],
  ONAPPINSTALL: [applications, 'appInstall', 'install'],
  ONAPPMETHODCONFIRM: [applications, 'appMethodConfirm', 'method-confirm'],
  ONAPPPAYMENT: [applications, 'appPayment', 'payment'],
  ONAPPUNINSTALL: [applications, 'appUninstall', 'uninstall'],
  ONAPPUPDATE: [applications, 'appUpdate', 'update'],
  ONUSERADD: [users, 'newUser', 'add'],
  ONCRMCOMPANYADD: [companies, 'fieldsId', 'add'],
  ONCRMCOMPANYDELETE: [companies, 'fieldsId', 'delete'],
  ONCRMCOMPANYUPDATE: [companies, 'fieldsId', 'update'],
  ONCRMCOMPANYUSERFIELDADD: [companyUserFields, 'userField', 'add'],
  ONCRMCOMPANYUSERFIELDDELETE: [companyUserFields, 'userField', 'delete'],
  ONCRMCOMPANYUSERFIELDSETENUMVALUES: [companyUserFields, 'userField', 'set-enum-values'],
  ONCRMCOMPANYUSERFIELDUPDATE: [companyUserFields, 'userField', 'update'],
  ONCRMCONTACTADD: [contacts, 'fieldsId', 'add'],
  ONCRMCONTACTDELETE: [contacts, 'fieldsId', 'delete'],
  ONCRMCONTACTUPDATE: [contacts, 'fieldsId', 'update'],
  ONCRMCONTACTUSERFIELDADD: [contactUserFields, 'userField', 'add'],
  ONCRMCONTACTUSERFIELDDELETE: [contactUserFields, 'userField', 'delete'],
  ONCRMCONTACTUSERFIELDSETENUMVALUES: [contactUserFields, 'userField', 'set-enum-values'],
  ONCRMCONTACTUSERFIELDUPDATE: [contactUserFields, 'userField', 'update'],
  ONCRMCURRENCYADD: [currencies, 'fieldsId', 'add'],
  ONCRMCURRENCYDELETE: [currencies, 'fieldsId', 'delete'],
  ONCRMCURRENCYUPDATE: [currencies, 'fieldsId', 'update'],
  ONCRMDEALADD: [deals, 'fieldsId', 'add'],
  ONCRMDEALDELETE: [deals, 'fieldsId', 'delete'],
  ONCRMDEALMOVETOCATEGORY: [dealMoves, 'movedDeal', 'move-to-category'],
  ONCRMDEALUPDATE: [deals, 'fieldsId', 'update'],
  ONCRMDEALRECURRINGADD: [recurringDeals, 'recurringDeal', 'add'],
  ONCRMDEALRECURRINGDELETE: [recurringDeals, 'fieldsId', 'delete'],
  ONCRMDEALRECURRINGEXPOSE: [recurringDeals, 'exposedDeal', 'expose'],
  ONCRMDEALRECURRINGUPDATE: [recurringDeals, 'recurringDeal', 'update'],
  ONCRMDEALUSERFIELDADD: [dealUserFields, 'userField', 'add'],
  ONCRMDEALUSERFIELDDELETE: [dealUserFields, 'userField', 'delete'],
  ONCRMDEALUSERFIELDSETENUMVALUES: [dealUserFields, 'userField', 'set-enum-values'],
  ONCRMDEALUSERFIELDUPDATE: [dealUserFields, 'userField', 'update'],
  ONCRMDOCUMENTGENERATORDOCUMENTADD: [documents, 'crmDocument', 'add'],
  ONCRMDOCUMENTGENERATORDOCUMENTDELETE: [documents, 'crmDocument', 'delete'],
  ONCRMDOCUMENTGENERATORDOCUMENTUPDATE: [documents, 'crmDocument', 'update'],
  ONCRMLEADADD: [leads, 'fieldsId', 'add'],
  ONCRMLEADDELETE: [leads, 'fieldsId', 'delete'],
  ONCRMLEADUPDATE: [leads, 'fieldsId', 'update'],
  ONCRMLEADUSERFIELDADD: [leadUserFields, 'userField', 'add'],
  ONCRMLEADUSERFIELDDELETE: [leadUserFields, 'userField', 'delete'],
  ONCRMLEADUSERFIELDSETENUMVALUES: [leadUserFields, 'userField', 'set-enum-values'],
  ONCRMLEADUSERFIELDUPDATE: [leadUserFields, 'userField', 'update'],
  ONCRMINVOICEADD: [invoices, 'fieldsId', 'add'],
  ONCRMINVOICEDELETE: [invoices, 'fieldsId', 'delete'],
  ONCRMINVOICERECURRINGADD: [recurringInvoices, 'fieldsId', 'add'],
  ONCRMINVOICERECURRINGDELETE: [recurringInvoices, 'fieldsId', 'delete'],
  ONCRMINVOICERECURRINGEXPOSE: [recurringInvoices, 'fieldsId', 'expose'],
  ONCRMINVOICERECURRINGUPDATE: [recurringInvoices, 'fieldsId', 'update'],
  ONCRMINVOICESETSTATUS: [invoices, 'fieldsId', 'set-status'],
  ONCRMINVOICEUPDATE: [invoices, 'fieldsId', 'update'],
  ONCRMINVOICEUSERFIELDADD: [invoiceUserFields, 'invoiceUserField', 'add'],
  ONCRMINVOICEUSERFIELDDELETE: [invoiceUserFields, 'invoiceUserField', 'delete'],
  ONCRMINVOICEUSERFIELDSETENUMVALUES: [invoiceUserFields, 'invoiceUserField', 'set-enum-values'],
  ONCRMINVOICEUSERFIELDUPDATE: [invoiceUserFields, 'invoiceUserField', 'update'],
  ONCRMMEASUREADD: [measures, 'fieldsId', 'add'],
  ONCRMMEASUREDELETE: [measures, 'fieldsId', 'delete'],
  ONCRMMEASUREUPDATE: [measures, 'fieldsId', 'update'],
  ONCRMPRODUCTSECTIONADD: [productSections, 'fieldsId', 'add'],
  ONCRMPRODUCTSECTIONDELETE: [productSections, 'fieldsId', 'delete'],
  ONCRMPRODUCTSECTIONUPDATE: [productSections, 'fieldsId', 'update'],
  ONCRMPRODUCTADD: [products, 'fieldsId', 'add'],
  ONCRMPRODUCTDELETE: [products, 'fieldsId', 'delete'],
  ONCRMPRODUCTPROPERTYADD: [productProperties, 'fieldsId', 'add'],
  ONCRMPRODUCTPROPERTYDELETE: [productProperties, 'fieldsId', 'delete'],
  ONCRMPRODUCTPROPERTYUPDATE: [productProperties, 'fieldsId', 'update'],
  ONCRMPRODUCTUPDATE: [products, 'fieldsId', 'update'],
  ONCRMQUOTEADD: [quotes, 'fieldsId', 'add'],
  ONCRMQUOTEDELETE: [quotes, 'fieldsId', 'delete'],
  ONCRMQUOTEUPDATE: [quotes, 'fieldsId', 'update'],
  ONCRMQUOTEUSERFIELDADD: [quoteUserFields, 'userField', 'add'],
  ONCRMQUOTEUSERFIELDDELETE: [quoteUserFields, 'userField', 'delete'],
  ONCRMQUOTEUSERFIELDSETENUMVALUES: [quoteUserFields, 'userField', 'set-enum-values'],
  ONCRMQUOTEUSERFIELDUPDATE: [quoteUserFields, 'userField', 'update'],
  ONCRMADDRESSREGISTER: [addresses, 'crmAddress', 'register'],
  ONCRMADDRESSUNREGISTER: [addresses, 'crmAddress', 'unregister'],
  ONCRMBANKDETAILADD: [bankDetails, 'fieldsId', 'add'],
  ONCRMBANKDETAILDELETE: [bankDetails, 'fieldsId', 'delete'],
  ONCRMBANKDETAILUPDATE: [bankDetails, 'fieldsId', 'update'],
  ONCRMREQUISITEADD: [requisites, 'fieldsId', 'add'],
  ONCRMREQUISITEDELETE: [requisites, 'fieldsId', 'delete'],
  ONCRMREQUISITEUPDATE: [requisites, 'fieldsId', 'update'],
  ONCRMREQUISITEUSERFIELDADD: [requisiteUserFields, 'userField', 'add'],
  ONCRMREQUISITEUSERFIELDDELETE: [requisiteUserFields, 'userField', 'delete'],
  ONCRMREQUISITEUSERFIELDSETENUMVALUES: [requisiteUserFields, 'userField', 'set-enum-values'],
  ONCRMREQUISITEUSERFIELDUPDATE: [requisiteUserFields, 'userField', 'update'],
  ONCRMACTIVITYADD: [activities, 'fieldsId', 'add'],
  ONCRMACTIVITYDELETE: [activities, 'fieldsId', 'delete'],
  ONCRMACTIVITYUPDATE: [activities, 'fieldsId', 'update'],
  ONCRMTIMELINECOMMENTADD: [timelineComments, 'fieldsId', 'Add'],
  ONCRMTIMELINECOMMENTDELETE: [timelineComments, 'fieldsId', 'Delete'],
  ONCRMTIMELINECOMMENTUPDATE: [timelineComments, 'fieldsId', 'Update'],
  ONCRMDYNAMICITEMADD: [items, 'dynamicItem', 'add'],
  ONCRMDYNAMICITEMDELETE: [items, 'dynamicItem', 'delete'],
  ONCRMDYNAMICITEMUPDATE: [items, 'dynamicItem', 'update'],
  ONCRMTYPEADD: [itemTypes, 'fieldsId', 'add'],
  ONCRMTYPEDELETE: [itemTypes, 'fieldsId', 'delete'],
  ONCRMTYPEUPDATE: [itemTypes, 'fieldsId', 'update'],
  ONCRMTYPEUSERFIELDADD: [itemTypeUserFields, 'userField', 'add'],
  ONCRMTYPEUSERFIELDDELETE: [itemTypeUserFields, 'userField', 'delete'],
  ONCRMTYPEUSERFIELDSETENUMVALUES: [itemTypeUserFields, 'userField', 'set-enum-values'],
  ONCRMTYPEUSERFIELDUPDATE: [itemTypeUserFields, 'userField', 'update'],
  ONOFFLINEEVENT: [handlerEvents, 'nothing', 'on-offline-event'],
  ONIMCONNECTORDIALOGFINISH: [connectorDialogs, 'connectorDialog', 'finish'],
  ONIMCONNECTORDIALOGSTART: [connectorDialogs, 'connectorDialog', 'start'],
  ONIMCONNECTORLINEDELETE: [connectorLines, 'text', 'line-delete'],
  ONIMCONNECTORMESSAGEADD: [connectorMessages, 'connectorMessage', 'add'],
  ONIMCONNECTORMESSAGEDELETE: [connectorMessages, 'connectorMessage', 'delete'],
  ONIMCONNECTORMESSAGEUPDATE: [connectorMessages, 'connectorMessage', 'update'],
  ONIMCONNECTORSTATUSDELETE: [connectorLines, 'connectorStatus', 'status-delete'],
  ONOPENLINEMESSAGEADD: [openLines, 'lineMessage', 'open-line-message-add'],
  ONOPENLINEMESSAGEDELETE: [openLines, 'lineMessageChange', 'open-line-message-delete'],
  ONOPENLINEMESSAGEUPDATE: [openLines, 'lineMessageChange', 'open-line-message-update'],
  ONSESSIONFINISH: [openLines, 'lineSession', 'session-finish'],
  ONSESSIONSTART: [openLines, 'lineSession', 'session-start'],
  ONLIVEFEEDPOSTADD: [posts, 'feedPost', 'add'],
  ONLIVEFEEDPOSTDELETE: [posts, 'feedPost', 'delete'],
  ONLIVEFEEDPOSTUPDATE: [posts, 'feedPost', 'update'],
  ONORDERDELETED: [orders, 'fieldsId', 'deleted'],
  ONORDERENTITYSAVED: [orders, 'fieldsId', 'entity-saved'],
  ONPAYMENTDELETED: [payments, 'fieldsId', 'deleted'],
  ONPAYMENTENTITYSAVED: [payments, 'fieldsId', 'entity-saved'],
  ONPROPERTYVALUEDELETED: [propertyValues, 'fieldsId', 'deleted'],
  ONPROPERTYVALUEENTITYSAVED: [propertyValues, 'fieldsId', 'entity-saved'],
  ONSALEBEFOREORDERDELETE: [shopOrders, 'shopOrder', 'before-order-delete'],
  ONSALEORDERSAVED: [shopOrders, 'shopOrder', 'order-saved'],
  ONSHIPMENTDELETED: [shipments, 'fieldsId', 'deleted'],
  ONSHIPMENTENTITYSAVED: [shipments, 'fieldsId', 'entity-saved'],
  ONSIGNB2EDOCUMENTSTATUSCHANGED: [signedDocuments, 'signDocument', 'document-status-changed'],
  ONSIGNB2EMEMBERSTATUSCHANGED: [signedDocuments, 'signMember', 'member-status-changed'],
  ONSIGNHCMLINKB2EDOCUMENTSIGNED: [hcmLinkDocuments, 'hcmLinkDocument', 'document-signed'],
  ONSONETGROUPADD: [groups, 'fieldsId', 'add'],
  ONSONETGROUPDELETE: [groups, 'fieldsId', 'delete'],
  ONSONETGROUPUPDATE: [groups, 'fieldsId', 'update'],
  ONSONETGROUPSUBJECTADD: [groupSubjects, 'id', 'add'],
  ONSONETGROUPSUBJECTDELETE: [groupSubjects, 'id', 'delete'],
  ONSONETGROUPSUBJECTUPDATE: [groupSubjects, 'id', 'update'],
  ONTASKCOMMENTADD: [taskComments, 'taskComment', 'add'],
  ONTASKCOMMENTDELETE: [taskComments, 'taskComment', 'delete'],
  ONTASKCOMMENTUPDATE: [taskComments, 'taskComment', 'update'],
  ONTASKADD: [tasks, 'task', 'add'],
  ONTASKDELETE: [tasks, 'task', 'delete'],
  ONTASKUPDATE: [tasks, 'task', 'update'],
  ONEXTERNALCALLBACKSTART: [callBacks, 'callBack', 'start'],
  ONEXTERNALCALLSTART: [externalCalls, 'externalCall', 'start'],
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

export type Catalogue = typeof catalogue

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

export const entries: readonly Entry[] = Object.entries(catalogue).map(([name, [family, shapeName, rest]]) => {
  const [path, anchor] = `${family.pages}${rest}`.split('#')
  const page = `https://apidocs.bitrix24.com/api-reference/${path}.html${anchor === undefined ? '' : `#${anchor}`}`
  const { scope, webhook, object } = family
  const shape = shapes[shapeName]
  return { name, scope, webhook, object, shapeName, shape, hasShape: checkOf(shape), page }
})

// Maps, because names come from the wire: `catalogue['constructor']` would find a value.
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

/** Returns the kind of the event's object, and the place of its id in `data`. `event` is upper case. */
export function objectRuleOf(event: string): ObjectRule | undefined {
  return entryOf(event)?.object
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
] satisfies (keyof typeof catalogue)[])

const deletions: ReadonlySet<string> = new Set(
  documentedEvents.filter((event) => /(DELETED?|UNREGISTER)$/.test(event) && !spared.has(event)),
)

/** Returns whether the event says that its object was deleted. `event` is upper case. */
export function isDeletion(event: string): boolean {
  return deletions.has(entryOf(event)?.name.split('_{')[0] ?? event)
}
