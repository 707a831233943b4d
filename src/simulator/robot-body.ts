import { httpBuildQuery, type PhpArray } from '../lib/php-query.ts'
import { addressOf, type Portal } from './webhook-body.ts'

export interface RobotPost {
  /** Module, class, id: `['crm', 'CCrmDocumentDeal', 'DEAL_662']`. */
  readonly document: readonly string[]
  readonly portal: Omit<Portal, 'token'>
  /** Set for a robot or action that an application has registered. Such a robot sends more fields, and a token. */
  readonly own?: OwnRobot
}

export interface OwnRobot {
  readonly code: string
  readonly properties: PhpArray
  /** `bizproc.event.send` needs it to continue the workflow. */
  readonly eventToken: string
  /** Unix seconds. */
  readonly ts: number
  readonly token: string
}

/** The documents with a class of their own (from the portal's source, CCrmBizProcHelper). */
const classes = new Map(
  ['Lead', 'Deal', 'Contact', 'Company'].map((name) => [name.toUpperCase(), `CCrmDocument${name}`]),
)

/** Returns the document of an id such as `DEAL_662` or `DYNAMIC_147_5`. A number alone is the id of a deal. */
export function documentOf(id: string | number): readonly string[] {
  const document = /^\d+$/.test(String(id)) ? `DEAL_${id}` : String(id)
  const type = document.slice(0, document.lastIndexOf('_'))
  return ['crm', classes.get(type) ?? 'Bitrix\\Crm\\Integration\\BizProc\\Document\\Dynamic', document]
}

/**
 * Returns the body that the robot "Outgoing webhook" posts; its parameters are in the URL. It has no
 * event, no time and no token (bizproc's CBPWebHookActivity and `getEventEmptyAuth` of the authorization
 * server). An application's own robot has them.
 */
export function robotBody({ document, portal, own }: RobotPost): string {
  const auth = addressOf(portal)
  if (own === undefined) return httpBuildQuery({ document_id: document, auth })
  const [workflow = ''] = own.eventToken.split('|')
  const [module = '', kind = '', id = ''] = document
  return httpBuildQuery({
    ...{ workflow_id: workflow, code: own.code, document_id: document },
    document_type: [module, kind, id.replace(/_\d+$/, '')],
    ...{ event_token: own.eventToken, properties: own.properties, use_subscription: 'Y', timeout_duration: 660 },
    ...{ ts: own.ts, auth: { ...auth, application_token: own.token } },
  })
}
