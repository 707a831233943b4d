import type { Shape } from './shape.ts'

// Bots' credentials, including those inside `data`, are secrets and do not reach the journal.
const bot = { BOT_ID: 'text', BOT_CODE: 'text', '*': 'anything' } as const satisfies Shape
const botUser = { ID: 'text', '*': 'anything' } as const satisfies Shape

const botV2 = { id: 'text', '*': 'anything' } as const satisfies Shape
const messageV2 = { id: 'text', 'chatId?': 'text', 'authorId?': 'text', 'text?': 'text', '*': 'anything' } as const
const scene = {
  chat: { id: 'text', 'dialogId?': 'text', 'type?': 'text', '*': 'anything' },
  'user?': { id: 'text', 'name?': 'text', '*': 'anything' },
  'language?': 'text',
} as const satisfies Shape

const withId = { id: 'text' } as const satisfies Shape
const innerMessage = { chat_id: 'text', message_id: 'text' } as const satisfies Shape
const lineConnector = { connector_id: 'text', line_id: 'text', 'chat_id?': 'text', 'user_id?': 'text' } as const
const lineSession = { id: 'text', 'closed?': 'text', 'parent_id?': 'text', 'close_term?': 'text' } as const
const session = { connector: lineConnector, session: lineSession, chat: withId, 'user?': withId } as const

/**
 * The shapes of `data`, by the names that the catalogue uses. A field that the portal may leave null is optional; an
 * id never is. If the documentation and the portal's source (module paths below) disagree, the source counts.
 */
export const shapes = {
  /** The event only says that something happened. */
  nothing: 'nothing',
  /** `data` is one text. */
  text: 'text',

  id: { ID: 'text' },
  lowerCaseId: { id: 'text' },
  fieldsId: { FIELDS: { ID: 'text' } },

  crmAddress: {
    FIELDS: {
      TYPE_ID: 'text',
      ENTITY_TYPE_ID: 'text',
      ENTITY_ID: 'text',
      'ANCHOR_ID?': 'text',
      'ANCHOR_TYPE_ID?': 'text',
    },
  },
  crmDocument: { FIELDS: { ID: 'text', 'ENTITY_TYPE_ID?': 'text', 'ENTITY_ID?': 'text' } },
  dynamicItem: { FIELDS: { ID: 'text', ENTITY_TYPE_ID: 'text' } },
  movedDeal: { FIELDS: { ID: 'text', CATEGORY_ID: 'text', STAGE_ID: 'text' } },
  recurringDeal: { FIELDS: { ID: 'text', 'RECURRING_DEAL_ID?': 'text' } },
  exposedDeal: { FIELDS: { ID: 'text', 'RECURRING_DEAL_ID?': 'text', 'DEAL_ID?': 'text' } },
  userField: { FIELDS: { ID: 'text', ENTITY_ID: 'text', FIELD_NAME: 'text' } },
  invoiceUserField: { id: 'text', entityId: 'text', fieldName: 'text' },
  timelineAction: {
    id: 'text',
    entityTypeId: 'text',
    entityId: 'text',
    activityId: 'text',
    userId: 'text',
    // The action's own parameters.
    '*': 'anything',
  },

  catalogProduct: { FIELDS: { ID: 'text', TYPE: 'text' } },
  shopOrder: { FIELDS: { ID: 'text', 'XML_ID?': 'text', ACTION: 'text' } },
  feedPost: { FIELDS: { POST_ID: 'text' } },

  /** A missing earlier or later state is the word `undefined` (tasks/classes/general/taskitem.php). */
  task: {
    FIELDS_BEFORE: ['undefined', { ID: 'text' }],
    FIELDS_AFTER: ['undefined', { ID: 'text' }],
    IS_ACCESSIBLE_BEFORE: 'text',
    IS_ACCESSIBLE_AFTER: 'text',
  },
  /** `ID` is 0 if comments are messages of a chat: `MESSAGE_ID` (tasks/classes/general/commentitem.php). */
  taskComment: {
    FIELDS_BEFORE: ['undefined', { ID: 'text', TASK_ID: 'text', 'MESSAGE_ID?': 'text' }],
    FIELDS_AFTER: ['undefined', { ID: 'text', TASK_ID: 'text', 'MESSAGE_ID?': 'text', 'ACTION?': 'text' }],
    IS_ACCESSIBLE_BEFORE: 'text',
    IS_ACCESSIBLE_AFTER: 'text',
  },

  callBack: {
    PHONE_NUMBER: 'text',
    'TEXT?': 'text',
    'VOICE?': 'text',
    'CRM_ENTITY_TYPE?': 'text',
    'CRM_ENTITY_ID?': 'text',
    'LINE_NUMBER?': 'text',
  },
  externalCall: {
    PHONE_NUMBER: 'text',
    'PHONE_NUMBER_INTERNATIONAL?': 'text',
    'EXTENSION?': 'text',
    USER_ID: 'text',
    'CALL_LIST_ID?': 'text',
    'LINE_NUMBER?': 'text',
    'IS_MOBILE?': 'text',
    CALL_ID: 'text',
    'CRM_ENTITY_TYPE?': 'text',
    'CRM_ENTITY_ID?': 'text',
  },
  /** A call that was registered by REST has only some of the keys (voximplant/lib/rest/helper.php). */
  callInit: {
    CALL_ID: 'text',
    CALL_TYPE: 'text',
    'ACCOUNT_SEARCH_ID?': 'text',
    'PHONE_NUMBER?': 'text',
    'CALLER_ID?': 'text',
    'REST_APP_ID?': 'text',
  },
  callStart: { CALL_ID: 'text', 'USER_ID?': 'text' },
  callEnd: {
    CALL_ID: 'text',
    CALL_TYPE: 'text',
    'PHONE_NUMBER?': 'text',
    'PORTAL_NUMBER?': 'text',
    'PORTAL_USER_ID?': 'text',
    'CALL_DURATION?': 'text',
    'CALL_START_DATE?': 'text',
    'COST?': 'text',
    'COST_CURRENCY?': 'text',
    'CALL_FAILED_CODE?': 'text',
    'CALL_FAILED_REASON?': 'text',
    'CRM_ACTIVITY_ID?': 'text',
  },

  newUser: {
    ID: 'text',
    'ACTIVE?': 'text',
    'EMAIL?': 'text',
    'NAME?': 'text',
    'LAST_NAME?': 'text',
    'UF_DEPARTMENT?': { '[]': 'text' },
    '*': 'anything',
  },

  appInstall: { VERSION: 'text', ACTIVE: 'text', INSTALLED: 'text', LANGUAGE_ID: 'text' },
  /** Its `TOKEN` is a secret, and does not reach the journal. */
  appMethodConfirm: { METHOD: 'text', 'CONFIRMED?': 'text', 'LANGUAGE_ID?': 'text' },
  appPayment: {
    CODE: 'text',
    VERSION: 'text',
    STATUS: 'text',
    'PAYMENT_EXPIRED?': 'text',
    'DAYS?': 'text',
    'LANGUAGE_ID?': 'text',
  },
  appTest: { 'QUERY?': 'anything', LANGUAGE_ID: 'text' },
  appUninstall: { LANGUAGE_ID: 'text', CLEAN: 'text' },
  appUpdate: { VERSION: 'text', PREVIOUS_VERSION: 'text', LANGUAGE_ID: 'text' },

  /** `BOT` and `COMMAND` are keyed by ids. */
  botCommand: {
    COMMAND: { '*': { COMMAND: 'text', COMMAND_ID: 'text', 'COMMAND_PARAMS?': 'text', ...bot } },
    PARAMS: { 'MESSAGE?': 'text', DIALOG_ID: 'text', 'TO_CHAT_ID?': 'text', '*': 'anything' },
    'USER?': botUser,
  },
  botDelete: { BOT_ID: 'text', BOT_CODE: 'text' },
  botJoin: {
    BOT: { '*': bot },
    PARAMS: { 'CHAT_ID?': 'text', DIALOG_ID: 'text', '*': 'anything' },
    'USER?': botUser,
  },
  botMessage: {
    BOT: { '*': bot },
    PARAMS: {
      'MESSAGE?': 'text',
      DIALOG_ID: 'text',
      'TO_CHAT_ID?': 'text',
      'CHAT_ID?': 'text',
      MESSAGE_ID: 'text',
      '*': 'anything',
    },
    'USER?': botUser,
  },

  botV2Command: {
    bot: botV2,
    command: { id: 'text', command: 'text', 'params?': 'text', 'context?': 'text', '*': 'anything' },
    message: messageV2,
    ...scene,
  },
  botV2Context: { bot: botV2, dialogId: 'text', 'context?': 'anything', ...scene },
  botV2Delete: { bot: botV2 },
  botV2Join: { bot: botV2, dialogId: 'text', ...scene },
  botV2Message: { bot: botV2, message: messageV2, ...scene },
  botV2MessageDelete: { bot: botV2, messageId: 'text', ...scene },
  botV2Reaction: { bot: botV2, reaction: 'text', action: 'text', message: messageV2, ...scene },

  connectorDialog: { CONNECTOR: 'text', LINE: 'text', DATA: { '[]': session } },
  /** Whether the inner `message.id` is a single id or a list depends on the event and on the connector. */
  connectorMessage: {
    CONNECTOR: 'text',
    LINE: 'text',
    MESSAGES: {
      '[]': {
        im: innerMessage,
        message: { 'id?': 'anything', 'user_id?': 'text', 'text?': 'text', '*': 'anything' },
        chat: withId,
      },
    },
  },
  connectorStatus: { connector: 'text', line: 'text' },
  lineMessage: {
    DATA: {
      '[]': {
        connector: lineConnector,
        chat: withId,
        message: { id: 'text', 'date?': 'text', 'text?': 'text', 'user_id?': 'text', '*': 'anything' },
        'ref?': 'anything',
        'extra?': { 'EXTRA_URL?': 'text', '*': 'anything' },
      },
    },
  },
  lineMessageChange: {
    CONNECTOR: 'text',
    LINE: 'text',
    DATA: { '[]': { im: innerMessage, message: { 'id?': 'anything', '*': 'anything' }, chat: withId } },
  },
  lineSession: { DATA: { '[]': session } },

  hcmLinkDocument: { id: 'text', 'company?': 'text' },
  signDocument: { documentUid: 'text', 'companyUid?': 'text', statusCode: 'text', 'statusName?': 'text' },
  signMember: {
    memberUid: 'text',
    documentUid: 'text',
    'companyUid?': 'text',
    statusCode: 'text',
    'statusName?': 'text',
  },
} as const satisfies Readonly<Record<string, Shape>>

export type ShapeName = keyof typeof shapes
