import { httpBuildQuery } from '../http-build-query.ts'
import { addressOf, type Portal } from './webhook-body.ts'

export interface RobotPost {
  /** Module, class, id: `['crm', 'CCrmDocumentDeal', 'DEAL_662']`. */
  readonly document: readonly string[]
  readonly portal: Omit<Portal, 'token'>
}

/**
 * The body of what the robot "Outgoing webhook" posts; its parameters are in the URL. It has no event, no time and no
 * token (bizproc's CBPWebHookActivity and `getEventEmptyAuth` of the authorization server).
 */
export function robotBody({ document, portal }: RobotPost): string {
  return httpBuildQuery({ document_id: document, auth: addressOf(portal) })
}
